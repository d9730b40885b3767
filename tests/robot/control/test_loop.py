"""The loop: what goes where in a tick, at which rates, and what a gate's objection leads to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from handeye.robot.control.gates import GateReason
from handeye.robot.errors import SafetyError
from handeye.robot.kinematics.forward import forward_kinematics
from handeye.robot.types import Frame
from tests.robot.control.fake_devices import CELL, HOME, TASK, Bench, ListedPolicy, slow_turn


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
    first, *later = [seen.qpos_command for seen in bench.policy.seen]
    assert first is None
    np.testing.assert_array_equal(later, bench.arm.commands[:-1])


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
    assert bench.policy.seen[0].qpos_command is None


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
