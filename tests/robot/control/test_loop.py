"""The loop: what goes where in a tick, at which rates, and what a gate's objection leads to."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from handeye.robot.config import LatencyConfig
from handeye.robot.control.gates import GateReason
from handeye.robot.control.loop import Tick
from handeye.robot.errors import SafetyError, StageError
from handeye.robot.kinematics.forward import forward_kinematics
from handeye.robot.kinematics.limits import joint_limits_from_config
from handeye.robot.motion.trajectory import plan_joint_motion
from handeye.robot.timing import MonotonicClock
from handeye.robot.types import ActionChunk, Frame, Observation
from tests.robot.control.fake_devices import CELL, HOME, SAFETY, TASK, Bench, ListedPolicy, slow_turn

LIMITS = joint_limits_from_config(CELL.joint_limits)


def test_each_tick_commands_what_the_policy_asks_for() -> None:
    targets = slow_turn(20)
    bench = Bench(ListedPolicy(targets))
    ticks = bench.run(20)
    np.testing.assert_allclose(bench.arm.commands, targets, atol=1e-12)
    np.testing.assert_allclose([tick.qpos_command for tick in ticks], targets, atol=1e-12)
    assert all(tick.decision.allowed for tick in ticks)


def test_ticks_come_at_the_control_rate_and_frames_at_the_cameras() -> None:
    bench = Bench(ListedPolicy([HOME]))
    ticks = bench.run(126)
    np.testing.assert_allclose(np.diff([tick.stamp_s for tick in ticks]), 1 / CELL.control_hz)
    frame_stamps = [tick.stamp_s - 5.0 for tick in ticks if tick.percept is not None]
    assert len(frame_stamps) == bench.camera.reads == 11
    np.testing.assert_allclose(frame_stamps, np.arange(11) / 10, atol=1 / CELL.control_hz)


def test_the_policy_sees_frames_only_in_the_ticks_in_which_they_come() -> None:
    bench = Bench(ListedPolicy([HOME]))
    ticks = bench.run(30)
    assert [seen.frame is not None for seen in bench.policy.seen] == [tick.percept is not None for tick in ticks]


def test_the_policy_sees_the_last_command() -> None:
    bench = Bench(ListedPolicy(slow_turn(5)))
    bench.run(5)
    first, *later = [seen.command for seen in bench.policy.seen]
    assert first is None
    np.testing.assert_array_equal([command.qpos for command in later], bench.arm.commands[:-1])
    assert not any(seen.is_held for seen in bench.policy.seen)


def test_every_stage_is_timed_once_for_each_time_it_runs() -> None:
    bench = Bench(ListedPolicy([HOME]))
    bench.run(126)
    counts = {name: time.count for name, time in bench.loop.timer.summary().items()}
    every_tick = ("tick", "observe", "decide", "interpolate", "gate", "command", "record")
    assert counts == dict.fromkeys(every_tick, 126) | dict.fromkeys(("camera", "detect", "project", "track"), 11)


def test_a_sink_is_given_each_tick() -> None:
    bench = Bench(ListedPolicy([HOME]))
    assert bench.run(7) == bench.sink.ticks


def test_a_frame_is_placed_by_the_joints_at_its_exposure() -> None:
    """The arm moves; a frame that was exposed 20 ms ago belongs between two older joint states."""
    targets = slow_turn(200)
    bench = Bench(ListedPolicy(targets), latency_s=0.020)
    ticks = bench.run(100)
    index, percept = next((i, tick.percept) for i, tick in enumerate(ticks) if tick.percept is not None and i > 50)
    # The state read in tick i is what was commanded in tick i - 1; the exposure lies 2.5 ticks before the reading.
    qpos = (targets[index - 3] + targets[index - 4]) / 2
    expected = forward_kinematics(qpos) @ CELL.T_tool_camera
    np.testing.assert_allclose(percept.T_base_camera, expected, atol=1e-7)
    assert np.abs(expected - forward_kinematics(targets[index - 1]) @ CELL.T_tool_camera).max() > 1e-4


def test_the_policy_is_shown_a_frame_with_the_cameras_pose_at_its_exposure() -> None:
    bench = Bench(ListedPolicy(slow_turn(200)), latency_s=0.020)
    percepts = [tick.percept for tick in bench.run(100) if tick.percept is not None]
    shown = [seen for seen in bench.policy.seen if seen.frame is not None]
    assert [seen.frame for seen in shown] == [percept.frame for percept in percepts]
    for seen, percept in zip(shown, percepts, strict=True):
        np.testing.assert_array_equal(seen.T_base_camera, percept.T_base_camera)
        now = forward_kinematics(seen.joints.qpos) @ CELL.T_tool_camera
        assert np.abs(seen.T_base_camera - now).max() > 1e-6


def test_what_takes_time_arrives_later_and_a_busy_policy_misses_no_frame() -> None:
    """Perception takes 4 periods, the policy 6: percepts and chunks come in the tick in which they are ready."""
    bench = Bench(ListedPolicy([HOME]), latency=LatencyConfig(perception_s=0.032, policy_s=0.048))
    ticks = bench.run(126)
    arrivals = [index for index, tick in enumerate(ticks) if tick.percept is not None]
    assert arrivals[0] == 4
    assert len(arrivals) == 10
    assert [round((seen.stamp_s - 5.0) * CELL.control_hz) for seen in bench.policy.seen] == list(range(0, 126, 6))
    in_force = [round((tick.stamp_s - tick.chunk_stamp_s) * CELL.control_hz) for tick in ticks]
    assert in_force[:6] == [0] * 6, "stands where it is until the first chunk"
    assert set(in_force[6:]) == set(range(6, 12))
    assert sum(seen.frame is not None for seen in bench.policy.seen) == len(arrivals)


def test_a_frame_from_before_the_task_is_not_looked_at() -> None:
    bench = Bench(ListedPolicy([HOME]), latency_s=0.020)
    ticks = bench.run(14)
    assert [tick.percept is not None for tick in ticks] == [False] * 13 + [True]
    assert all(tick.decision.allowed for tick in ticks)


def test_a_jump_is_held_counted_and_stops_the_arm() -> None:
    jump = HOME + np.array([0.5, 0, 0, 0, 0, 0])
    bench = Bench(ListedPolicy([HOME, HOME, jump]))
    ticks = bench.run(5)
    assert [tick.decision.allowed for tick in ticks] == [True, True, False, False, False]
    assert GateReason.STEP in ticks[2].decision.reasons
    assert ticks[2].decision.is_latched
    assert bench.arm.stops == 3
    np.testing.assert_array_equal(bench.arm.qpos, HOME)
    np.testing.assert_array_equal(ticks[2].qpos_command, HOME)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_never_reaches_the_arm(bad: float) -> None:
    target = HOME.copy()
    target[3] = bad
    bench = Bench(ListedPolicy([HOME, target]))
    ticks = bench.run(3)
    assert ticks[1].decision.reasons[0] is GateReason.NOT_FINITE
    assert np.isfinite(bench.arm.commands).all()


def test_a_camera_that_hangs_holds_the_arm_and_lets_go_when_frames_come_again() -> None:
    bench = Bench(ListedPolicy([HOME]))
    bench.run(13)
    bench.camera.is_frozen = True
    frozen = [bench.loop.tick() for _ in range(50)]
    assert {reason for tick in frozen for reason in tick.decision.reasons} == {GateReason.STALE_OBSERVATION}
    assert frozen[0].decision.allowed
    assert not frozen[-1].decision.allowed
    assert all(tick.percept is None for tick in frozen[1:]), "the same frame was taken for a new one"
    bench.camera.is_frozen = False
    thawed = [bench.loop.tick() for _ in range(20)]
    assert thawed[-1].decision.allowed
    assert bench.arm.stops == 0


def test_an_arm_that_stands_outside_its_gates_is_not_started() -> None:
    bench = Bench(ListedPolicy([HOME]))
    bench.arm.qpos = np.zeros(6)
    with pytest.raises(SafetyError):
        bench.loop.begin(TASK)


def test_a_second_task_starts_without_memory_of_the_first() -> None:
    bench = Bench(ListedPolicy([HOME, HOME + 0.5]))
    assert bench.run(3)[-1].decision.is_latched
    again = bench.run(1)[0]
    assert again.decision.allowed
    assert isinstance(bench.policy.seen[0].frame, Frame)
    assert bench.policy.seen[0].command is None


@pytest.mark.parametrize(("ahead_s", "is_refused"), [(0.001, False), (0.05, True), (60.0, True)])
def test_a_frame_from_the_future_stops_the_arm(ahead_s: float, *, is_refused: bool) -> None:
    """A millisecond is what mapping one clock to another may miss."""
    bench = Bench(ListedPolicy([HOME]), latency_s=-ahead_s)
    decision = bench.run(2)[-1].decision
    assert decision.reasons == ((GateReason.FUTURE_OBSERVATION,) if is_refused else ())
    assert decision.is_latched is is_refused


def test_joints_from_the_future_stop_the_arm() -> None:
    bench = Bench(ListedPolicy([HOME]))
    bench.run(3)
    measured = bench.arm.read_state()
    bench.arm.read_state = lambda: replace(measured, stamp_s=bench.clock.now_s() + 0.3)
    decision = bench.loop.tick().decision
    assert decision.reasons == (GateReason.FUTURE_OBSERVATION,)
    assert decision.violations[0].value == pytest.approx(-0.3)


def moving_bench(num_ticks: int = 60) -> Bench:
    """A loop whose arm is in the middle of a motion after so many ticks."""
    goal = HOME + np.array([-0.8, 0.0, 0.0, 0.0, 0.0, 0.0])
    motion = plan_joint_motion(HOME, np.zeros(6), goal, LIMITS, 1 / CELL.control_hz)
    bench = Bench(ListedPolicy(list(motion.qpos)))
    bench.run(num_ticks)
    assert np.abs(np.diff(bench.arm.commands[-2:], axis=0)).max() > 0.005
    return bench


def ticks_of(bench: Bench, number: int) -> list[Tick]:
    return [bench.loop.tick() for _ in range(number)]


def assert_came_to_rest(bench: Bench) -> None:
    """What the arm was sent keeps all limits to the end, where it stands; every set-point was recorded."""
    sent = np.array([HOME, HOME, HOME, *bench.arm.commands])
    np.testing.assert_array_equal(sent[-1], sent[-2])
    bounds = (LIMITS.qvel_max, 1.5 * LIMITS.qacc_max, 4.0 * LIMITS.qjerk_max)
    for order, bound in enumerate(bounds, start=1):
        assert (np.abs(np.diff(sent, order, axis=0)) * CELL.control_hz**order <= bound * (1 + 1e-5)).all()
    np.testing.assert_array_equal([tick.qpos_command for tick in bench.sink.ticks], bench.arm.commands)
    np.testing.assert_allclose(np.diff([tick.stamp_s for tick in bench.sink.ticks]), 1 / CELL.control_hz)


def test_a_finished_task_leaves_the_arm_at_rest() -> None:
    bench = moving_bench()
    bench.loop.finish()
    assert_came_to_rest(bench)
    assert bench.arm.stops == 1


@pytest.mark.parametrize("part", ["_camera", "_policy", "_perception"])
def test_a_failure_in_mid_motion_ends_in_a_stop_within_the_limits(part: str) -> None:
    bench = moving_bench()
    method = {"_camera": "read", "_policy": "act", "_perception": "perceive"}[part]

    def fail(*arguments: object) -> None:
        raise ValueError("broken")

    setattr(getattr(bench.holder(part), part), method, fail)
    with pytest.raises(StageError, match="broken"):
        ticks_of(bench, 30)
    assert_came_to_rest(bench)
    assert bench.arm.stops == 1


def test_a_latched_gate_in_mid_motion_brakes_first_and_stops_the_arm_then() -> None:
    bench = moving_bench()
    bench.policy.targets = [np.full(6, np.nan)]
    stops = []
    for _ in range(100):
        assert bench.loop.tick().decision.is_latched
        stops.append(bench.arm.stops)
    assert stops[0] == 0
    assert stops[-1] > 0
    bench.sink.ticks = bench.sink.ticks[: len(bench.arm.commands)]
    assert_came_to_rest(bench)


def test_a_late_tick_samples_the_motion_at_its_nominal_time() -> None:
    """Some milliseconds of delay within the period change nothing of what is sent."""
    calm, late = moving_bench(), moving_bench(30)
    rng = np.random.default_rng(0)
    act = late.policy.act

    def act_late(observation: Observation) -> ActionChunk:
        late.clock.advance(float(rng.uniform(0.0, 0.006)))
        return act(observation)

    late.policy.act = act_late
    for _ in range(30):
        assert late.loop.tick().decision.allowed
    np.testing.assert_array_equal(late.arm.commands, calm.arm.commands)


def test_periods_that_were_missed_are_left_out_and_caught_up_within_the_limits() -> None:
    bench = moving_bench(50)
    bench.clock.advance(0.020)
    ticks = [bench.loop.tick() for _ in range(120)]
    assert all(tick.decision.allowed for tick in ticks)
    stamps = np.array([tick.stamp_s for tick in bench.sink.ticks]) - 5.0
    assert stamps[50] == pytest.approx(51 / CELL.control_hz)
    np.testing.assert_allclose(np.diff(stamps[50:]), 1 / CELL.control_hz)
    sent = np.array([HOME, HOME, HOME, *bench.arm.commands])
    bounds = (LIMITS.qvel_max, 1.5 * LIMITS.qacc_max, 4.0 * LIMITS.qjerk_max)
    for order, bound in enumerate(bounds, start=1):
        assert (np.abs(np.diff(sent, order, axis=0)) * CELL.control_hz**order <= bound * (1 + 1e-5)).all()


@dataclass
class WholeMotion(ListedPolicy):
    """Gives one chunk, a whole motion from its first observation on, again and again."""

    def act(self, observation: Observation) -> ActionChunk:
        self.seen.append(observation)
        actions = np.column_stack([np.array(self.targets), np.full(len(self.targets), 0.05)])
        return ActionChunk(actions, 1 / CELL.control_hz, self.seen[0].stamp_s)


def test_with_a_real_clock_a_smooth_motion_passes_every_gate() -> None:
    """However late a tick is done, set-points belong to nominal times; they used to be sampled at the actual time, and
    the acceleration gate latched within 0.2 s."""
    goal = HOME + np.array([-0.5, 0.0, 0.0, 0.3, 0.0, 0.0])
    motion = plan_joint_motion(HOME, np.zeros(6), goal, LIMITS, 1 / CELL.control_hz)
    # On a busy machine the loop may sleep for long, and then finds its target far ahead.
    patience = {"hold_age_s": 20.0, "stop_age_s": 30.0, "policy_silent_max_s": 20.0, "step_max_rad": 10.0}
    patient = SAFETY.model_copy(update=patience)
    bench = Bench(WholeMotion(list(motion.qpos)), clock=MonotonicClock(), safety=patient)
    ticks = bench.run(len(motion.qpos) + 10)
    assert [tick.violations for tick in ticks if tick.violations] == []
    while not np.array_equal(bench.arm.qpos, goal):
        assert bench.loop.tick().decision.allowed
    sent = np.array([HOME, HOME, HOME, *bench.arm.commands])
    bounds = (LIMITS.qvel_max, 1.5 * LIMITS.qacc_max, 4.0 * LIMITS.qjerk_max)
    for order, bound in enumerate(bounds, start=1):
        assert (np.abs(np.diff(sent, order, axis=0)) * CELL.control_hz**order <= bound * (1 + 1e-5)).all()
