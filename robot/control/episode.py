"""Run one episode from reset to result: what happened, how long it took, and whether policy and success check agree.

Success needs both: the success check, which knows where the object really is, and the policy, which has only seen it.
A policy that succeeds without noticing, or claims a success that did not happen, has failed.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from typing_extensions import assert_never

from handeye.robot.control.loop import ControlLoop, Tick
from handeye.robot.control.set_point_stream import GateDecision
from handeye.robot.errors import RobotError, SafetyError, StageError
from handeye.robot.interfaces import Outcome, PickTask, PolicyStatus
from handeye.vision.errors import UserError

EPISODE_TIMEOUT = "episode_timeout"
"""The policy was still running when the episode timed out."""
FAILED_STAGE = "_error"
"""A device, the perception or the policy failed: camera_error, policy_error, ..."""
KILLED = "_killed"
"""A process has died: perception_killed, camera_killed, ..."""
START_REFUSED = "start_refused"
"""The arm stood where the gates would not let it go."""
GATE_STOP = "gate"
"""A gate latched the stop; the reason code of the gate follows."""
WRONG_SUCCESS = "wrong_success"
"""The policy reported success, the success check did not."""

NOTHING_DONE = PolicyStatus("begin", Outcome.FAILED)
"""The status of an episode that ended before its first tick."""
logger = logging.getLogger("handeye")


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Result of a success check: whether the task is done, why not, and what else was touched, how often by kind."""

    success: bool
    reason: str = ""
    contacts: Mapping[str, int] = field(default_factory=dict)


@runtime_checkable
class SuccessCheck(Protocol):
    """Decides whether a task is done: in the simulator from the true state, on hardware a person."""

    def __call__(self) -> CheckResult:
        """Check the present state of the cell."""
        ...


@dataclass(frozen=True, slots=True)
class EpisodeEnd:
    """How an episode ended, before anyone has looked at the object.

    latched is the reason code of the gate that stopped it, failed what failed instead (camera_error, ...), error what
    that said. cycle_s is the episode's clock from reset to the policy's end.
    """

    status: PolicyStatus
    cycle_s: float
    gate_violations: Mapping[str, int]
    latched: str | None = None
    failed: str | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Punctuality:
    """How well the control loop kept to a real clock, and how long frames take to become commands.

    period_s and lateness_ms: when each control period began since the task did, and how much later than its nominal
    time; missed: how many were left out, by why. frame_s: when each frame was exposed; latency_ms: from then to the
    first command that rests on it; frame_ms: the stages of that way.
    """

    period_s: list[float] = field(repr=False)
    lateness_ms: list[float] = field(repr=False)
    missed: Mapping[str, int]
    frame_s: list[float] = field(repr=False)
    latency_ms: list[float] = field(repr=False)
    frame_ms: Mapping[str, list[float]] = field(repr=False)


@dataclass(frozen=True, slots=True)
class EpisodeResult:
    """The result of one episode. cycle_s is the episode's clock from reset to the policy's end.

    reason says why it is no success, None if it is, check_reason what the success check says, error what a device or a
    program said where one failed. gate_violations counts ticks by reason code, stage_ms holds every measured duration
    by stage. limit_breaches counts limits that were broken by the simulator's truth and by what was sent, contacts how
    often arm and hand began to touch something that they should not, by kind, as the success check saw it. stop_s is
    the time from the last target that the gates let pass to standstill where the episode ended in a stop. punctuality
    is that of a real clock; None in lock-step.
    """

    seed: int
    success: bool
    checked_success: bool
    outcome: Outcome
    reason: str | None
    check_reason: str
    last_stage: str
    cycle_s: float
    attempts: int
    gate_violations: Mapping[str, int]
    stage_ms: Mapping[str, list[float]] = field(repr=False)
    error: str = ""
    limit_breaches: Mapping[str, int] = field(default_factory=dict)
    stop_s: float | None = None
    contacts: Mapping[str, int] = field(default_factory=dict)
    punctuality: Punctuality | None = None


def run_episode(
    loop: ControlLoop, task: PickTask, success_check: SuccessCheck, *, seed: int, timeout_s: float
) -> EpisodeResult:
    """Tick the loop until the policy has finished or `timeout_s` of its clock have passed, then check for success.

    The cell must have been reset to `seed` and the arm entered. A device, the perception or a policy that fails ends
    the episode with its name as the reason. However it ends, the arm has been brought to rest by then.
    """
    violations: Counter[str] = Counter()
    tick, began_s, failed, error = None, 0.0, None, ""
    try:
        began_s = loop.begin(task)
        while tick is None or not _ends(tick, began_s, timeout_s):
            tick = loop.tick()
            violations.update(reason.value for reason in tick.decision.reasons)
        loop.finish()
    except (StageError, SafetyError) as stopped:
        if not isinstance(stopped.__cause__, RobotError | UserError | None):
            logger.error("seed %d: a fault in a program stopped the episode", seed, exc_info=stopped)
        failed = stopped.stage + FAILED_STAGE if isinstance(stopped, StageError) else START_REFUSED
        error = str(stopped)
    end = EpisodeEnd(
        NOTHING_DONE if tick is None else tick.status,
        0.0 if tick is None else tick.stamp_s - began_s,
        dict(violations),
        latched_reason(tick.decision) if tick is not None else None,
        failed,
        error,
    )
    return conclude(end, success_check(), seed=seed, stage_ms=loop.timer.durations_ms())


def conclude(end: EpisodeEnd, checked: CheckResult, *, seed: int, stage_ms: Mapping[str, list[float]]) -> EpisodeResult:
    """The result of an episode that has ended, once its success was checked."""
    outcome = Outcome.FAILED if end.failed else end.status.outcome
    return EpisodeResult(
        seed=seed,
        success=checked.success and outcome is Outcome.SUCCEEDED,
        checked_success=checked.success,
        outcome=outcome,
        reason=failure_reason(end, checked),
        check_reason=checked.reason,
        last_stage=end.status.stage,
        cycle_s=end.cycle_s,
        attempts=end.status.attempts,
        gate_violations=end.gate_violations,
        stage_ms=stage_ms,
        error=end.error,
        contacts=checked.contacts,
    )


def is_stop(result: EpisodeResult) -> bool:
    """Whether the episode ended because a gate, a device, a program or the death of a process stopped it."""
    reason = result.reason or ""
    return reason.startswith(f"{GATE_STOP}_") or reason.endswith((FAILED_STAGE, KILLED))


def _ends(tick: Tick, began_s: float, timeout_s: float) -> bool:
    return tick.status.is_over or tick.decision.is_latched or tick.stamp_s - began_s >= timeout_s


def latched_reason(decision: GateDecision) -> str | None:
    """The reason code of the gate that latched, if one did."""
    return decision.reasons[0].value if decision.is_latched else None


def failure_reason(end: EpisodeEnd, checked: CheckResult) -> str | None:
    """Why an episode is no success; None if it is.

    What failed comes first, then a stop by the gates, then the policy's reason, then a timeout or a wrong success.
    """
    if end.failed:
        return end.failed
    if end.latched:
        return f"{GATE_STOP}_{end.latched}"
    match end.status.outcome:
        case Outcome.FAILED:
            return end.status.reason or "unknown"
        case Outcome.RUNNING:
            return EPISODE_TIMEOUT
        case Outcome.SUCCEEDED:
            return None if checked.success else WRONG_SUCCESS
        case _:
            assert_never(end.status.outcome)
