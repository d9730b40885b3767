"""Covariances against finite differences and samples."""

from __future__ import annotations

import numpy as np
import pytest

from handeye.robot.perception.camera_view import (
    UncertaintyConfig,
    averaged_depth_sigma,
    rotate_covariance,
    surface_covariance,
)
from handeye.robot.transforms import rotvec_to_rotation

P_CAMERA = np.array([0.12, -0.08, 0.6])


def test_surface_covariance_is_that_of_perturbed_points():
    config = UncertaintyConfig(hand_eye_translation_m=0.002, hand_eye_rotation_rad=0.004)
    rng = np.random.default_rng(0)
    num = 200_000
    depth = P_CAMERA[2] + rng.normal(0, 0.003, num)
    points = P_CAMERA / P_CAMERA[2] * depth[:, None]
    turned = np.einsum("nij,nj->ni", rotvec_to_rotation(rng.normal(0, 0.004, (num, 3))), points)
    sampled = np.cov((turned + rng.normal(0, 0.002, (num, 3))).T)
    stated = surface_covariance(P_CAMERA, 0.003, config)
    np.testing.assert_allclose(stated, sampled, atol=0.02 * np.trace(stated))


def test_rotation_moves_points_only_across_their_direction():
    config = UncertaintyConfig(hand_eye_translation_m=0.0, hand_eye_rotation_rad=0.01)
    covariance = surface_covariance(P_CAMERA, 0.0, config)
    np.testing.assert_allclose(covariance @ P_CAMERA, 0.0, atol=1e-18)
    across = np.cross(P_CAMERA, [0.0, 0.0, 1.0])
    across /= np.linalg.norm(across)
    assert across @ covariance @ across == pytest.approx((0.01 * np.linalg.norm(P_CAMERA)) ** 2)


def test_depth_noise_lies_along_the_ray():
    config = UncertaintyConfig(hand_eye_translation_m=0.0, hand_eye_rotation_rad=0.0)
    values, vectors = np.linalg.eigh(surface_covariance(P_CAMERA, 0.002, config))
    assert values[-1] == pytest.approx((0.002 * np.linalg.norm(P_CAMERA) / P_CAMERA[2]) ** 2)
    assert abs(vectors[:, -1] @ P_CAMERA) == pytest.approx(np.linalg.norm(P_CAMERA))
    np.testing.assert_allclose(values[:2], 0.0, atol=1e-15)


def test_rotated_covariance_keeps_its_eigenvalues_and_is_symmetric():
    R = rotvec_to_rotation(np.array([0.3, -0.8, 1.1]))
    covariance = np.diag([1.0, 4.0, 9.0])
    rotated = rotate_covariance(covariance, R)
    np.testing.assert_array_equal(rotated, rotated.T)
    np.testing.assert_allclose(np.linalg.eigvalsh(rotated), [1.0, 4.0, 9.0])
    np.testing.assert_allclose(R.T @ rotated @ R, covariance, atol=1e-12)


def test_averaging_counts_patches_not_pixels_and_never_makes_it_worse():
    config = UncertaintyConfig(depth_patch_px=25.0)
    assert averaged_depth_sigma(0.004, 2500, config) == pytest.approx(0.0004)
    assert averaged_depth_sigma(0.004, 4, config) == 0.004
