"""Aligned depth against exact geometry: planes and a box seen by two cameras, ray by ray."""

from __future__ import annotations

import numpy as np
import pytest

from handeye.robot.camera.intrinsics import Intrinsics
from handeye.robot.camera.rectification import DepthAlignment
from handeye.robot.errors import CameraError, TransformError
from handeye.robot.transforms import inverse, make_transform, rotvec_to_rotation, translation

DEPTH = Intrinsics(np.array([[420.0, 0.0, 211.5], [0.0, 420.0, 119.5], [0.0, 0.0, 1.0]]), (240, 424))
COLOR = Intrinsics(
    np.array([[300.0, 0.0, 159.5], [0.0, 305.0, 119.5], [0.0, 0.0, 1.0]]),
    (240, 320),
    np.array([-0.05, 0.06, -0.0007, 0.0004, -0.02]),
)
T_COLOR_DEPTH = make_transform(rotvec_to_rotation(np.array([0.004, -0.01, 0.006])), np.array([0.059, 0.0, 0.001]))


def rays(camera: Intrinsics) -> np.ndarray:
    rows, columns = np.indices(camera.size_hw, dtype=np.float64)
    return camera.directions(np.stack([columns, rows], axis=-1))


def plane_depth(camera: Intrinsics, T_camera_depth: np.ndarray, normal: np.ndarray, offset_m: float) -> np.ndarray:
    """Depth of the plane normal @ p_depth = offset_m in each pixel of a camera."""
    R, t = T_camera_depth[:3, :3], T_camera_depth[:3, 3]
    turned = R @ normal
    return (offset_m + turned @ t) / (rays(camera) @ turned)


def wall_behind_board(camera: Intrinsics, T_camera_depth: np.ndarray) -> np.ndarray:
    """A wall at z = 1.2 m with a board |x| < 0.15, |y| < 0.1 at z = 0.6 m before it, all in the depth frame."""
    z_axis = np.array([0.0, 0.0, 1.0])
    wall, board = (plane_depth(camera, T_camera_depth, z_axis, z) for z in (1.2, 0.6))
    points = rays(camera) * board[..., None] @ T_camera_depth[:3, :3] + inverse(T_camera_depth)[:3, 3]
    is_board = (np.abs(points[..., 0]) < 0.15) & (np.abs(points[..., 1]) < 0.1)
    return np.where(is_board, board, wall)


@pytest.mark.parametrize(("normal", "filled"), [([0.0, 0.0, 1.0], 1.0), ([0.3, -0.2, 1.0], 0.98)])
def test_a_plane_lands_where_the_colour_camera_sees_it(normal: list[float], filled: float):
    measured = plane_depth(DEPTH, np.eye(4), np.array(normal), 0.8).astype(np.float32)
    aligned = DepthAlignment(DEPTH, COLOR, T_COLOR_DEPTH).align(measured)
    exact = plane_depth(COLOR, T_COLOR_DEPTH, np.array(normal), 0.8)
    inside = np.s_[45:-45, 70:-50]
    assert np.isfinite(aligned[inside]).mean() >= filled  # on a slope a tile may part from its farther neighbour
    slope = np.abs(np.gradient(exact, axis=1)).max() + np.abs(np.gradient(exact, axis=0)).max()
    assert np.nanmax(np.abs(aligned[inside] - exact[inside])) <= slope + 1e-6


def test_what_is_in_front_hides_what_is_behind_and_shadows_stay_empty():
    aligned = DepthAlignment(DEPTH, COLOR, T_COLOR_DEPTH).align(wall_behind_board(DEPTH, np.eye(4)).astype(np.float32))
    exact = wall_behind_board(COLOR, T_COLOR_DEPTH)
    has_reading = np.isfinite(aligned)
    is_wrong = has_reading & (np.abs(aligned - exact) > 0.02)
    assert is_wrong.mean() < 0.008  # only along the board's outline, where both cameras round differently
    shadow_px = np.flatnonzero(~np.isfinite(aligned[120, 60:280]))
    # The strip of wall that the board hides from the depth camera only: f b (1 / 0.6 - 1 / 1.2), and nothing else.
    np.testing.assert_array_equal(np.diff(shadow_px), 1)
    assert len(shadow_px) == pytest.approx(300.0 * 0.059 * (1 / 0.6 - 1 / 1.2), abs=2)


def test_the_same_camera_gives_its_own_image_back():
    depth_m = np.random.default_rng(0).uniform(0.5, 2.0, DEPTH.size_hw).astype(np.float32)
    depth_m[::7, ::5] = np.nan
    np.testing.assert_allclose(DepthAlignment(DEPTH, DEPTH, np.eye(4)).align(depth_m), depth_m, rtol=1e-6)


def test_one_reading_fills_the_colour_pixels_that_it_covers():
    fine = Intrinsics(DEPTH.K * [[3.0], [3.0], [1.0]] + [[0, 0, 1.0], [0, 0, 1.0], [0, 0, 0]], (720, 1272))
    depth_m = np.full(DEPTH.size_hw, np.nan, np.float32)
    depth_m[100, 200] = 0.7
    aligned = DepthAlignment(DEPTH, fine, np.eye(4)).align(depth_m)
    rows, columns = np.nonzero(np.isfinite(aligned))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (300, 302, 600, 602)


def test_no_reading_and_readings_that_are_noise_give_nothing():
    alignment = DepthAlignment(DEPTH, COLOR, T_COLOR_DEPTH)
    for value in (np.nan, 0.0, -1.0, np.inf):
        assert np.isnan(alignment.align(np.full(DEPTH.size_hw, value, np.float32))).all()
    behind = DepthAlignment(DEPTH, COLOR, translation(0.0, 0.0, -2.0))
    assert np.isnan(behind.align(np.full(DEPTH.size_hw, 1.0, np.float32))).all()


def test_mirrored_transforms_and_images_of_another_size_are_refused():
    with pytest.raises(TransformError, match="T_color_depth"):
        DepthAlignment(DEPTH, COLOR, np.diag([-1.0, 1.0, 1.0, 1.0]))
    with pytest.raises(CameraError, match="belong to images of 424 x 240"):
        DepthAlignment(DEPTH, COLOR, T_COLOR_DEPTH).align(np.ones((120, 212), np.float32))
