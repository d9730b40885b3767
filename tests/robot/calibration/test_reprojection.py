"""The reprojection's Jacobian against differences, and what its residuals mean."""

from __future__ import annotations

import numpy as np
import pytest

from handeye.robot.calibration.hand_eye import Setting
from handeye.robot.calibration.refinement import Reprojection, measure, measure_pose
from handeye.robot.camera.intrinsics import Intrinsics
from handeye.robot.errors import CalibrationError
from handeye.robot.transforms import translation
from tests.robot.calibration.hand_eye_scene import EXACT, INTRINSICS, make_samples


@pytest.mark.parametrize("setting", Setting)
def test_the_jacobian_equals_differences_away_from_the_start(setting: Setting):
    truth, pairs, measurements = make_samples(setting, 3, EXACT, seed=4)
    problem = Reprojection(truth, pairs.T_base_tool, measurements)
    parameters = np.random.default_rng(0).normal(0.0, 0.05, problem.num_parameters)
    step = 1e-6
    differences = [
        (problem.residuals_px(parameters + change) - problem.residuals_px(parameters - change)) / (2 * step)
        for change in step * np.eye(problem.num_parameters)
    ]
    np.testing.assert_allclose(problem.jacobian_px(parameters), np.stack(differences, axis=1), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("setting", Setting)
def test_the_truth_leaves_nothing_and_a_shift_leaves_its_projection(setting: Setting):
    truth, pairs, measurements = make_samples(setting, 3, EXACT, seed=5)
    problem = Reprojection(truth, pairs.T_base_tool, measurements)
    zero = np.zeros(problem.num_parameters)
    np.testing.assert_allclose(problem.residuals_px(zero), 0.0, atol=1e-6)
    shifted = zero.copy()
    shifted[:3] = truth.X[:3, :3] @ [0.001, 0.0, 0.0]  # the camera moves 1 mm along its own x
    expected = [-0.001 * 600.0 / T[2, 3] for T in pairs.T_camera_board]
    means = problem.residuals_px(shifted).reshape(3, -1, 2).mean(axis=1)
    np.testing.assert_allclose(means[:, 0], expected, rtol=0.35)  # the board is not all at its origin's depth
    np.testing.assert_allclose(means[:, 1], 0.0, atol=1e-9)


@pytest.mark.parametrize("setting", Setting)
def test_a_correction_undoes_a_wrong_tool_pose(setting: Setting):
    truth, pairs, measurements = make_samples(setting, 3, EXACT, seed=6)
    wrong = pairs.T_base_tool @ translation(0.002, -0.001, 0.003)
    problem = Reprojection(truth, wrong, measurements)
    parameters = np.zeros(problem.num_parameters)
    assert problem.rms_px(parameters).min() > 1.0
    parameters[12:] = np.tile([-0.002, 0.001, -0.003, 0.0, 0.0, 0.0], 3)
    assert problem.rms_px(parameters).max() < 1e-6


def test_poses_without_images_are_measured_as_images_of_them():
    T = translation(0.02, -0.01, 0.5)
    measurement = measure_pose(T)
    np.testing.assert_allclose(measurement.straight_xy.mean(axis=0), [0.04, -0.02])
    with pytest.raises(CalibrationError, match="inverted"):
        measure_pose(translation(0.0, 0.0, -0.5))


def test_corners_that_no_direction_leads_to_are_refused():
    folded = Intrinsics(INTRINSICS.K, INTRINSICS.size_hw, np.array([-0.9, 0.0, 0.0, 0.0]))
    with pytest.raises(CalibrationError, match="folds over"):
        measure(np.zeros((1, 3)), np.array([[0.0, 0.0]]), folded)
