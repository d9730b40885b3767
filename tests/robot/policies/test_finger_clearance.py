"""Obstacles from depth: pixels become points where they are, and the fingers' sweep is counted exactly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handeye.robot.kinematics.forward import forward_kinematics
from handeye.robot.policies.grasp import GraspConfig, count_in_finger_sweep, points_around
from handeye.robot.types import Frame
from tests.robot.policies.paper_world import CELL

CONFIG = GraspConfig(finger_gap_m=0.014, finger_thickness_m=0.02, finger_width_m=0.026)
T_BASE_CAMERA = forward_kinematics(np.array(CELL.home_qpos)) @ CELL.T_tool_camera


def plane_frame(height_m: float) -> Frame:
    """A perfect view of the plane z = height_m."""
    shape, K = (CELL.camera.height_px, CELL.camera.width_px), CELL.camera.K
    v, u = np.indices(shape)
    rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones(shape)], axis=-1)
    depth_m = (height_m - T_BASE_CAMERA[2, 3]) / (rays @ T_BASE_CAMERA[2, :3])
    return Frame(np.zeros((*shape, 3), np.uint8), depth_m.astype(np.float32), K, 0.0)


def test_points_lie_on_the_surface_within_the_radius() -> None:
    middle = np.array([0.55, 0.05, 0.0])
    points = points_around(plane_frame(0.03), T_BASE_CAMERA, middle, 0.1)
    assert len(points) > 1000
    np.testing.assert_allclose(points[:, 2], 0.03, atol=1e-4)
    distance = np.hypot(*(points - middle)[:, :2].T)
    assert distance.max() <= 0.1
    assert distance.max() > 0.098


def test_pixels_without_a_reading_give_no_point() -> None:
    frame = plane_frame(0.0)
    frame.depth_m[:] = np.nan
    assert points_around(frame, T_BASE_CAMERA, np.array([0.55, 0.05, 0.0]), 0.1).shape == (0, 3)


def count(points: np.ndarray, yaw_rad: float = 0.0, tips_z: float = 0.01) -> int:
    middle = np.array([0.5, 0.1, 0.02])
    return count_in_finger_sweep(points + [0.5, 0.1, 0.0], middle, yaw_rad, 0.07, 0.045, tips_z, CONFIG)


@pytest.mark.parametrize(
    ("along", "across", "z", "expected"),
    [
        (0.040, 0.0, 0.02, 1),
        (-0.040, 0.0, 0.02, 1),
        (0.054, 0.012, 0.02, 1),
        (0.056, 0.0, 0.02, 0),  # outside of the open finger
        (0.040, 0.014, 0.02, 0),  # beside the finger
        (0.022, 0.0, 0.02, 0),  # the object's own face
        (0.040, 0.0, 0.009, 0),  # below the fingertips
    ],
)
def test_the_sweep_is_two_rectangles(along: float, across: float, z: float, expected: int) -> None:
    assert count(np.array([[along, across, z]])) == expected


@given(st.floats(-3.1, 3.1), st.integers(0, 2**32 - 1))
def test_turning_grasp_and_points_together_changes_nothing(yaw_rad: float, seed: int) -> None:
    points = np.random.default_rng(seed).uniform(-0.07, 0.07, (50, 3))
    cos, sin = np.cos(yaw_rad), np.sin(yaw_rad)
    turned = points @ np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    assert count(turned, yaw_rad) == count(points)
    assert count(points, np.pi) == count(points)
