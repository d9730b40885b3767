"""Box formats: round trips, agreement with torchvision, worked numbers, numpy and torch alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torchvision.ops import box_convert

from handeye.vision.boxes.formats import (
    box_area,
    clip_xyxy,
    cxcywh_to_xyxy,
    norm_to_pixels,
    pixels_to_norm,
    positive_part,
    xywh_to_xyxy,
    xyxy_to_cxcywh,
    xyxy_to_xywh,
)

numbers = st.floats(-1e4, 1e4, allow_nan=False)
many_boxes = arrays(np.float64, st.tuples(st.integers(0, 5), st.just(4)), elements=numbers)


@settings(max_examples=40, deadline=None)
@given(many_boxes)
def test_xyxy_survives_a_round_trip_through_cxcywh(boxes_xyxy):
    np.testing.assert_allclose(cxcywh_to_xyxy(xyxy_to_cxcywh(boxes_xyxy)), boxes_xyxy, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(many_boxes)
def test_xyxy_survives_a_round_trip_through_xywh(boxes_xyxy):
    np.testing.assert_allclose(xywh_to_xyxy(xyxy_to_xywh(boxes_xyxy)), boxes_xyxy, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(many_boxes, st.tuples(st.integers(1, 4000), st.integers(1, 4000)))
def test_pixels_survive_a_round_trip_through_fractions(boxes, size_hw):
    np.testing.assert_allclose(norm_to_pixels(pixels_to_norm(boxes, size_hw), size_hw), boxes, rtol=1e-12, atol=1e-12)


def test_the_corners_of_an_image_are_zero_and_one_as_fractions():
    corners = np.array([[0.0, 0.0, 640.0, 480.0]])
    np.testing.assert_array_equal(pixels_to_norm(corners, (480, 640)), [[0, 0, 1, 1]])


@pytest.mark.parametrize(
    ("ours", "source", "target"),
    [
        (xyxy_to_cxcywh, "xyxy", "cxcywh"),
        (cxcywh_to_xyxy, "cxcywh", "xyxy"),
        (xyxy_to_xywh, "xyxy", "xywh"),
        (xywh_to_xyxy, "xywh", "xyxy"),
    ],
)
def test_conversions_agree_with_torchvision(ours, source, target):
    boxes = torch.rand(7, 4, generator=torch.Generator().manual_seed(0)) * 100
    torch.testing.assert_close(ours(boxes), box_convert(boxes, source, target))


@pytest.mark.parametrize("convert", [xyxy_to_cxcywh, cxcywh_to_xyxy, xyxy_to_xywh, xywh_to_xyxy, box_area])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numpy_and_torch_give_the_same_numbers_of_the_same_type(convert, dtype):
    boxes = np.random.default_rng(1).uniform(-50, 50, (3, 5, 4)).astype(dtype)
    ours = convert(boxes)
    assert ours.dtype == dtype
    np.testing.assert_array_equal(convert(torch.from_numpy(boxes)).numpy(), ours)


def test_centre_to_corner_by_hand():
    np.testing.assert_array_equal(cxcywh_to_xyxy(np.array([240.0, 176.0, 32.0, 64.0])), [224, 144, 256, 208])


def test_areas_by_hand():
    np.testing.assert_array_equal(box_area(np.array([[100.0, 100, 200, 200], [150, 100, 250, 200]])), [10000, 10000])


def test_area_of_swapped_or_flat_boxes_is_zero():
    swapped_x, swapped_both, flat = [5.0, 0, 1, 3], [5.0, 5, 1, 1], [2.0, 2, 2, 9]
    np.testing.assert_array_equal(box_area(np.array([swapped_x, swapped_both, flat])), [0, 0, 0])


@settings(max_examples=40, deadline=None)
@given(many_boxes)
def test_clipped_boxes_lie_inside_and_inner_boxes_stay(boxes_xyxy):
    clipped = clip_xyxy(boxes_xyxy, (30, 50))
    assert ((clipped >= 0) & (clipped <= [50, 30, 50, 30])).all()
    np.testing.assert_allclose(clip_xyxy(clipped, (30, 50)), clipped, atol=1e-12)


def test_a_box_outside_becomes_empty_on_the_border():
    outside = torch.tensor([[60.0, -9, 70, -2]])
    torch.testing.assert_close(clip_xyxy(outside, (30, 50)), torch.tensor([[50.0, 0, 50, 0]]))


def test_positive_part_is_the_larger_of_the_value_and_zero():
    np.testing.assert_array_equal(positive_part(np.array([-2.0, 0.0, 3.0])), [0, 0, 3])


@pytest.mark.parametrize("convert", [pixels_to_norm, norm_to_pixels, clip_xyxy])
def test_an_image_without_pixels_is_refused(convert):
    with pytest.raises(ValueError, match="at least one pixel"):
        convert(np.zeros((1, 4)), (0, 640))
