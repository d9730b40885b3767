"""Rays and planes: round trips, finite differences, and the specification's worked example."""

from __future__ import annotations

import numpy as np
import pytest

from handeye.robot.perception.camera_view import (
    pixel_rays,
    pixels_on_plane,
    plane_depth,
    plane_inverse_depth,
    plane_jacobians,
)
from handeye.robot.transforms import apply_transform, inverse
from tests.robot.perception.ray_scene import K, cast, look_at

T_BASE_CAMERA = look_at(np.array([0.3, -0.2, 0.6]), np.array([0.6, 0.1, 0.0]), roll=0.4)


def test_example_30_2_of_the_specification_with_the_number_corrected():
    intrinsics = np.array([[600.0, 0.0, 320.0], [0.0, 600.0, 240.0], [0.0, 0.0, 1.0]])
    box = np.array([200.0, 150.0, 300.0, 250.0])
    p_camera = 0.5 * pixel_rays(0.5 * (box[:2] + box[2:]), intrinsics)
    np.testing.assert_allclose(np.round(p_camera, 3), [-0.058, -0.033, 0.5])
    T_robot_camera = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0.3], [0, 1, 0, 0.2], [0, 0, 0, 1]])
    p_robot = apply_transform(T_robot_camera, p_camera)
    # Printed as [-0.058, 0.333, 0.7], which is not R p + t: y = -0.5 + 0.3 and z = -0.033 + 0.2.
    np.testing.assert_allclose(np.round(p_robot, 3), [-0.058, -0.2, 0.167])


def test_pixels_on_a_plane_project_back_to_themselves():
    pixels = np.array([[10.0, 20.0], [320.0, 400.0], [600.5, 300.25]])
    points = pixels_on_plane(pixels, K, T_BASE_CAMERA, 0.04)
    np.testing.assert_allclose(points[:, 2], 0.04, atol=1e-12)
    image = apply_transform(inverse(T_BASE_CAMERA), points) @ K.T
    np.testing.assert_allclose(image[:, :2] / image[:, 2:], pixels, atol=1e-9)


def test_plane_depth_equals_a_ray_cast_and_its_inverse_is_linear_in_the_pixel():
    depth, _ = cast([], T_BASE_CAMERA, table=-0.1)
    v, u = np.indices(depth.shape)
    pixels = np.stack([u, v], axis=-1).astype(np.float64)
    expected = plane_depth(pixel_rays(pixels, K), T_BASE_CAMERA, -0.1)
    np.testing.assert_allclose(depth, expected, atol=1e-12)
    a, b, c = plane_inverse_depth(K, T_BASE_CAMERA, -0.1)
    seen = np.isfinite(expected)
    np.testing.assert_allclose((a * u + b * v + c)[seen], 1.0 / expected[seen], atol=1e-12)


def test_beyond_the_horizon_there_is_no_plane():
    T_level = look_at(np.array([0.0, 0.0, 0.5]), np.array([1.0, 0.0, 0.5]))
    depth = plane_depth(pixel_rays(np.array([[320.0, 300.0], [320.0, 100.0], [319.5, 239.5]]), K), T_level, 0.0)
    np.testing.assert_array_equal(np.isnan(depth), [False, True, True])


def test_plane_jacobians_agree_with_finite_differences():
    pixel, height, step = np.array([250.0, 380.0]), 0.02, 1e-5
    J_pixel, J_height = plane_jacobians(pixel, K, T_BASE_CAMERA, height)
    for axis in range(2):
        offset = step * np.eye(2)[axis]
        ahead, behind = (pixels_on_plane(pixel + sign * offset, K, T_BASE_CAMERA, height) for sign in (1, -1))
        np.testing.assert_allclose(J_pixel[:, axis], (ahead - behind) / (2 * step), atol=1e-8)
    ahead, behind = (pixels_on_plane(pixel, K, T_BASE_CAMERA, height + sign * step) for sign in (1, -1))
    np.testing.assert_allclose(J_height, (ahead - behind) / (2 * step), atol=1e-8)
    assert J_height[2] == pytest.approx(1.0)
