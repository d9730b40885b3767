"""Ticks become rows: each action is what was sent a period after its state, and images keep colours and depth."""

from __future__ import annotations

import numpy as np
import pytest

from handeye.robot.control.loop import Tick
from handeye.robot.control.set_point_stream import GateDecision
from handeye.robot.datasets.format import Episode
from handeye.robot.demonstration_sink import (
    OLDEST_S,
    SCENE,
    WRIST,
    WRIST_DEPTH,
    DemonstrationSink,
    ImageSize,
    demonstration_features,
    depth_to_mm,
    shrink,
    ticks_per_row,
)
from handeye.robot.interfaces import Outcome, PolicyStatus
from handeye.robot.motion.set_points import SetPoint
from handeye.robot.perception.pipeline import Percept
from handeye.robot.types import CommandState, Frame, JointState
from handeye.vision.errors import UserError
from handeye.vision.runtime.detections import Detections
from tests.robot.policies.paper_world import CELL, DT_S, EDGE_M, PaperWorld
from tests.robot.policies.test_scripted_policy import TASK

HOME = np.array(CELL.home_qpos)
SIZE = ImageSize(4, 6)
GREEN = np.full((8, 12, 3), (10, 200, 30), np.uint8)


def tick(number: int, percept: Percept | None = None) -> Tick:
    """The arm is commanded to HOME + number mrad and is one tick behind."""
    stamp_s, sent = number * DT_S, HOME + 1e-3 * number
    return Tick(
        stamp_s,
        JointState(HOME + 1e-3 * (number - 1), np.zeros(6), 0.085, stamp_s),
        percept,
        stamp_s,
        SetPoint(sent, np.zeros(6), 0.05),
        GateDecision(True, (), CommandState.at_rest(sent), 0.05, False),
        sent,
        PolicyStatus("look", Outcome.RUNNING),
    )


def percept(stamp_s: float) -> Percept:
    depth_m = np.full((8, 12), 0.5, np.float32)
    depth_m[:4] = np.nan
    track = PaperWorld(np.array([0.6, 0.1, EDGE_M / 2]), hits=5).track()
    return Percept(Frame(GREEN, depth_m, np.eye(3), stamp_s), np.eye(4), Detections.empty(("cube",)), (), (track,))


def sink(image_size: ImageSize | None = None) -> DemonstrationSink:
    return DemonstrationSink(
        CELL, TASK, policy_hz=25.0, seed=7, image_size=image_size, scene=lambda: np.full((8, 12, 3), 90, np.uint8)
    )


def collect(num_ticks: int, image_size: ImageSize | None = None) -> Episode:
    collects = sink(image_size)
    for number in range(num_ticks):
        collects.write(tick(number, percept(number * DT_S) if number == 2 or image_size else None))
    return collects.episode()


def test_an_action_is_the_command_a_period_after_its_state() -> None:
    columns = collect(11).columns
    np.testing.assert_allclose(columns["stamp_s"].ravel(), [0.0, 2 * DT_S, 4 * DT_S, 6 * DT_S, 8 * DT_S])
    for row in range(5):
        np.testing.assert_allclose(columns["observation.state"][row, :6], HOME + 1e-3 * (2 * row - 1), atol=1e-6)
        np.testing.assert_allclose(columns["action"][row], np.append(HOME + 1e-3 * (2 * row + 2), 0.05), atol=1e-6)
    assert columns["seed"].ravel().tolist() == [7] * 5


def test_a_state_that_no_action_followed_is_left_out() -> None:
    assert [len(collect(num_ticks)) for num_ticks in (3, 4, 5, 6)] == [1, 1, 2, 2]


def test_the_cube_is_there_from_its_first_detection_on() -> None:
    ages_s = collect(7).columns["cube_age_s"].ravel()
    assert ages_s[0] == OLDEST_S
    assert (ages_s[1:] < 0.1).all()


def test_stamps_of_frames_never_go_back_where_the_first_frame_comes_late() -> None:
    """Camera and perception take time: a frame of 20 ms comes in the eighth tick."""
    collects = sink()
    for number in range(12):
        collects.write(tick(number, percept(0.02) if number == 8 else None))
    stamps_s = collects.episode().columns["frame_stamp_s"].ravel()
    np.testing.assert_allclose(stamps_s, [0.0, 0.0, 0.0, 0.0, 0.02])


def test_images_are_of_the_recorded_size_with_depth_in_mm() -> None:
    columns = collect(5, SIZE).columns
    assert columns.keys() == demonstration_features(SIZE).keys()
    assert columns[WRIST].shape == columns[SCENE].shape == (2, 4, 6, 3)
    np.testing.assert_array_equal(columns[WRIST], np.broadcast_to([10, 200, 30], (2, 4, 6, 3)))
    np.testing.assert_array_equal(columns[SCENE], 90)
    np.testing.assert_array_equal(columns[WRIST_DEPTH], np.repeat([0, 0, 500, 500], 6).reshape(1, 4, 6).repeat(2, 0))


def test_shrinking_averages_colours_and_picks_depths() -> None:
    checks = np.zeros((8, 12, 3), np.uint8)
    checks[::2] = 100
    np.testing.assert_array_equal(shrink(checks, SIZE), 50)
    assert set(np.unique(depth_to_mm(np.where(checks[..., 0] > 0, 0.4, 70.0).astype(np.float32), SIZE))) <= {400, 65535}


def test_rates_that_do_not_divide_are_refused() -> None:
    assert ticks_per_row(125.0, 25.0) == 5
    for policy_hz in (30.0, 250.0):
        with pytest.raises(UserError, match="must be a multiple"):
            ticks_per_row(125.0, policy_hz)
