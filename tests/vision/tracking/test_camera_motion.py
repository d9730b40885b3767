"""The motion of the camera against images that were really moved, and things in them that move on their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handeye.vision.images import read_image
from handeye.vision.tracking.camera_motion import CameraMotionConfig, CameraMotionEstimator, SimilarityMotion

NO_BOXES = np.zeros((0, 4))


def textured(height: int = 360, width: int = 480, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 255, (height // 12, width // 12, 3), np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def moved(image: np.ndarray, motion: SimilarityMotion) -> np.ndarray:
    matrix = np.column_stack([motion.linear, motion.shift])
    return cv2.warpAffine(image, matrix, image.shape[1::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def similarity(scale: float, angle_rad: float, shift: tuple[float, float]) -> SimilarityMotion:
    c, s = scale * np.cos(angle_rad), scale * np.sin(angle_rad)
    return SimilarityMotion(np.array([[c, -s], [s, c]]), np.array(shift))


@pytest.mark.parametrize(
    ("scale", "angle_rad", "shift"),
    [(1.0, 0.0, (7.0, -4.0)), (1.03, 0.0, (-3.0, 2.0)), (1.0, 0.02, (0.0, 5.0)), (0.98, -0.02, (6.0, 6.0))],
)
@pytest.mark.parametrize("longest_side_px", [640, 240])
def test_the_motion_of_the_image_is_found(scale, angle_rad, shift, longest_side_px: int):
    true = similarity(scale, angle_rad, shift)
    image = textured()
    estimator = CameraMotionEstimator(CameraMotionConfig(longest_side_px=longest_side_px))
    estimator.estimate(image, NO_BOXES)
    found = estimator.estimate(moved(image, true), NO_BOXES)
    corners = np.array([[0.0, 0.0], [480.0, 0.0], [0.0, 360.0], [480.0, 360.0]])
    error = np.linalg.norm(found.of_points(corners) - true.of_points(corners), axis=1)
    assert error.max() < 0.8


def test_what_moves_inside_of_boxes_does_not_count():
    """A third of the image moves the other way; its boxes are known."""
    first = textured()
    second = moved(first, similarity(1.0, 0.0, (5.0, 0.0)))
    thing = textured(seed=1)[100:300, 100:340]
    first[100:300, 100:340], second[100:300, 88:328] = thing, thing
    estimator = CameraMotionEstimator(CameraMotionConfig())
    estimator.estimate(first, np.array([[90.0, 95.0, 345.0, 305.0]]))
    found = estimator.estimate(second, np.array([[85.0, 95.0, 335.0, 305.0]]))
    np.testing.assert_allclose(found.shift, [5.0, 0.0], atol=0.5)


@pytest.mark.parametrize("second", [np.zeros((360, 480, 3), np.uint8), textured(seed=5), textured(240, 320)])
def test_a_dark_image_a_cut_or_another_size_is_no_motion(second: np.ndarray):
    estimator = CameraMotionEstimator(CameraMotionConfig())
    first = estimator.estimate(textured(), NO_BOXES)
    np.testing.assert_array_equal(first.linear, np.eye(2))
    found = estimator.estimate(second, NO_BOXES)
    np.testing.assert_array_equal(found.linear, np.eye(2))
    np.testing.assert_array_equal(found.shift, [0.0, 0.0])
    again = estimator.estimate(second, NO_BOXES)
    np.testing.assert_allclose(again.of_points(np.array([[100.0, 100.0]])), [[100.0, 100.0]], atol=0.2)


@pytest.mark.parametrize("shift", [30.0, 48.0, 51.0, 54.0, 57.0, 75.0])
def test_a_jump_too_far_to_be_followed_is_no_motion_and_never_a_wrong_one(sample: Callable[[str], Path], shift: float):
    """A bare kitchen table with few corners: four of them once agreed on a wrong motion."""
    first = read_image(sample("tracking/bottles/frame_0.png"))
    bottles = np.array([[508.0, 105.0, 571.0, 318.0], [286.0, 108.0, 345.0, 316.0], [57.0, 109.0, 123.0, 317.0]])
    estimator = CameraMotionEstimator(CameraMotionConfig())
    estimator.estimate(first, bottles)
    found = estimator.estimate(moved(first, similarity(1.0, 0.0, (shift, 0.0))), NO_BOXES).shift
    assert np.abs(found - [shift, 0.0]).max() < 1.0 or (shift > 40.0 and not found.any())


def test_boxes_that_cover_everything_leave_nothing_to_follow():
    estimator = CameraMotionEstimator(CameraMotionConfig())
    everything = np.array([[-50.0, -50.0, 999.0, 999.0]])
    estimator.estimate(textured(), everything)
    assert estimator.estimate(textured(), everything).scale == 1.0


@given(scale=st.floats(0.5, 2.0), angle=st.floats(-3.1, 3.1))
def test_the_parts_of_a_similarity_fit_together(scale: float, angle: float):
    motion = similarity(scale, angle, (3.0, -8.0))
    assert motion.scale == pytest.approx(scale)
    boxes = np.array([[0.0, 0.0, 10.0, 20.0], [5.0, 5.0, 6.0, 9.0]])
    grown = motion.of_boxes(boxes)
    np.testing.assert_allclose(grown[:, 2:] - grown[:, :2], scale * (boxes[:, 2:] - boxes[:, :2]))
    centres = 0.5 * (boxes[:, :2] + boxes[:, 2:])
    np.testing.assert_allclose(0.5 * (grown[:, :2] + grown[:, 2:]), motion.of_points(centres))
    np.testing.assert_allclose(SimilarityMotion.none().of_boxes(boxes), boxes)
