"""Mosaic and mixup: every object of the four images is where its box is, and images never cover each other."""

from __future__ import annotations

import numpy as np
import pytest

from handeye.vision.data.annotations import LabelledBoxes
from handeye.vision.data.mosaic import MixupConfig, MosaicConfig, mixup, mosaic
from handeye.vision.data.transforms import AffineConfig, LabelledImage
from handeye.vision.images import Preprocessing

STILL = AffineConfig(degrees=0, shear_degrees=0, scale=(1.0, 1.0), translate=0)
TURNED = AffineConfig(degrees=20, shear_degrees=5, scale=(0.5, 1.0), translate=0.1)
PREPROCESSING = Preprocessing(size_hw=(120, 160), pad_value=7)


SIZES_HW = [(90, 120), (120, 90), (100, 100), (60, 150)]


def marked_image(level: int, size_hw: tuple[int, int], mark: int) -> LabelledImage:
    """An image of one level with a square of another; its class is the level, its box the square."""
    image = np.full((*size_hw, 3), level, np.uint8)
    image[20:50, 30:60] = mark
    return LabelledImage(
        image, LabelledBoxes(np.array([[30, 20, 60, 50]], np.float32), np.array([level], np.int64), np.zeros(1, bool))
    )


def one_marked_of_four(marked: int) -> list[LabelledImage]:
    """Four dark images, of which one has a white square."""
    return [marked_image(number, size, 255 if number == marked else 0) for number, size in enumerate(SIZES_HW)]


@pytest.mark.parametrize("affine", [STILL, TURNED], ids=["still", "turned"])
@pytest.mark.parametrize("seed", range(8))
def test_each_square_lies_in_its_box(affine, seed):
    for marked in range(4):
        config = MosaicConfig(affine=affine)
        picture = mosaic(one_marked_of_four(marked), config, PREPROCESSING, np.random.default_rng(seed))
        assert picture.image_rgb.shape == (120, 160, 3)
        np.testing.assert_array_equal(picture.boxes.class_ids, range(4))
        x1, y1, x2, y2 = picture.boxes.xyxy[marked]
        rows, columns = np.nonzero(picture.image_rgb[..., 0] > 127)
        if len(rows):
            assert columns.min() >= x1 - 0.6
            assert columns.max() + 1 <= x2 + 0.6
            assert rows.min() >= y1 - 0.6
            assert rows.max() + 1 <= y2 + 0.6


@pytest.mark.parametrize("seed", range(8))
def test_squares_that_are_wholly_in_view_are_wholly_drawn(seed):
    """No image covers another: the white area is that of the box."""
    for marked in range(4):
        config = MosaicConfig(affine=STILL)
        picture = mosaic(one_marked_of_four(marked), config, PREPROCESSING, np.random.default_rng(seed))
        x1, y1, x2, y2 = picture.boxes.xyxy[marked]
        if min(x1, y1) >= 0 and x2 <= 160 and y2 <= 120:
            drawn = (picture.image_rgb[..., 0] > 127).sum()
            assert drawn == pytest.approx((x2 - x1) * (y2 - y1), rel=0.08)


def test_images_meet_at_one_point():
    """Without zoom and turn the four images touch: between them there is at most a pixel of padding."""
    samples = [marked_image(level, (120, 160), mark=200) for level in (20, 40, 60, 80)]
    picture = mosaic(samples, MosaicConfig(affine=STILL), PREPROCESSING, np.random.default_rng(5))
    is_padding = (picture.image_rgb == 7).all(axis=-1)
    assert set(np.unique(picture.boxes.class_ids)) == {20, 40, 60, 80}
    assert is_padding.sum() <= 120 + 160


def test_a_mosaic_needs_four_images():
    with pytest.raises(ValueError, match="4 images, got 3"):
        mosaic(one_marked_of_four(0)[:3], MosaicConfig(), PREPROCESSING, np.random.default_rng(0))


def test_images_without_objects_give_an_empty_mosaic():
    empty = LabelledImage(
        np.zeros((30, 30, 3), np.uint8),
        LabelledBoxes(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool)),
    )
    picture = mosaic([empty] * 4, MosaicConfig(), PREPROCESSING, np.random.default_rng(0))
    assert picture.boxes.xyxy.shape == (0, 4)


def test_mixup_blends_and_keeps_the_boxes_of_both():
    base = LabelledImage(
        np.full((120, 160, 3), 100, np.uint8),
        LabelledBoxes(np.array([[0, 0, 10, 10]], np.float32), np.array([1]), np.array([True])),
    )
    other = LabelledImage(
        np.full((90, 120, 3), 200, np.uint8),
        LabelledBoxes(np.array([[10, 10, 30, 30]], np.float32), np.array([2]), np.array([False])),
    )
    config = MixupConfig(scale=(1.0, 1.0), weight=0.75)
    mixed = mixup(base, other, config, PREPROCESSING, np.random.default_rng(0))
    np.testing.assert_array_equal(mixed.boxes.class_ids, [1, 2])
    np.testing.assert_array_equal(mixed.boxes.is_crowd, [True, False])
    np.testing.assert_array_equal(mixed.boxes.xyxy[0], [0, 0, 10, 10])
    np.testing.assert_allclose(mixed.boxes.xyxy[1, 2:] - mixed.boxes.xyxy[1, :2], 20 * 120 / 90, rtol=1e-5)
    levels = np.unique(mixed.image_rgb)
    assert levels.max() == 125
    assert levels.min() in (77, 76)
