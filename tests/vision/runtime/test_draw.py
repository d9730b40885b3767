"""What is drawn: boxes at their place, labels inside the image, colours that differ and stay readable."""

from __future__ import annotations

import numpy as np
import pytest

from handeye.vision.runtime import draw
from handeye.vision.runtime.detections import Detections
from handeye.vision.runtime.draw import class_colour, draw_attention, draw_box, draw_detections, text_colour

NAMES = tuple(f"class {number}" for number in range(80))


def detections(*boxes: tuple[float, float, float, float]) -> Detections:
    number = len(boxes)
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.linspace(0.9, 0.5, number, dtype=np.float32),
        np.arange(number, dtype=np.int64),
        NAMES,
    )


def test_the_frame_of_a_box_has_its_colour_and_its_inside_is_untouched():
    image = np.full((200, 300, 3), 30, np.uint8)
    drawn = draw_detections(image, detections((100, 80, 200, 160)))
    for x, y in ((100, 120), (199, 120), (150, 80), (150, 159)):
        near = drawn[y - 2 : y + 3, x - 2 : x + 3].reshape(-1, 3)
        assert (np.abs(near.astype(int) - class_colour(0)).max(axis=1) < 30).any(), (x, y)
    np.testing.assert_array_equal(drawn[90:150, 110:190], image[90:150, 110:190])
    assert (image == 30).all(), "the original must not be drawn on"


def test_no_detection_draws_nothing():
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    drawn = draw_detections(image, Detections.empty(NAMES))
    np.testing.assert_array_equal(drawn, image)
    assert drawn is not image


@pytest.mark.parametrize("box", [(0, 0, 30, 30), (270, 0, 300, 20), (0, 190, 40, 200), (-20, -20, 400, 300)])
def test_labels_stay_inside_the_image(box):
    image = np.full((200, 300, 3), 30, np.uint8)
    drawn = draw_detections(image, detections(box))
    tag = np.abs(drawn.astype(int) - class_colour(0)).max(axis=2) < 8
    assert tag.sum() > 400, "the filled tag is visible whatever the place of the box"


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 500, 3), (2000, 10, 3)])
def test_odd_image_sizes_are_drawn_on(shape):
    assert draw_detections(np.zeros(shape, np.uint8), detections((0, 0, 5, 5))).shape == shape


def test_neighbouring_classes_differ_clearly_and_all_80_differ():
    colours = np.array([class_colour(number) for number in range(80)], int)
    assert len({tuple(colour) for colour in colours.tolist()}) == 80
    assert np.abs(np.diff(colours, axis=0)).max(axis=1).min() > 80


def test_labels_have_the_contrast_that_wcag_asks_for():
    for number in range(80):
        background = class_colour(number)
        ratio = contrast(background, text_colour(background))
        assert ratio >= 4.5
        assert ratio >= contrast(background, (255, 255, 255)) - 1e-9


def contrast(one: tuple[int, int, int], other: tuple[int, int, int]) -> float:
    """WCAG 2.2, relative luminance and contrast ratio."""

    def luminance(colour: tuple[int, int, int]) -> float:
        share = np.array(colour) / 255
        linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    dark, bright = sorted([luminance(one), luminance(other)])
    return (bright + 0.05) / (dark + 0.05)


def test_attention_is_coloured_by_who_looked_and_grey_elsewhere():
    image = np.full((40, 60, 3), 100, np.uint8)
    boxes = np.array([[2, 2, 10, 10], [40, 20, 50, 30]], np.float32)
    found = Detections(boxes, np.array([0.9, 0.8], np.float32), np.zeros(2, np.int64), ("cube",))
    maps = np.zeros((2, 40, 60), np.float32)
    maps[0, 30:, :20], maps[1, 35:, :30] = 1.0, 0.5
    drawn = draw_attention(image, found, maps)
    assert drawn[39, 59].tolist() == [50, 50, 50]
    first, second = (np.array(class_colour(number)) for number in (0, 1))
    np.testing.assert_allclose(drawn[38, 5], 50 + (first + second / 2) / 1.5 / 2, atol=1)
    np.testing.assert_allclose(drawn[38, 25], 25 + (50 + second / 2) / 2, atol=1)
    np.testing.assert_allclose(drawn[32, 5], 50 + first / 2, atol=1)
    assert (image == 100).all()
    nothing = draw_attention(image, found[:0], maps[:0])
    assert (nothing == 50).all()


def drawn_label(label: str) -> np.ndarray:
    image = np.full((80, 400, 3), 30, np.uint8)
    draw_box(image, np.array([10.0, 50.0, 390.0, 75.0]), label, (200, 40, 40), 2)
    return image[:45]


def test_names_beyond_ascii_are_drawn_in_their_letters_or_as_code_points(monkeypatch: pytest.MonkeyPatch):
    """Never as question marks, in which all names of one length look alike."""
    unknown = "\U0010fffe"  # no font has it
    np.testing.assert_array_equal(drawn_label(f"a{unknown}"), drawn_label("a\\U0010fffe"))
    if draw._font_with("кошбс", 18) is None:
        pytest.skip("Pillow finds no font with Cyrillic letters here")
    labels = ("кошка", "собак", "?????", "\\u043a\\u043e\\u0448\\u043a\\u0430")
    images = [drawn_label(label) for label in labels]
    for first in range(len(images)):
        for second in range(first):
            assert (images[first] != images[second]).any(), (labels[first], labels[second])
    monkeypatch.setattr(draw, "FONT_FILES", ())
    draw._font_with.cache_clear()
    np.testing.assert_array_equal(drawn_label("кошка"), drawn_label(labels[-1]))
    draw._font_with.cache_clear()
