"""The result of an episode: success takes both the policy and the success check, and every other end has a name."""

from __future__ import annotations

import numpy as np
import pytest

from handeye.robot.control.episode import CheckResult, run_episode
from handeye.robot.errors import ArmError, CameraError, PolicyInputError
from handeye.robot.interfaces import Outcome
from handeye.vision.errors import ModelFileError
from tests.robot.control.fake_devices import HOME, TASK, Bench, ListedPolicy

YES, NO = CheckResult(success=True), CheckResult(success=False, reason="not in the bin")


@pytest.mark.parametrize(
    ("outcome", "reason", "checked", "expected"),
    [
        (Outcome.SUCCEEDED, None, YES, None),
        (Outcome.SUCCEEDED, None, NO, "wrong_success"),
        (Outcome.FAILED, "lost", NO, "lost"),
        (Outcome.FAILED, "lost", YES, "lost"),
        (Outcome.FAILED, None, NO, "unknown"),
    ],
)
def test_success_takes_both(outcome: Outcome, reason: str | None, checked: CheckResult, expected: str | None) -> None:
    bench = Bench(ListedPolicy([HOME], ends_after=26, outcome=outcome, reason=reason))
    result = run_episode(bench.loop, TASK, lambda: checked, seed=3, timeout_s=60.0)
    assert result.success == (expected is None)
    assert (result.reason, result.checked_success, result.outcome) == (expected, checked.success, outcome)
    assert (result.seed, result.last_stage, result.check_reason) == (3, "listed", checked.reason)
    assert result.cycle_s == pytest.approx(25 / 125)
    assert len(result.stage_ms["tick"]) == 26


def test_a_policy_that_never_ends_is_ended() -> None:
    bench = Bench(ListedPolicy([HOME]))
    result = run_episode(bench.loop, TASK, lambda: YES, seed=0, timeout_s=0.4)
    assert (result.success, result.reason, result.outcome) == (False, "episode_timeout", Outcome.RUNNING)
    assert result.cycle_s == pytest.approx(0.4)


def test_a_latched_gate_ends_the_episode_and_is_its_reason() -> None:
    bench = Bench(ListedPolicy([HOME, HOME + 1.0], ends_after=100))
    result = run_episode(bench.loop, TASK, lambda: YES, seed=0, timeout_s=60.0)
    assert not result.success
    assert result.reason is not None
    assert result.reason.startswith("gate_")
    assert result.gate_violations["step"] == 1
    assert result.cycle_s == pytest.approx(1 / 125)


class Broken:
    """A policy, camera or arm whose method `name` fails from the `after`-th call on."""

    def __init__(self, part: object, name: str, error: Exception, after: int = 10) -> None:
        self._part, self._name, self._error, self._left = part, name, error, after

    def __getattr__(self, name: str) -> object:
        if name == self._name:
            self._left -= 1
            if self._left < 0:
                raise self._error
        return getattr(self._part, name)


@pytest.mark.parametrize(
    ("part", "method", "error", "reason"),
    [
        ("_camera", "read", CameraError("the cable is out"), "camera_error"),
        ("_arm", "read_state", ArmError("no state for 0.1 s"), "arm_error"),
        ("_arm", "command", ArmError("protective stop"), "arm_error"),
        ("_policy", "act", PolicyInputError("no image"), "policy_error"),
        ("_policy", "act", ZeroDivisionError(), "policy_error"),
        ("_perception", "perceive", ModelFileError("the engine failed"), "perception_error"),
    ],
)
def test_a_part_that_fails_ends_the_episode_by_name_and_stops_the_arm(
    part: str, method: str, error: Exception, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(ListedPolicy([HOME], ends_after=1000))
    holder = bench.holder(part)
    setattr(holder, part, Broken(getattr(holder, part), method, error, after=2))
    result = run_episode(bench.loop, TASK, lambda: NO, seed=5, timeout_s=60.0)
    assert (result.success, result.outcome, result.reason) == (False, Outcome.FAILED, reason)
    assert (str(error) or type(error).__name__) in result.error
    assert bench.arm.stops == 1
    assert ("Traceback" in caplog.text) is isinstance(error, ZeroDivisionError), "a fault in a program shows its place"


def test_an_arm_that_may_not_start_from_where_it_is_is_a_result() -> None:
    bench = Bench(ListedPolicy([HOME]))
    bench.arm.qpos = HOME + np.array([0.0, 1.2, 0.0, 0.0, 0.0, 0.0])
    result = run_episode(bench.loop, TASK, lambda: NO, seed=0, timeout_s=60.0)
    assert (result.success, result.reason, result.cycle_s, result.last_stage) == (False, "start_refused", 0.0, "begin")
    assert "table" in result.error
    assert not bench.arm.commands


@pytest.mark.parametrize(
    ("part", "method", "reason"), [("_arm", "read_state", "arm_error"), ("_policy", "reset", "policy_error")]
)
def test_a_part_that_fails_before_the_first_tick_is_named_too(part: str, method: str, reason: str) -> None:
    bench = Bench(ListedPolicy([HOME]))
    holder = bench.holder(part)
    setattr(holder, part, Broken(getattr(holder, part), method, ArmError("nobody answers"), after=0))
    result = run_episode(bench.loop, TASK, lambda: NO, seed=0, timeout_s=60.0)
    assert (result.success, result.reason, result.cycle_s) == (False, reason, 0.0)
    assert "nobody answers" in result.error


def test_an_arm_that_cannot_even_be_stopped_is_a_result() -> None:
    bench = Bench(ListedPolicy([HOME], ends_after=1000))
    lost = Broken(bench.arm, "read_state", ArmError("connection lost"), after=2)
    bench.holder("_arm")._arm = Broken(lost, "stop", ArmError("connection lost"), after=0)
    result = run_episode(bench.loop, TASK, lambda: NO, seed=0, timeout_s=60.0)
    assert (result.success, result.outcome, result.reason) == (False, Outcome.FAILED, "arm_error")
