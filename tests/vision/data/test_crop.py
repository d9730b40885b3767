"""A crop shows the very pixels of its window, and each object that stays is where its box says."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from handeye.vision.data.annotations import LabelledBoxes
from handeye.vision.data.transforms import CropConfig, LabelledImage, crop, random_crop


def noise_sample(seed: int) -> LabelledImage:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 50, (8, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(4, 30, (8, 2))], axis=1).astype(np.float32)
    image = rng.integers(0, 256, (80, 90, 3), dtype=np.uint8)
    return LabelledImage(image, LabelledBoxes(boxes, np.arange(8), np.arange(8) >= 6))


@given(seed=st.integers(0, 10_000))
def test_pixels_and_boxes_move_together(seed):
    sample = noise_sample(seed)
    cropped = random_crop(sample, CropConfig(), np.random.default_rng(seed))
    height, width = cropped.size_hw
    offsets = [
        (x, y)
        for y in range(80 - height + 1)
        for x in np.flatnonzero((sample.image_rgb[y, : 90 - width + 1] == cropped.image_rgb[0, 0]).all(axis=-1))
        if np.array_equal(sample.image_rgb[y : y + height, x : x + width], cropped.image_rgb)
    ]
    assert len(offsets) == 1
    shift = np.array([*offsets[0], *offsets[0]], np.float32)
    limit = np.array([width, height, width, height], np.float32)
    expected = np.clip(sample.boxes.xyxy[cropped.boxes.class_ids] - shift, 0, limit)
    np.testing.assert_allclose(cropped.boxes.xyxy, expected, atol=1e-4)
    np.testing.assert_array_equal(cropped.boxes.is_crowd, cropped.boxes.class_ids >= 6)
    assert (~cropped.boxes.is_crowd).any()


def test_objects_go_with_their_centre_and_ignored_regions_stay_where_they_are_met():
    image = np.zeros((50, 50, 3), np.uint8)
    boxes = np.array([[0, 0, 18, 18], [5, 5, 30, 30], [0, 0, 12, 12], [40, 40, 50, 50]], np.float32)
    sample = LabelledImage(image, LabelledBoxes(boxes, np.arange(4), np.array([False, False, True, True])))
    cropped = crop(sample, np.array([10, 10, 30, 30], np.float32))
    np.testing.assert_array_equal(cropped.boxes.class_ids, [1, 2])
    np.testing.assert_array_equal(cropped.boxes.xyxy, [[0, 0, 20, 20], [0, 0, 2, 2]])


def test_an_image_without_objects_stays_whole():
    empty = LabelledImage(
        np.zeros((10, 12, 3), np.uint8),
        LabelledBoxes(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool)),
    )
    assert random_crop(empty, CropConfig(), np.random.default_rng(0)) is empty
