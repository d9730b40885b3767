"""Overlap of upright boxes: known values, symmetries, Monte Carlo and OpenCV as second opinions."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handeye.robot.perception.upright_boxes import Volumes, convex_overlap, volume_iou


def boxes(*rows: tuple[float, ...]) -> Volumes:
    """x, y, z, length, width, height, yaw."""
    numbers = np.array(rows, dtype=np.float64).reshape(-1, 7)
    return Volumes(numbers[:, :3], numbers[:, 3:6], numbers[:, 6])


def random_boxes(rng: np.random.Generator, num: int) -> Volumes:
    return Volumes(rng.uniform(-2, 2, (num, 3)), rng.uniform(0.5, 4, (num, 3)), rng.uniform(-4, 4, num))


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ((0.0, 0, 0, 2, 2, 2, 0), 1.0),
        ((0.0, 0, 0, 2, 2, 2, np.pi / 2), 1.0),
        ((1.0, 0, 0, 2, 2, 2, 0), 1 / 3),
        ((0.0, 0, 1, 2, 2, 2, np.pi), 1 / 3),
        ((2.0, 0, 0, 2, 2, 2, 0), 0.0),
        ((0.0, 0, 0, 1, 1, 1, 0.3), 1 / 8),
        # A square turned by an eighth shares an octagon: 8 (sqrt 2 - 1) of 4 a level.
        ((0.0, 0, 0, 2, 2, 2, np.pi / 4), 8 * (np.sqrt(2) - 1) / (8 - 8 * (np.sqrt(2) - 1))),
    ],
)
def test_overlaps_known_by_hand(other: tuple[float, ...], expected: float):
    assert volume_iou(boxes((0, 0, 0, 2, 2, 2, 0)), boxes(other))[0, 0] == pytest.approx(expected, abs=1e-9)


@given(st.integers(0, 10_000), st.floats(-3, 3), st.floats(-5, 5))
def test_overlap_is_symmetric_bounded_and_moves_along(seed: int, turn: float, shift: float):
    rng = np.random.default_rng(seed)
    a, b = random_boxes(rng, 3), random_boxes(rng, 4)
    iou = volume_iou(a, b)
    assert ((iou >= 0) & (iou <= 1 + 1e-12)).all()
    np.testing.assert_allclose(volume_iou(b, a), iou.T, atol=1e-9)
    np.testing.assert_allclose(np.diag(volume_iou(a, a)), 1.0, atol=1e-9)
    c, s = np.cos(turn), np.sin(turn)
    R = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    moved = [Volumes(v.centres @ R.T + shift, v.sizes_m, v.yaws_rad + turn) for v in (a, b)]
    np.testing.assert_allclose(volume_iou(*moved), iou, atol=1e-8)


def test_overlap_agrees_with_a_count_of_random_points():
    rng = np.random.default_rng(0)
    a, b = random_boxes(rng, 12), random_boxes(rng, 12)
    points = rng.uniform(-5, 5, (200_000, 3))

    def holds(v: Volumes, i: int) -> np.ndarray:
        c, s = np.cos(v.yaws_rad[i]), np.sin(v.yaws_rad[i])
        local = (points - v.centres[i]) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        return (np.abs(local) <= 0.5 * v.sizes_m[i]).all(axis=1)

    for i in range(12):
        in_a, in_b = holds(a, i), holds(b, i)
        counted = (in_a & in_b).sum() / max((in_a | in_b).sum(), 1)
        assert volume_iou(a, b)[i, i] == pytest.approx(counted, abs=0.03)


def test_shared_areas_agree_with_opencv():
    rng = np.random.default_rng(1)
    a, b = random_boxes(rng, 200), random_boxes(rng, 200)
    ours = convex_overlap(a.footprints(), b.footprints())
    for i in range(200):
        rectangles = [
            (v.centres[i, :2].tolist(), v.sizes_m[i, :2].tolist(), float(np.degrees(v.yaws_rad[i]))) for v in (a, b)
        ]
        kind, polygon = cv2.rotatedRectangleIntersection(*rectangles)
        area = 0.0 if kind == cv2.INTERSECT_NONE else cv2.contourArea(cv2.convexHull(polygon))
        assert ours[i] == pytest.approx(area, abs=2e-3)


def test_no_boxes_have_no_overlap():
    some = boxes((0, 0, 0, 1, 1, 1, 0))
    assert volume_iou(Volumes.empty(), some).shape == (0, 1)
    assert volume_iou(some, Volumes.empty()).shape == (1, 0)


def test_corners_are_those_of_the_turned_box():
    corners = boxes((1, 2, 3, 4, 2, 1, np.pi / 2)).corners()[0]
    np.testing.assert_allclose(corners.min(axis=0), [0, 0, 2.5], atol=1e-12)
    np.testing.assert_allclose(corners.max(axis=0), [2, 4, 3.5], atol=1e-12)


@pytest.mark.parametrize("bad", [(np.nan, 0, 0, 1, 1, 1, 0), (0, 0, 0, 1, 0, 1, 0), (0, 0, 0, 1, 1, -1, 0)])
def test_boxes_that_are_none_are_refused(bad: tuple[float, ...]):
    with pytest.raises(ValueError, match="expected"):
        boxes(bad)
