"""The one owner of what is sent to the arm: follows the policy's targets within limits, gates them, and stops.

Each set-point is judged together with the stop that would follow it. Only where both pass is it sent, and that stop
is kept: on the next objection the arm comes to rest along it. So whatever was sent, in every state, has passed the
gates, and its differences keep velocity, acceleration and jerk.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from handeye.robot.config import WorkCellConfig
from handeye.robot.control.gates import GateReason, Violations
from handeye.robot.control.safety import SafetyConfig, SafetyGates
from handeye.robot.errors import SafetyError
from handeye.robot.motion.set_points import SetPoint, follow_target, stop_path
from handeye.robot.types import CommandState

SENT_TOLERANCE_RAD = 1e-9
"""A driver that sends something farther than this from the command has changed it."""


@dataclass(frozen=True, slots=True, eq=False)
class GateDecision:
    """The command to send now: towards the target when allowed, otherwise along the stop.

    violations are those of this tick, or those that latched the stop. is_latched: once the command is at rest call
    `arm.stop()`, and stay there until someone has looked and called `reset`.
    """

    allowed: bool
    violations: Violations
    command: CommandState
    gripper_command_m: float
    is_latched: bool

    @property
    def qpos_command(self) -> Float[np.ndarray, " 6"]:
        """The set-point to send, rad."""
        return self.command.qpos

    @property
    def reasons(self) -> tuple[GateReason, ...]:
        """Each reason once, in the order of the gates."""
        return tuple(dict.fromkeys(violation.reason for violation in self.violations))


class SetPointStream:
    """What was sent last, the stop that is ready, and the latch. Begins with `reset`; then one `step` a period."""

    def __init__(self, config: SafetyConfig, cell: WorkCellConfig) -> None:
        """Raises ConfigError when the margin leaves a joint no room."""
        self._gates = SafetyGates(config, cell)
        self._dt_s = 1.0 / cell.control_hz
        self._command: CommandState | None = None
        self._target_before: Float[np.ndarray, " 6"] | None = None
        self._gripper_m = self._stale_s = 0.0
        self._stop = np.zeros((0, 6))
        self._latched: Violations = ()

    @property
    def latched(self) -> Violations:
        """The violations that latched the stop; empty while set-points may pass."""
        return self._latched

    @property
    def command(self) -> CommandState:
        """What was sent last. Raises SafetyError before the first `reset`."""
        if self._command is None:
            raise SafetyError("the gates do not know where the arm is: call reset with its joint angles first")
        return self._command

    def reset(self, qpos: Float[np.ndarray, " 6"], gripper_opening_m: float) -> None:
        """Open the latch and take the arm's present resting position (rad, m) for the last set-point.

        A measured opening may lie a hair outside the gripper's range; the nearest inside counts as commanded. Raises
        SafetyError, and changes nothing, when the arm stands where the gates would not have let it go.
        """
        violations = self._gates.check_start(qpos, gripper_opening_m)
        if violations:
            raise SafetyError(f"the arm stands outside its gates: {'; '.join(map(str, violations))}")
        self._stand_at(qpos)
        self._gripper_m = self._gates.in_gripper_range(gripper_opening_m)
        self._latched = ()

    def step(self, target: SetPoint, *, observation_age_s: float) -> GateDecision:
        """The set-point for this control period, one period after the last; observation_age_s is what it rests on.

        Once latched, every target is refused. Raises SafetyError before the first `reset`.
        """
        last = self.command
        if self._latched:
            return self.hold(self._latched)
        gates = self._gates
        violations = gates.check_target(target, last, observation_age_s)
        is_stale = any(violation.reason is GateReason.STALE_OBSERVATION for violation in violations)
        self._stale_s = self._stale_s + self._dt_s if is_stale else 0.0
        violations += gates.check_wait(self._stale_s)
        if violations:
            return self.hold(violations)
        before = target.qpos_target if self._target_before is None else self._target_before
        command = follow_target(last, target.qpos_target, before, gates.bounds, self._dt_s)
        stop = stop_path(command, gates.bounds, self._dt_s)
        gripper_m = gates.in_gripper_range(target.gripper_target_m)
        opening_m, holds = max(gripper_m, self._gripper_m), gates.may_hold(min(gripper_m, self._gripper_m))
        violations = gates.check_command(last, command, stop, opening_m, holds=holds)
        if violations:
            return self.hold(violations)
        self._command, self._stop, self._gripper_m = command, stop, gripper_m
        self._target_before = target.qpos_target.copy()
        return self._decision(())

    def hold(self, violations: Violations = ()) -> GateDecision:
        """One period along the stop, and at rest after it; the gripper keeps its hold. Some reasons latch.

        Without violations it is a stop that nobody objects to: at the end of a task, or after an error.
        """
        if any(violation.reason.latches for violation in violations):
            self._latched = violations
        here, rest = self.command, self._stop
        if len(rest) > 0:
            self._command = here.then(rest[0], self._dt_s)
        else:  # the last step of a stop leaves a rounding's velocity
            self._command = here.then(here.qpos, self._dt_s) if here.qvel.any() else CommandState.at_rest(here.qpos)
        self._stop = rest[1:]
        self._target_before = None
        return self._decision(violations, allowed=False)

    def resync(self, qpos_sent: Float[np.ndarray, " 6"]) -> bool:
        """Take what the driver has really sent (rad); whether it differed from the command. The arm then rests there.

        A driver that changes a set-point has its reason; where it leaves the arm is where the stream goes on.
        """
        if np.abs(qpos_sent - self.command.qpos).max() <= SENT_TOLERANCE_RAD:
            return False
        self._stand_at(qpos_sent)
        return True

    def _stand_at(self, qpos: Float[np.ndarray, " 6"]) -> None:
        self._command = CommandState.at_rest(qpos)
        self._stop = qpos[None].copy()
        self._target_before = None
        self._stale_s = 0.0

    def _decision(self, violations: Violations, *, allowed: bool = True) -> GateDecision:
        return GateDecision(allowed, violations, self.command, self._gripper_m, bool(self._latched))
