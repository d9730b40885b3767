"""Rectangles from outlines: exact ones, ragged ones, cut ones, and shapes that are no rectangles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handeye.robot.perception.rectangle_fit import fit_footprint


def outline(size: tuple[float, float], yaw: float, centre: tuple[float, float], spacing: float = 0.001) -> np.ndarray:
    """Points along the sides of a rectangle."""
    a, b = 0.5 * np.array(size)
    x, y = np.arange(-a, a, spacing), np.arange(-b, b, spacing)
    points = np.concatenate(
        [
            np.c_[x, np.full_like(x, -b)],
            np.c_[np.full_like(y, a), y],
            np.c_[-x, np.full_like(x, b)],
            np.c_[np.full_like(y, -a), -y],
        ]
    )
    c, s = np.cos(yaw), np.sin(yaw)
    return points @ np.array([[c, s], [-s, c]]) + centre


@given(
    yaw=st.floats(-0.78, 0.78),
    length=st.floats(0.03, 0.12),
    width=st.floats(0.03, 0.12),
    x=st.floats(-1.0, 1.0),
    y=st.floats(-1.0, 1.0),
    is_clockwise=st.booleans(),
)
def test_an_exact_outline_gives_the_exact_rectangle(
    yaw: float, length: float, width: float, x: float, y: float, is_clockwise: bool
):
    points = outline((length, width), yaw, (x, y))[:: -1 if is_clockwise else 1]
    found = fit_footprint(points, np.zeros(len(points), dtype=bool))
    assert found is not None
    assert found.is_whole
    assert found.has_yaw
    assert found.yaw_rad == pytest.approx(yaw, abs=0.01)
    np.testing.assert_allclose(found.centre_xy, [x, y], atol=3e-4)
    np.testing.assert_allclose(found.size_m, [length, width], atol=2e-3)


def test_ragged_edges_cost_little():
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(50):
        yaw = rng.uniform(-0.78, 0.78)
        points = outline((0.05, 0.05), yaw, (0.6, 0.1)) + rng.normal(0, 0.0004, (200, 2))
        found = fit_footprint(points, np.zeros(len(points), dtype=bool))
        errors.append(abs(np.angle(np.exp(4j * (found.yaw_rad - yaw))) / 4))
        np.testing.assert_allclose(found.centre_xy, [0.6, 0.1], atol=1e-3)
    assert np.median(errors) < np.radians(1.0)


def test_dents_and_inner_points_have_no_say():
    points = outline((0.05, 0.04), 0.3, (0.5, 0.0))
    dented = np.concatenate([points, points[50:60] * 0.5 + 0.5 * points.mean(axis=0)])
    dented = np.delete(dented, slice(10, 25), axis=0)
    found = fit_footprint(dented, np.zeros(len(dented), dtype=bool))
    np.testing.assert_allclose(found.size_m, [0.05, 0.04], atol=1e-3)


def test_a_circle_has_no_yaw():
    angles = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    found = fit_footprint(0.03 * np.c_[np.cos(angles), np.sin(angles)], np.zeros(200, dtype=bool))
    assert found.rectangularity < 0.1
    assert not found.has_yaw
    np.testing.assert_allclose(found.centre_xy, 0.0, atol=1e-3)


@pytest.mark.parametrize("side", [0, 1, 2, 3])
def test_a_cut_side_is_known_to_be_unseen(side: int):
    points = outline((0.05, 0.05), 0.0, (0.0, 0.0))
    axis, is_high = side // 2, side % 2
    offset = points[:, axis] if is_high else -points[:, axis]
    is_cut = offset > 0.01
    points[:, axis] = np.where(is_cut, np.sign(points[:, axis]) * 0.01, points[:, axis])
    found = fit_footprint(points, is_cut)
    seen = np.array([found.is_seen_low, found.is_seen_high])
    assert not seen[is_high, axis]
    assert seen.sum() == 3
    assert not found.has_yaw


@pytest.mark.parametrize(
    "points", [np.zeros((0, 2)), np.zeros((2, 2)), np.ones((30, 2)), np.c_[np.arange(9.0), np.arange(9.0)]]
)
def test_points_without_area_have_no_footprint(points: np.ndarray):
    found = fit_footprint(points, np.zeros(len(points), dtype=bool))
    assert found is None or found.size_m.min() < 1e-6
