"""The result of an episode: success takes both the policy and the success check, and every other end has a name."""

from __future__ import annotations

import pytest

from handeye.robot.control.episode import CheckResult, run_episode
from handeye.robot.interfaces import Outcome
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
