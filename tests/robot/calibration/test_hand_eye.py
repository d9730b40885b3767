"""Both settings, real recordings against OpenCV's consensus, and samples that no calibration should start from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from handeye.robot.calibration.hand_eye import (
    ClosedForm,
    HandEye,
    PosePairs,
    Setting,
    mean_transform,
    solve_hand_eye,
    transform_errors,
)
from handeye.robot.calibration.refinement import measure_pose, refine_hand_eye
from handeye.robot.errors import CalibrationError, TransformError
from handeye.robot.transforms import inverse, make_transform, nearest_transform, rotvec_to_rotation, translation
from tests.robot.calibration.hand_eye_scene import EXACT, make_samples

RECORDINGS = "calibration/handeye_moveit/pose_samples.json"
METHODS = {name: getattr(cv2, f"CALIB_HAND_EYE_{name}") for name in ("TSAI", "PARK", "HORAUD", "ANDREFF", "DANIILIDIS")}


@pytest.mark.parametrize("setting", Setting)
@pytest.mark.parametrize("method", ClosedForm)
def test_exact_samples_give_camera_and_board_exactly(setting: Setting, method: ClosedForm):
    truth, pairs, _ = make_samples(setting, 6, EXACT, seed=2)
    found = solve_hand_eye(pairs, setting, method)
    np.testing.assert_allclose(found.X, truth.X, atol=1e-9)
    np.testing.assert_allclose(found.Z, truth.Z, atol=1e-9)
    np.testing.assert_allclose(found.predict(pairs.T_base_tool), pairs.T_camera_board, atol=1e-9)


def moveit_samples(path: Path) -> PosePairs:
    recorded = np.array(json.loads(path.read_text(encoding="utf-8")))
    exact = nearest_transform(recorded, 1e-4)
    return PosePairs(exact[:, 0], exact[:, 1], tuple(map(str, range(len(exact)))))


def opencv_consensus(pairs: PosePairs) -> HandEye:
    """The mean of OpenCV's five methods for a camera that stands still: the tool's poses go in inverted."""
    G = inverse(pairs.T_base_tool)
    solutions = []
    for method in METHODS.values():
        C = pairs.T_camera_board
        R, t = cv2.calibrateHandEye(G[:, :3, :3], G[:, :3, 3], C[:, :3, :3], C[:, :3, 3], method=method)
        solutions.append(make_transform(R, t[:, 0]))
    X = mean_transform(np.stack(solutions))
    return HandEye(Setting.EYE_TO_HAND, X, mean_transform(G @ X @ pairs.T_camera_board))


@pytest.mark.parametrize("method", ClosedForm)
def test_real_recordings_are_solved_as_by_opencv(sample: Callable[[str], Path], method: ClosedForm):
    pairs = moveit_samples(sample(RECORDINGS))
    found, expected = solve_hand_eye(pairs, Setting.EYE_TO_HAND, method), opencv_consensus(pairs)
    distance, angle = transform_errors(found.X, expected.X)
    assert distance < 1e-3
    assert np.rad2deg(angle) < 0.1
    # What the recordings' own test expects, to its tolerance.
    np.testing.assert_allclose(found.X[:3, 3], [0.659, -0.249, 0.830], atol=0.01)
    spread = (inverse(pairs.T_base_tool) @ found.X @ pairs.T_camera_board)[:, :3, 3].std(axis=0)
    assert (spread < 3e-3).all()


def test_real_recordings_stay_there_when_refined(sample: Callable[[str], Path]):
    pairs = moveit_samples(sample(RECORDINGS))
    start, expected = solve_hand_eye(pairs, Setting.EYE_TO_HAND, ClosedForm.PARK_MARTIN), opencv_consensus(pairs)
    measurements = tuple(measure_pose(T) for T in pairs.T_camera_board)
    found = refine_hand_eye(start, pairs.T_base_tool, measurements)
    distance, angle = transform_errors(found.hand_eye.X, expected.X)
    assert distance < 1e-3
    assert np.rad2deg(angle) < 0.1


def test_mean_transform_of_two_is_half_way():
    turned = make_transform(rotvec_to_rotation(np.array([0.0, 0.4, 0.0])), np.array([2.0, 0.0, 0.0]))
    half = make_transform(rotvec_to_rotation(np.array([0.0, 0.2, 0.0])), np.array([1.0, 0.0, 0.0]))
    np.testing.assert_allclose(mean_transform(np.stack([np.eye(4), turned])), half, atol=1e-12)


def wrong(change: Callable[[np.ndarray], None]) -> PosePairs:
    poses = np.stack([translation(0.1 * i, 0.0, 0.5) for i in range(4)])
    changed = poses.copy()
    change(changed)
    return PosePairs(poses, changed, ("a", "b", "c", "d"))


def mirror(poses: np.ndarray) -> None:
    poses[2, 0, 0] = -1.0


def shear(poses: np.ndarray) -> None:
    poses[2, 0, 1] = 0.3


def lose(poses: np.ndarray) -> None:
    poses[2, 1, 3] = np.nan


def in_millimetres(poses: np.ndarray) -> None:
    poses[2, :3, 3] *= 1000.0


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (mirror, TransformError, "T_camera_board of sample c.*determinant -1"),
        (shear, TransformError, "T_camera_board of sample c.*rotation"),
        (lose, TransformError, "T_camera_board of sample c.*finite"),
        (in_millimetres, CalibrationError, "T_camera_board of sample c.*millimetres"),
    ],
)
def test_wrong_poses_are_refused_by_name(change: Callable[[np.ndarray], None], error: type[Exception], words: str):
    with pytest.raises(error, match=words):
        wrong(change)


def test_two_samples_are_refused():
    with pytest.raises(CalibrationError, match="at least 3 samples"):
        PosePairs(np.stack([np.eye(4)] * 2), np.stack([np.eye(4)] * 2), ("a", "b"))
