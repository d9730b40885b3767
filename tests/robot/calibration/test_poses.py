"""Suggested poses: reachable, within limits, showing the board, and telling more than others would."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from handeye.robot.calibration.files import (
    GuessFile,
    PosesFile,
    Provenance,
    lens_file,
    pose_config,
    save_config,
)
from handeye.robot.calibration.hand_eye import HandEye, Setting, transform_errors
from handeye.robot.calibration.poses import (
    LIMIT_MARGIN_RAD,
    ReachablePoses,
    ViewSpread,
    random_views,
    reachable_candidates,
    shows_board,
    suggest_poses,
    tool_poses,
)
from handeye.robot.calibration.refinement import NoiseLevels, measure, refine_hand_eye
from handeye.robot.config import JointLimitsConfig, WorkCellConfig
from handeye.robot.errors import CalibrationError
from handeye.robot.kinematics.forward import forward_kinematics
from handeye.robot.kinematics.limits import UR10E_LIMITS
from handeye.robot.transforms import apply_transform, make_transform, translation
from handeye.tools.command_line import run_command
from handeye.vision.config import load_config
from tests.robot.calibration.hand_eye_scene import BOARD, INTRINSICS

CELL = WorkCellConfig()
HALF_BOARD = np.array([*BOARD.size_m, 0.0]) / 2.0
_TURNED = np.diag([1.0, -1.0, -1.0])


def guess_at(x: float, y: float, setting: Setting = Setting.EYE_IN_HAND) -> HandEye:
    """The board lying face up on the table there, seen by the wrist camera; or on the tool, seen from 1.3 m away."""
    if setting is Setting.EYE_IN_HAND:
        # OpenCV's boards have y along their height and z into the paper: face up is z down.
        on_table = make_transform(_TURNED, np.array([x, y, 0.0]) - _TURNED @ HALF_BOARD)
        return HandEye(setting, CELL.T_tool_camera, on_table)
    R = np.stack([[0.0, 1.0, 0.0], [0.0, 0.0, -1.0], [-1.0, 0.0, 0.0]], axis=1)
    on_tool = make_transform(_TURNED, np.array([0.0, 0.0, 0.02]) - _TURNED @ HALF_BOARD)
    return HandEye(setting, make_transform(R, np.array([x, y, 0.5])), on_tool)


def suggested(guess: HandEye, number: int, distance_m: tuple[float, float] = (0.3, 0.55)) -> tuple[np.ndarray, ...]:
    """Suggestions, and the configurations for them."""
    reach = ReachablePoses(CELL, guess, BOARD)
    candidates = reachable_candidates(
        guess,
        BOARD,
        INTRINSICS,
        ViewSpread(distance_m=distance_m),
        4 * number,
        np.random.default_rng(0),
        is_reachable=reach,
    )
    poses = suggest_poses(guess, BOARD, INTRINSICS, candidates, number)
    joints = [reach.joints(T) for T in poses]
    assert all(qpos is not None for qpos in joints)
    return poses, np.array(joints)


@pytest.mark.parametrize(
    ("setting", "place", "distance_m"),
    [(Setting.EYE_IN_HAND, (0.6, 0.0), (0.3, 0.55)), (Setting.EYE_TO_HAND, (1.3, 0.1), (0.4, 0.6))],
)
def test_suggested_poses_are_reached_within_limits_and_show_the_board(
    setting: Setting, place: tuple[float, float], distance_m: tuple[float, float]
) -> None:
    guess = guess_at(*place, setting)
    poses, joints = suggested(guess, 8, distance_m)
    np.testing.assert_allclose(forward_kinematics(joints), poses, atol=1e-8)
    assert UR10E_LIMITS.contain(joints, LIMIT_MARGIN_RAD).all()
    assert shows_board(guess.predict(poses), BOARD, INTRINSICS).all()


def test_without_the_arm_some_suggestions_could_not_be_reached() -> None:
    """At the edge of the reach about half of the views ask for more than the arm can."""
    guess = guess_at(1.05, 0.0)
    views = random_views(BOARD, INTRINSICS, ViewSpread(), 40, np.random.default_rng(0))
    reach = ReachablePoses(CELL, guess, BOARD)
    can = np.array([reach(T) for T in tool_poses(views, guess)])
    assert 0.1 < can.mean() < 0.9
    suggested(guess, 6)


def test_a_board_out_of_reach_is_refused_with_what_to_do() -> None:
    with pytest.raises(CalibrationError, match="only 0 candidate poses .* middle of the arm's reach"):
        suggested(guess_at(2.5, 0.0), 2)


def test_limits_and_table_of_the_cell_are_kept() -> None:
    guess, pose = guess_at(0.6, 0.0), forward_kinematics(np.array(CELL.home_qpos))
    qpos = ReachablePoses(CELL, guess, BOARD).joints(pose)
    np.testing.assert_allclose(qpos, CELL.home_qpos, atol=1e-6)
    low, high = (list(bound) for bound in (JointLimitsConfig().qpos_low_rad, JointLimitsConfig().qpos_high_rad))
    low[4], high[4] = -1.0, 1.0  # wrist 2 stays away from the quarter turn that looking down needs
    narrow = CELL.model_copy(
        update={"joint_limits": JointLimitsConfig(qpos_low_rad=tuple(low), qpos_high_rad=tuple(high))}
    )
    assert not ReachablePoses(narrow, guess, BOARD)(pose)
    raised = CELL.model_copy(update={"table": CELL.table.model_copy(update={"height_m": 0.8})})
    assert not ReachablePoses(raised, guess, BOARD)(pose)


def test_a_board_behind_the_forearm_is_not_in_sight() -> None:
    """A camera behind the shoulder looks at a board on the tool through the arm."""
    pose = forward_kinematics(np.array(CELL.home_qpos))
    board_at_tool = HandEye(Setting.EYE_TO_HAND, np.eye(4), translation(-0.09, -0.12, 0.1))
    in_front = HandEye(Setting.EYE_TO_HAND, translation(1.4, 0.1, 0.4), board_at_tool.Z)
    above = HandEye(Setting.EYE_TO_HAND, translation(*(pose[:2, 3] + [-0.1, 0.0]), 1.6), board_at_tool.Z)
    assert ReachablePoses(CELL, in_front, BOARD)(pose)
    assert not ReachablePoses(CELL, above, BOARD)(pose)


def test_suggestions_leave_less_doubt_than_the_first_candidates() -> None:
    """By the covariance of X that a calibration from such images would state."""
    guess = guess_at(0.6, 0.0)
    candidates = tool_poses(random_views(BOARD, INTRINSICS, ViewSpread(), 40, np.random.default_rng(1)), guess)

    def doubt_m2(poses: np.ndarray) -> float:
        points = BOARD.corners_board()
        images = [INTRINSICS.project(apply_transform(T, points)) for T in guess.predict(poses)]
        measurements = tuple(measure(points, pixels, INTRINSICS) for pixels in images)
        return float(np.trace(refine_hand_eye(guess, poses, measurements, NoiseLevels()).covariance[:3, :3]))

    assert doubt_m2(suggest_poses(guess, BOARD, INTRINSICS, candidates, 5)) < 0.7 * doubt_m2(candidates[:5])


def test_the_command_writes_reachable_poses_and_refuses_what_is_out_of_reach(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    camera, rough, output = tmp_path / "camera.yaml", tmp_path / "guess.yaml", tmp_path / "poses.yaml"
    save_config(camera, lens_file(INTRINSICS, 0.2, Provenance(source="test", samples=("a",))))
    words = ["calibrate", "poses", str(rough), "--camera", str(camera), "--output", str(output), "--number", "5"]

    def write(x: float) -> None:
        guess = guess_at(x, 0.0)
        save_config(rough, GuessFile(setting=guess.setting, camera=pose_config(guess.X), board=pose_config(guess.Z)))

    write(0.6)
    assert run_command(words) == 0
    poses = [pose.matrix() for pose in load_config(PosesFile, output).poses.values()]
    reach = ReachablePoses(CELL, guess_at(0.6, 0.0), BOARD)
    assert len(poses) == 5
    assert all(reach(T) for T in poses)
    write(2.5)
    assert run_command(words) == 2
    assert "middle of the arm's reach" in capsys.readouterr().err
    assert run_command([*words, "--arm", "any"]) == 0
    apart, _ = transform_errors(load_config(PosesFile, output).poses["00.png"].matrix(), translation(2.5, 0.0, 0.0))
    assert apart < 1.0
