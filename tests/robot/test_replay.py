"""Playing back: the hand goes where the recording says, a state that was not reached is measured, foreign sets are not
played."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from handeye.robot.datasets.format import Episode, Feature, numbers
from handeye.robot.datasets.reader import EpisodeDataset
from handeye.robot.datasets.writer import EpisodeWriter
from handeye.robot.demonstration_sink import demonstration_features
from handeye.robot.demonstrations import (
    ROBOT_TYPE,
    DemonstrationRecorder,
    JointTrajectory,
    RecordConfig,
    read_trajectory,
    replay,
)
from handeye.robot.kinematics.forward import forward_kinematics
from handeye.robot.pick import SHIPPED_DETECTOR
from handeye.robot.policies.pick_state import STATE_NAMES
from handeye.tools.command_line import run_command
from handeye.vision.errors import DatasetError, UserError

FPS, FRAMES, SEED = 25, 30, 7
CONFIG = RecordConfig()


def moved_joints() -> np.ndarray:
    """Joints at the frames and one period after the last, going a few degrees from home and gently."""
    time_s = np.arange(FRAMES + 1) / FPS
    return np.array(CONFIG.cell.home_qpos) + 0.05 * (1 - np.cos(2 * time_s))[:, None] * [1, 0.5, -0.5, 0.3, 0.2, -1]


def made(seed: int | None = SEED) -> JointTrajectory:
    joints = np.column_stack([moved_joints(), np.full(FRAMES + 1, CONFIG.cell.gripper.opening_max_m)])
    return JointTrajectory(FPS, joints[:-1], joints[1:], seed)


def grasp_point(qpos: np.ndarray) -> np.ndarray:
    return (forward_kinematics(qpos) @ CONFIG.cell.T_tool_tcp)[:3, 3]


def test_the_hand_goes_where_it_was_and_a_state_that_was_not_reached_is_measured() -> None:
    recorded = made()
    states = recorded.states.copy()
    states[12, 0] += 0.04
    played = replay(JointTrajectory(FPS, states, recorded.actions, SEED), CONFIG)
    assert played.seed == SEED
    assert int(played.tool_m.argmax()) == 12
    assert played.joint_rad[12] == pytest.approx(0.04, abs=3e-3)
    expected = np.linalg.norm(grasp_point(states[12, :6]) - grasp_point(recorded.states[12, :6]))
    assert played.tool_m[12] == pytest.approx(expected, abs=2e-3)
    others = np.delete(played.tool_m, 12)
    assert 0 < others.max() < 2e-3
    assert not played.check.success
    assert played.check.reason == "never_held"


def write_set(folder: Path, recorded: JointTrajectory, *, with_seed: bool = True) -> Path:
    features = {key: one for key, one in demonstration_features(None).items() if with_seed or key != "seed"}
    states = np.zeros((FRAMES, len(STATE_NAMES)), np.float32)
    states[:, :7] = recorded.states
    columns = {
        "observation.state": states,
        "action": recorded.actions.astype(np.float32),
        "stamp_s": np.arange(FRAMES) / FPS,
        "frame_stamp_s": np.arange(FRAMES) / FPS,
        "cube_age_s": np.zeros(FRAMES, np.float32),
        "seed": np.full(FRAMES, SEED),
    }
    kept = {key: columns[key] for key in features}
    EpisodeWriter.open(folder, FPS, features, ROBOT_TYPE).add(Episode(kept, "pick"))
    return folder


def test_the_command_writes_a_video_and_tells_whether_the_hand_stayed_near(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, video_path, file = write_set(tmp_path / "set", made()), tmp_path / "video.mp4", tmp_path / "result.json"
    words = ["replay", str(folder), "--json", str(file), "simulator.renderer=rays"]
    words += ["cell.camera.width_px=64", "cell.camera.height_px=48"]
    assert run_command([*words, "--output", str(video_path)]) == 0
    assert "mm from where it was" in capsys.readouterr().out
    result = json.loads(file.read_text())
    assert (result["seed"], result["frames"], result["success"]) == (SEED, FRAMES, False)
    assert 0 < result["mean_tool_m"] < result["worst_tool_m"] < 2e-3
    video = cv2.VideoCapture(str(video_path))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == FRAMES / 2
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(12.5)
    assert run_command([*words, "--tolerance-m", "1e-6"]) == 1
    assert run_command([*words, "--episode", "1"]) == 2
    assert run_command([*words, "--tolerance-m", "0"]) == 2


def test_an_episode_without_a_seed_needs_one(tmp_path: Path) -> None:
    recorded = read_trajectory(EpisodeDataset.open(write_set(tmp_path, made(), with_seed=False)), 0)
    assert recorded.seed is None
    np.testing.assert_allclose(recorded.states, made().states, atol=1e-6)
    with pytest.raises(DatasetError, match="--seed"):
        replay(recorded, CONFIG)
    assert replay(recorded, CONFIG, seed=3).seed == 3


def test_other_arms_and_other_rates_are_refused(tmp_path: Path) -> None:
    features = {"observation.state": numbers(("a",)), "action": Feature("float32", (2,), ("x", "y"))}
    writer = EpisodeWriter.open(tmp_path, FPS, features, "another")
    writer.add(Episode({"observation.state": np.zeros(3, np.float32), "action": np.zeros((3, 2), np.float32)}, "lift"))
    with pytest.raises(DatasetError, match=r"observation.state has no qpos_1.* this one has a"):
        read_trajectory(EpisodeDataset.open(tmp_path), 0)
    slow = made()
    with pytest.raises(UserError, match="must be a multiple"):
        replay(JointTrajectory(30, slow.states, slow.actions, SEED), CONFIG)


@pytest.mark.slow
def test_a_recorded_pick_succeeds_again(tmp_path: Path) -> None:
    with DemonstrationRecorder(CONFIG, SHIPPED_DETECTOR, None) as recorder:
        episode = recorder.record(SEED).episode
    writer = EpisodeWriter.open(tmp_path, FPS, demonstration_features(None), ROBOT_TYPE)
    writer.add(episode)
    played = replay(read_trajectory(EpisodeDataset.open(tmp_path), 0), CONFIG)
    assert played.check.success
    assert played.tool_m.max() < 2e-3
