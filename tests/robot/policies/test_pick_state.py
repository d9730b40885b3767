"""States of a pick: what they hold, when something is held, and which cube is the target estimate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from handeye.robot.interfaces import Outcome
from handeye.robot.kinematics.forward import forward_kinematics
from handeye.robot.policies.pick_state import KEEP_S, NEAR_M, STATE_NAMES, PickProgress, PickState, PickStateReader
from handeye.robot.types import Observation, Track, TrackStatus
from tests.robot.policies.paper_world import CELL, EDGE_M, PaperWorld
from tests.robot.policies.test_scripted_policy import TASK

PERIOD_S = 0.04
P_CUBE = np.array([0.6, 0.1, EDGE_M / 2])
HOME = np.array(CELL.home_qpos)


class Watch:
    """Reads states one after another, PERIOD_S apart."""

    def __init__(self) -> None:
        self.reader = PickStateReader(CELL)
        self.reader.reset(TASK)
        self.world = PaperWorld(P_CUBE.copy())
        self.now_s = 0.0

    def read(self, opening_m: float, command_m: float, tracks: tuple[Track, ...]) -> PickState:
        joints = replace(self.world.observe().joints, gripper_opening_m=opening_m, stamp_s=self.now_s)
        state = self.reader.read(Observation(joints, None, tracks, self.now_s), command_m)
        self.now_s += PERIOD_S
        return state

    def track(self, **changes: object) -> Track:
        return replace(self.world.track(), **({"num_hits": 9, "last_seen_s": self.now_s} | changes))


def test_the_vector_holds_what_its_names_say() -> None:
    watch = Watch()
    state = watch.read(0.085, 0.085, (watch.track(),))
    values = dict(zip(STATE_NAMES, state.vector().tolist(), strict=True))
    p_tcp = (forward_kinematics(HOME) @ CELL.T_tool_tcp)[:3, 3]
    assert [values[f"qpos_{joint}"] for joint in range(1, 7)] == pytest.approx(HOME.tolist())
    assert [values[f"cube_{axis}_base_m"] for axis in "xyz"] == pytest.approx(P_CUBE.tolist())
    assert [values[f"cube_d{axis}_m"] for axis in "xyz"] == pytest.approx((P_CUBE - p_tcp).tolist(), abs=1e-6)
    assert (values["gripper_opening_m"], values["is_holding"], values["cube_is_known"]) == pytest.approx((0.085, 0, 1))


def test_the_last_millimetres_show_although_the_table_is_large() -> None:
    watch = Watch()
    state = watch.read(0.085, 0.085, (watch.track(),))
    near = replace(state, p_cube_base=state.p_tcp_base + np.array([0.003, -0.003, -0.3]))
    values = dict(zip(STATE_NAMES, near.vector().tolist(), strict=True))
    expected = [np.tanh(0.003 / NEAR_M), -np.tanh(0.003 / NEAR_M), -1.0]
    assert [values[f"cube_near_{axis}"] for axis in "xyz"] == pytest.approx(expected, abs=1e-6)


def test_an_unknown_cube_is_zeros_and_a_flag() -> None:
    state = Watch().read(0.085, 0.085, ())
    values = dict(zip(STATE_NAMES, state.vector().tolist(), strict=True))
    assert [values[name] for name in STATE_NAMES if name.startswith("cube")] == [0.0] * 11
    assert state.cube_age_s == np.inf


@pytest.mark.parametrize("yaw_rad", np.linspace(-3.0, 3.0, 13))
def test_the_yaw_error_turns_the_fingers_along_the_nearest_faces(yaw_rad: float) -> None:
    watch = Watch()
    state = watch.read(0.085, 0.085, (watch.track(yaw_rad=yaw_rad),))
    assert abs(state.yaw_error_rad) <= np.pi / 4 + 1e-9
    quarters = (yaw_rad - state.hand_yaw_rad - state.yaw_error_rad) / (np.pi / 2)
    assert quarters == pytest.approx(round(quarters), abs=1e-9)


def close_on(watch: Watch, rest_m: float, tracks: tuple[Track, ...] = ()) -> PickState:
    """Fingers that are commanded to close and come to rest at `rest_m`."""
    opening_m = 0.085
    while opening_m > rest_m:
        state = watch.read(opening_m, 0.0, tracks)
        assert not state.is_holding
        opening_m = max(opening_m - 0.006, rest_m)
    watch.read(rest_m, 0.0, tracks)
    return watch.read(rest_m, 0.0, tracks)


def test_fingers_at_rest_apart_hold_and_the_cube_moves_with_the_hand() -> None:
    watch = Watch()
    state = close_on(watch, EDGE_M, (watch.track(),))
    assert state.is_holding
    assert state.p_cube_base == pytest.approx(state.p_tcp_base)
    assert (state.yaw_error_rad, state.cube_age_s) == (0.0, 0.0)


def test_fingers_that_meet_hold_nothing() -> None:
    assert not close_on(Watch(), 0.0).is_holding


def test_open_fingers_at_rest_hold_nothing() -> None:
    watch = Watch()
    assert not any(watch.read(0.05, 0.05, ()).is_holding for _ in range(5))


def test_a_stuck_gripper_holds_nothing() -> None:
    watch = Watch()
    assert not any(watch.read(0.085, 0.0, ()).is_holding for _ in range(5))


def test_opening_fingers_hold_until_they_move() -> None:
    watch = Watch()
    close_on(watch, EDGE_M)
    assert watch.read(EDGE_M, 0.085, ()).is_holding
    assert not watch.read(EDGE_M + 0.004, 0.085, ()).is_holding


def test_after_the_cube_was_let_go_elsewhere_old_observations_of_it_do_not_count() -> None:
    watch = Watch()
    stale = watch.track()
    close_on(watch, EDGE_M, (stale,))
    lost = watch.read(0.02, 0.0, (stale,))
    assert lost.p_cube_base is None
    fresh = replace(stale, num_hits=stale.num_hits + 2, p_base=P_CUBE + [0.1, 0.0, 0.0])
    assert watch.read(0.0, 0.0, (fresh,)).p_cube_base == pytest.approx(fresh.p_base)


def test_a_cube_let_go_over_its_place_is_placed_at_once_and_verified_when_seen() -> None:
    watch = Watch()
    above = TASK.place_p_base + [0.0, 0.0, 0.115]
    watch.world.qpos = joints_over(above)
    close_on(watch, EDGE_M)
    released = watch.read(EDGE_M + 0.006, 0.085, ())
    assert (released.is_placed, released.is_verified) == (True, False)
    seen = watch.track(p_base=np.array([*above[:2], EDGE_M / 2]))
    state = watch.read(0.06, 0.085, (seen,))
    assert (state.is_placed, state.is_verified) == (True, True)


def joints_over(p_tcp: np.ndarray) -> np.ndarray:
    from handeye.robot.policies.hand_motion import HandMotion, HandMotionConfig

    motion = HandMotion(CELL, HandMotionConfig(), HOME)
    for _ in range(400):
        motion.steer(p_tcp, motion.yaw_rad)
    return motion.qpos_target


def test_a_target_estimate_outlives_its_last_detection_by_a_while() -> None:
    watch = Watch()
    watch.read(0.085, 0.085, (watch.track(),))
    hidden = watch.read(0.085, 0.085, ())
    assert hidden.p_cube_base == pytest.approx(P_CUBE)
    assert hidden.cube_age_s == pytest.approx(PERIOD_S)
    while watch.now_s < KEEP_S + PERIOD_S:
        watch.read(0.085, 0.085, ())
    assert watch.read(0.085, 0.085, ()).p_cube_base is None


@pytest.mark.parametrize(
    "changes",
    [
        {"class_name": "blue_cube"},
        {"num_hits": 1},
        {"status": TrackStatus.TENTATIVE},
        {"size_m": np.array([0.12, 0.05, 0.05])},
        {"p_base": np.array([0.6, 0.1, 0.2])},
        {"p_base": np.array([2.0, 0.1, EDGE_M / 2])},
    ],
)
def test_what_cannot_be_the_cube_is_no_target(changes: dict) -> None:
    watch = Watch()
    assert watch.read(0.085, 0.085, (watch.track(**changes),)).p_cube_base is None


def test_the_target_stays_the_same_until_a_grasp_has_failed_there() -> None:
    watch = Watch()
    watch.world.qpos = joints_over(P_CUBE + [0.0, 0.0, 0.003])
    mine, other = watch.track(), watch.track(track_id=2, p_base=P_CUBE + [0.15, 0.0, 0.0], score=0.99)
    watch.read(0.085, 0.085, (mine,))
    assert watch.read(0.085, 0.085, (mine, other)).p_cube_base == pytest.approx(P_CUBE)
    assert close_on(watch, 0.0, (mine, other)).p_cube_base == pytest.approx(other.p_base)


def test_before_a_task_the_reader_says_so() -> None:
    with pytest.raises(RuntimeError, match="call reset first"):
        PickStateReader(CELL).read(PaperWorld(P_CUBE).observe(), 0.085)


# Progress -----------------------------------------------------------------------------------------------------------


def test_a_pick_is_done_when_the_cube_has_been_seen_in_place_for_a_while_under_a_risen_hand() -> None:
    progress = PickProgress(TASK, timeout_s=10.0)
    watch = Watch()
    base = watch.read(0.085, 0.085, ())
    low, high = (over_place(base, height_m) for height_m in (0.12, 0.20))
    stamps = iter(np.arange(0.0, 10.0, 0.1).tolist())
    for state in (low, low, high, high, high, high, high):
        progress.update(state, next(stamps))
        assert progress.status.outcome is Outcome.RUNNING
    for state in [replace(high, is_verified=True)] * 5:
        progress.update(state, next(stamps))
    assert (progress.status.outcome, progress.status.stage) == (Outcome.SUCCEEDED, "done")


def test_a_cube_that_fell_into_its_place_from_above_the_carrying_height_is_done_too() -> None:
    progress = PickProgress(TASK, timeout_s=10.0)
    base = Watch().read(0.085, 0.085, ())
    for number, height_m in enumerate((0.26, 0.24, 0.21, 0.21, 0.21, 0.21)):
        progress.update(replace(over_place(base, height_m), is_verified=True), 0.1 * number)
    assert progress.status.outcome is Outcome.SUCCEEDED


def over_place(state: PickState, height_m: float) -> PickState:
    """The hand so far over the place's floor, with the target estimate in it."""
    return replace(state, p_tcp_base=TASK.place_p_base + [0.0, 0.0, height_m], is_placed=True)


def test_grasps_are_counted_by_closing_fingers() -> None:
    progress = PickProgress(TASK, timeout_s=10.0)
    base = Watch().read(0.085, 0.085, ())
    for number, rate in enumerate((0.0, -0.15, -0.15, 0.0, 0.15, -0.15, 0.0)):
        progress.update(replace(base, gripper_rate_m_s=rate), 0.04 * number)
    assert progress.status.attempts == 2
