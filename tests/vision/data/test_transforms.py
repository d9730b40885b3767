"""Boxes move exactly with the image: a rectangle that is drawn, moved and found again lies where its box says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handeye.vision.data.annotations import LabelledBoxes
from handeye.vision.data.transforms import (
    AffineConfig,
    LabelledImage,
    VisibilityConfig,
    clip_boxes,
    clip_to_image,
    fit,
    fit_matrix,
    flip_horizontal,
    random_affine,
    still_visible,
    warp,
    warp_boxes,
)
from handeye.vision.images import Preprocessing, preprocess

# Not below 1: an edge narrower than a pixel has no place that the image could tell.
UPRIGHT = AffineConfig(degrees=0, shear_degrees=0, scale=(1.0, 2.0), translate=0.2)


def rectangle(size_hw: tuple[int, int], box: tuple[int, int, int, int]) -> LabelledImage:
    """A white rectangle on black, its box known to the pixel's edge."""
    image = np.zeros((*size_hw, 3), np.uint8)
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = 255
    return LabelledImage(image, LabelledBoxes(np.array([box], np.float32), np.array([3], np.int64), np.zeros(1, bool)))


def extent(image: np.ndarray) -> np.ndarray:
    """Edges of the white part with fractions of a pixel: of a bilinear image the half level is the edge."""
    row, column = image[..., 0].max(axis=0) / 255.0, image[..., 0].max(axis=1) / 255.0
    return np.array(
        [first_half(row), first_half(column), len(row) - first_half(row[::-1]), len(column) - first_half(column[::-1])]
    )


def first_half(profile: np.ndarray) -> float:
    """Continuous coordinate at which a rising profile, sampled at pixel centres, passes one half."""
    above = int(np.argmax(profile >= 0.5))
    if above == 0:
        return 0.0
    low, high = profile[above - 1], profile[above]
    return above - 0.5 + (0.5 - low) / (high - low)


boxes_strategy = st.tuples(st.integers(5, 40), st.integers(5, 30), st.integers(8, 25), st.integers(8, 25)).map(
    lambda box: (box[0], box[1], box[0] + box[2], box[1] + box[3])
)


@given(box=boxes_strategy)
@settings(max_examples=25, deadline=None)
def test_a_flip_moves_the_box_to_the_pixel(box):
    flipped = flip_horizontal(rectangle((70, 81), box))
    np.testing.assert_array_equal(extent(flipped.image_rgb), flipped.boxes.xyxy[0])
    twice = flip_horizontal(flipped)
    np.testing.assert_array_equal(twice.boxes.xyxy[0], box)
    np.testing.assert_array_equal(twice.image_rgb, rectangle((70, 81), box).image_rgb)


@given(box=boxes_strategy, seed=st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_an_upright_map_moves_box_and_image_alike(box, seed):
    """Zoom and shift: the drawn edges agree with the mapped box to a tenth of a pixel."""
    sample = rectangle((70, 80), box)
    matrix = random_affine(UPRIGHT, np.random.default_rng(seed), from_hw=(70, 80), to_hw=(200, 220))
    picture = warp(sample.image_rgb, matrix, (200, 220), pad_value=0)
    moved = warp_boxes(sample.boxes.xyxy, matrix)[0]
    inside = moved.min() > 2 and moved[2] < 218 and moved[3] < 198
    if inside:
        np.testing.assert_allclose(extent(picture), moved, atol=0.1)


@given(box=boxes_strategy, seed=st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_a_rotated_rectangle_fills_its_box(box, seed):
    """With rotation and shear the box is the hull of the mapped rectangle: it holds it all and touches it."""
    sample = rectangle((70, 80), box)
    config = AffineConfig(degrees=30, shear_degrees=8, scale=(1.5, 2.5), translate=0.1)
    matrix = random_affine(config, np.random.default_rng(seed), from_hw=(70, 80), to_hw=(300, 300))
    picture = warp(sample.image_rgb, matrix, (300, 300), pad_value=0)
    moved = warp_boxes(sample.boxes.xyxy, matrix)[0]
    if moved.min() > 2 and moved.max() < 298:
        # The last pixel of a sharp corner is covered by less than half, so the drawn hull is a little smaller.
        gap = (extent(picture) - moved) * [1, 1, -1, -1]
        assert gap.min() > -0.1
        assert gap.max() < 1.6


@pytest.mark.parametrize(
    ("image_hw", "input_hw"), [((70, 80), (160, 160)), ((80, 60), (96, 128)), ((64, 64), (64, 64))]
)
@pytest.mark.parametrize("resize", ["letterbox", "stretch"])
def test_fit_is_the_run_times_preprocessing(image_hw, input_hw, resize):
    sample = rectangle(image_hw, (10, 12, 40, 44))
    noise = np.random.default_rng(0).integers(0, 256, sample.image_rgb.shape, dtype=np.uint8)
    preprocessing = Preprocessing(size_hw=input_hw, resize=resize)
    fitted = fit(LabelledImage(noise, sample.boxes), preprocessing)
    expected, transform = preprocess(noise, preprocessing)
    np.testing.assert_array_equal(fitted.image_rgb[..., ::-1].transpose(2, 0, 1), expected)
    np.testing.assert_array_equal(fitted.boxes.xyxy, transform.boxes_to_input(sample.boxes.xyxy))


def test_fit_matrix_puts_the_box_where_fit_does():
    sample = rectangle((60, 90), (10, 12, 40, 44))
    preprocessing = Preprocessing(size_hw=(128, 160))
    moved = warp_boxes(sample.boxes.xyxy, fit_matrix((60, 90), preprocessing))
    np.testing.assert_allclose(moved, fit(sample, preprocessing).boxes.xyxy, rtol=1e-6)


def test_the_identity_changes_nothing():
    noise = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    np.testing.assert_array_equal(warp(noise, np.eye(3), (20, 30), pad_value=0), noise)


def test_maps_keep_the_centre_when_nothing_is_shifted():
    config = AffineConfig(degrees=45, shear_degrees=0, scale=(0.5, 2), translate=0)
    matrix = random_affine(config, np.random.default_rng(2), from_hw=(40, 60), to_hw=(100, 120))
    np.testing.assert_allclose(matrix @ [30, 20, 1], [60, 50, 1])
    zoom = np.sqrt(abs(np.linalg.det(matrix[:2, :2])))
    assert 0.5 <= zoom <= 2


def test_the_rest_of_a_warped_image_is_padding():
    sample = rectangle((20, 20), (0, 0, 20, 20))
    shifted = warp(sample.image_rgb, np.array([[1.0, 0, 10], [0, 1, 0], [0, 0, 1]]), (20, 20), pad_value=114)
    assert (shifted[:, :10] == 114).all()
    assert (shifted[:, 10:] == 255).all()


def test_boxes_are_cut_at_the_edges_and_dropped_when_too_little_is_left():
    boxes = np.array([[-10, 0, 10, 10], [-19, 0, 1, 10], [5, 5, 6, 20], [30, 30, 40, 40]], np.float32)
    clipped = clip_boxes(boxes, (25, 25))
    np.testing.assert_array_equal(clipped[0], [0, 0, 10, 10])
    keep = still_visible(boxes, clipped, VisibilityConfig(min_visible=0.3, min_side_px=2))
    np.testing.assert_array_equal(keep, [True, False, False, False])


@given(seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_what_is_kept_lies_inside_and_is_visible(seed):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(-40, 60, (30, 2)).astype(np.float32)
    boxes = np.concatenate([corners, corners + rng.uniform(0.5, 50, (30, 2)).astype(np.float32)], axis=1)
    sample = LabelledImage(np.zeros((40, 50, 3), np.uint8), LabelledBoxes(boxes, np.arange(30), np.arange(30) % 2 == 0))
    kept = clip_to_image(sample, VisibilityConfig(min_visible=0.25, min_side_px=3))
    assert (kept.boxes.xyxy[:, :2] >= 0).all()
    assert (kept.boxes.xyxy[:, 2] <= 50).all()
    assert (kept.boxes.xyxy[:, 3] <= 40).all()
    np.testing.assert_array_equal(kept.boxes.is_crowd, kept.boxes.class_ids % 2 == 0)
    whole = boxes[kept.boxes.class_ids]
    shares = (kept.boxes.xyxy[:, 2:] - kept.boxes.xyxy[:, :2]).prod(1) / (whole[:, 2:] - whole[:, :2]).prod(1)
    assert (shares >= 0.25 - 1e-6).all()


def test_images_without_boxes_pass_through_everything():
    empty = LabelledImage(
        np.zeros((10, 12, 3), np.uint8),
        LabelledBoxes(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool)),
    )
    assert len(flip_horizontal(empty).boxes) == 0
    assert len(fit(empty, Preprocessing(size_hw=(32, 32))).boxes) == 0
    assert len(clip_to_image(empty, VisibilityConfig()).boxes) == 0
    assert warp_boxes(empty.boxes.xyxy, np.eye(3)).shape == (0, 4)
