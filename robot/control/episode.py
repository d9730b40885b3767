"""Run one episode: cycle time, gate violations, and success, which needs both the policy and the judge.

The judge knows where the object really is, the policy only what it has seen. A policy that has succeeded without
noticing, or reports a success that is none, has failed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from typing_extensions import assert_never

from handeye.robot.control.loop import ControlLoop, Tick
from handeye.robot.interfaces import Outcome, PickTask

EPISODE_TIMEOUT = "episode_timeout"
"""The policy was still running when the episode timed out."""
GATE_STOP = "gate"
"""A gate latched the stop; the reason code of the gate follows."""
WRONG_SUCCESS = "wrong_success"
"""The policy reported a success that the judge does not confirm."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """Ground truth: whether the task is done, and in words why not."""

    success: bool
    reason: str = ""


@runtime_checkable
class Judge(Protocol):
    """Judges a finished episode by ground truth: in the simulator the physics, on hardware a person."""

    def __call__(self) -> Judgement:
        """Judge the present state of the cell."""
        ...


@dataclass(frozen=True, slots=True)
class EpisodeResult:
    """The result of one episode. cycle_s is the episode's clock from reset to the policy's end.

    reason is why the episode failed, None if it succeeded, judge_reason the judge's. gate_violations counts ticks by
    reason code, stage_ms holds every measured duration by stage.
    """

    seed: int
    success: bool
    judged_success: bool
    outcome: Outcome
    reason: str | None
    judge_reason: str
    last_stage: str
    cycle_s: float
    attempts: int
    gate_violations: Mapping[str, int]
    stage_ms: Mapping[str, list[float]] = field(repr=False)


def run_episode(loop: ControlLoop, task: PickTask, judge: Judge, *, seed: int, timeout_s: float) -> EpisodeResult:
    """Tick the loop until the policy has finished or `timeout_s` of its clock have passed, then ask the judge.

    The cell must have been reset to `seed` and the arm entered. Errors of devices pass through.
    """
    violations: Counter[str] = Counter()
    began_s = loop.begin(task)
    while True:
        tick = loop.tick()
        violations.update(reason.value for reason in tick.decision.reasons)
        if tick.status.is_over or tick.decision.is_latched or tick.stamp_s - began_s >= timeout_s:
            break
    judgement = judge()
    return EpisodeResult(
        seed=seed,
        success=judgement.success and tick.status.outcome is Outcome.SUCCEEDED,
        judged_success=judgement.success,
        outcome=tick.status.outcome,
        reason=failure_reason(tick, judgement),
        judge_reason=judgement.reason,
        last_stage=tick.status.stage,
        cycle_s=tick.stamp_s - began_s,
        attempts=tick.status.attempts,
        gate_violations=dict(violations),
        stage_ms=loop.timer.durations_ms(),
    )


def failure_reason(tick: Tick, judgement: Judgement) -> str | None:
    """Why the episode that ended with `tick` failed; None if it succeeded.

    A stop by the gates comes first, then the policy's reason, then a timeout or a wrong success.
    """
    if tick.decision.is_latched:
        return f"{GATE_STOP}_{tick.decision.reasons[0].value}"
    match tick.status.outcome:
        case Outcome.FAILED:
            return tick.status.reason or "unknown"
        case Outcome.RUNNING:
            return EPISODE_TIMEOUT
        case Outcome.SUCCEEDED:
            return None if judgement.success else WRONG_SUCCESS
        case _:
            assert_never(tick.status.outcome)
