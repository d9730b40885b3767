"""Watch an episode by the simulator's truth: what the arm really did, whatever the loop believes."""

# pyright: reportAttributeAccessIssue=false
# MuJoCo is a compiled module without type information.

from __future__ import annotations

from collections import Counter

import numpy as np
from jaxtyping import Float

from handeye.robot.config import WorkCellConfig
from handeye.robot.control.loop import Tick
from handeye.robot.control.safety import SafetyConfig, SafetyGates
from handeye.robot.simulator.contacts import ContactReader, Touched
from handeye.robot.simulator.scene import Physics, arm_addresses
from handeye.robot.types import NUM_JOINTS, CommandState

SERVO_VELOCITY = 1.1
"""Servos that catch up may be this much faster than the set-points."""
SERVO_LAG_M = 0.005
"""So far the hand may be beside the workspace while it follows set-points inside."""
STILL_RAD_S = 0.02
ROUNDING = 1e-5
CONTACTS = {Touched.SELF: "self_contact", Touched.TABLE: "table_contact", Touched.FIXTURE: "fixture_contact"}
"""Contacts of arm and hand that the gates are to prevent. Objects are none: the gates do not know where they are."""


class LimitWatch:
    """Counts breaches of limits: joints, workspace and contacts by the true state, set-points by what was sent.

    A TickSink; use one for each episode.
    """

    def __init__(self, physics: Physics, cell: WorkCellConfig, safety: SafetyConfig) -> None:
        self.breaches: Counter[str] = Counter()
        """Physics steps or ticks in which each limit was broken."""
        self.last_moved_s = 0.0
        """When a joint moved last, s."""
        self.last_allowed_s = 0.0
        """When the gates let a target pass last, s."""
        self._physics, self._cell = physics, cell
        self._bounds = SafetyGates(safety, cell).bounds
        self._dt_s = 1.0 / cell.control_hz
        self._command: CommandState | None = None
        self._low_m = np.array(cell.workspace.low_m) - SERVO_LAG_M
        self._high_m = np.array(cell.workspace.high_m) + SERVO_LAG_M

    def __enter__(self) -> LimitWatch:
        """Watch the scene from now on."""
        self._contacts = ContactReader(self._physics.scene)
        self._physics.after_step.append(self._watch)
        return self

    def __exit__(self, *error: object) -> None:
        """Watch no more."""
        self._physics.after_step.remove(self._watch)

    def write(self, tick: Tick) -> None:
        """Check the differences of what was sent; the first set-point counts as sent at rest."""
        if tick.decision.allowed:
            self.last_allowed_s = tick.stamp_s
        self.note_sent(tick.qpos_command)

    def note_sent(self, qpos_command: Float[np.ndarray, " 6"]) -> None:
        """Check the differences of the next set-point that was sent, rad."""
        if self._command is None:
            self._command = CommandState.at_rest(self._qpos())
        command = self._command.then(qpos_command, self._dt_s)
        jerk = (command.qacc - self._command.qacc) / self._dt_s
        self._command = command
        rates = {"sent_velocity": command.qvel, "sent_acceleration": command.qacc, "sent_jerk": jerk}
        for (name, rate), bound in zip(rates.items(), self._bounds, strict=True):
            self.breaches[name] += bool(np.any(np.abs(rate) > bound * (1.0 + ROUNDING)))

    def _watch(self, stamp_s: float) -> None:
        data, at = self._physics.scene.data, arm_addresses(self._physics.scene.model)[:NUM_JOINTS]
        qpos, qvel = self._qpos(), data.qvel[at]
        limits = self._cell.joint_limits
        if np.abs(qvel).max() > STILL_RAD_S:
            self.last_moved_s = stamp_s
        is_out = np.any(qpos < np.array(limits.qpos_low_rad)) or np.any(qpos > np.array(limits.qpos_high_rad))
        self.breaches["joint_limit"] += bool(is_out)
        self.breaches["joint_velocity"] += bool(np.any(np.abs(qvel) > SERVO_VELOCITY * np.array(limits.qvel_rad_s)))
        p_tcp = data.site("tcp").xpos
        self.breaches["workspace"] += bool(np.any(p_tcp < self._low_m) or np.any(p_tcp > self._high_m))
        for touched in {contact.touched for contact in self._contacts.read()} & CONTACTS.keys():
            self.breaches[CONTACTS[touched]] += 1

    def _qpos(self) -> Float[np.ndarray, " 6"]:
        return self._physics.scene.data.qpos[arm_addresses(self._physics.scene.model)[:NUM_JOINTS]].copy()
