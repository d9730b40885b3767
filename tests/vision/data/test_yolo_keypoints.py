"""Lines of YOLO text that are longer than a box: keypoints, oriented boxes, polygons."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from handeye.vision.data.formats import read_annotations
from handeye.vision.errors import DatasetError
from tests.vision.data.drawn_images import draw_set

RNG = np.random.default_rng(5)


def write_set(folder: Path, lines: list[list[float]], kpt_shape: str | None) -> Path:
    """Three images with the same lines, in a set whose data.yaml may state kpt_shape."""
    draw_set(folder)
    stated = "" if kpt_shape is None else f"kpt_shape: {kpt_shape}\n"
    (folder / "data.yaml").write_text(f"train: images\nnames: [one]\n{stated}", encoding="utf-8")
    (folder / "labels").mkdir()
    text = "".join(f"0 {' '.join(f'{number:.6f}' for number in line)}\n" for line in lines)
    for number in range(3):
        (folder / f"labels/{number}.txt").write_text(text, encoding="utf-8")
    return folder


def pose(count: int, dims: int) -> list[float]:
    """A box, and keypoints in it, of which the first is not seen."""
    size = RNG.uniform(0.2, 0.4, 2)
    centre = RNG.uniform(0.25, 0.75, 2)
    points = centre + RNG.uniform(-0.5, 0.5, (count, 2)) * size
    points[0] = 0
    seen = np.full((count, 1), 2.0)
    seen[0] = 0
    return [*centre, *size, *np.hstack([points, seen])[:, :dims].ravel()]


@pytest.mark.parametrize(("count", "dims"), [(12, 2), (17, 3), (24, 3), (1, 2), (2, 2), (2, 3)])
def test_of_keypoints_the_box_is_read_where_kpt_shape_says_so(tmp_path, count, dims):
    lines = [pose(count, dims) for _ in range(4)] + [[0.5, 0.5, 0.2, 0.2]]
    folder = write_set(tmp_path, lines, f"[{count}, {dims}]")
    image = read_annotations(folder).images[0]
    centres, sizes = np.array([line[:2] for line in lines]), np.array([line[2:4] for line in lines])
    expected = np.hstack([centres - sizes / 2, centres + sizes / 2]) * (50, 40, 50, 40)
    np.testing.assert_allclose(image.boxes.xyxy, expected, atol=1e-3)
    # The same through a door that finds the data.yaml above it.
    np.testing.assert_array_equal(read_annotations(folder / "labels").images[0].boxes.xyxy, image.boxes.xyxy)


@pytest.mark.parametrize(("count", "dims"), [(12, 2), (17, 3), (24, 3), (1, 2), (2, 2)])
@pytest.mark.parametrize("skip_broken", [False, True])
def test_keypoints_that_nothing_announces_are_rejected(tmp_path, count, dims, skip_broken):
    folder = write_set(tmp_path, [pose(count, dims) for _ in range(4)], None)
    with pytest.raises(DatasetError, match="kpt_shape") as caught:
        read_annotations(folder, skip_broken=skip_broken)
    assert "\n" not in str(caught.value)


def test_lines_of_another_length_than_kpt_shape_says_are_named(tmp_path):
    folder = write_set(tmp_path, [pose(12, 2)], "[17, 2]")
    with pytest.raises(DatasetError, match=r"0\.txt: line 1: expected .* 17 keypoints of 2 numbers .* got 29 numbers"):
        read_annotations(folder)


def rectangle(centre: tuple[float, float], half: tuple[float, float], angle: float) -> list[float]:
    """The corners of a turned rectangle, in fractions of an image of 50 x 40 pixels."""
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half @ turn.T + centre
    return (corners / (50, 40)).ravel().tolist()


def test_oriented_boxes_stay_oriented_boxes(tmp_path):
    """Small ones in the middle of the image could be two keypoints in a box by their places alone."""
    lines = [rectangle((25, 20), (4, 2), angle) for angle in (0.0, 0.4, 1.2)]
    boxes = read_annotations(write_set(tmp_path, lines, None)).images[0].boxes.xyxy
    corners = np.array(lines).reshape(3, 4, 2) * (50, 40)
    np.testing.assert_allclose(boxes, np.hstack([corners.min(axis=1), corners.max(axis=1)]), atol=1e-3)


@pytest.mark.parametrize("kpt_shape", [None, "[0, 0]"])
def test_polygons_stay_polygons(tmp_path, kpt_shape):
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    lines = [
        (np.stack([x + 0.1 * np.cos(angles), y + 0.1 * np.sin(angles)], 1)).ravel().tolist()
        for x, y in ((0.2, 0.8), (0.8, 0.2), (0.5, 0.5), (0.8, 0.8))
    ]
    image = read_annotations(write_set(tmp_path, lines, kpt_shape), keep_masks=True).images[0]
    np.testing.assert_allclose(image.boxes.xyxy[0], [5, 28, 15, 36], atol=1e-3)
    assert len([mask for mask in image.masks if mask is not None]) == 4


def test_polygons_that_could_be_keypoints_need_the_word_of_data_yaml(tmp_path):
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    line = (np.stack([0.5 + 0.1 * np.cos(angles), 0.5 + 0.1 * np.sin(angles)], 1)).ravel().tolist()
    with pytest.raises(DatasetError, match=r"or \[0, 0\] if they are polygons"):
        read_annotations(write_set(tmp_path, [line], None))
    (tmp_path / "data.yaml").write_text("train: images\nnames: [one]\nkpt_shape: [0, 0]\n", encoding="utf-8")
    np.testing.assert_allclose(read_annotations(tmp_path).images[0].boxes.xyxy, [[20, 16, 30, 24]], atol=1e-3)
