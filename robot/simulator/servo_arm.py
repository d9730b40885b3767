"""Simulate the arm and gripper as a driver: set-points at the control rate, servos at the rate of physics.

Between set-points the servo target moves in a straight line with matching velocity, as in the servo interface of a
real controller; the arm is one control period behind the command. Told to stop, or when a set-point does not come, the
controller brakes by itself on a ramp of its own.
"""

from __future__ import annotations

from collections import deque
from types import TracebackType

import numpy as np
from jaxtyping import Float

from handeye.robot.config import WorkCellConfig
from handeye.robot.errors import ArmError
from handeye.robot.kinematics.limits import joint_limits_from_config
from handeye.robot.motion.jerk_limited import Bounds
from handeye.robot.motion.set_points import stop_path
from handeye.robot.simulator.scene import PHYSICS_DT_S, Physics, arm_addresses
from handeye.robot.types import NUM_JOINTS, CommandState, JointState

RAMP_ACCELERATION, RAMP_JERK = 2.0, 8.0
"""Multiples of the cell's limits on the controller's own ramp: steeper than any stop that is commanded."""


class SimulatedArm:
    """A robot.interfaces.Arm of the simulated cell. Joint targets are clamped to the joint limits."""

    def __init__(self, physics: Physics, cell: WorkCellConfig, *, latency_s: float = 0.0) -> None:
        """`latency_s`: from a command until the servos begin to follow it."""
        self._physics, self._cell, self._latency_s = physics, cell, latency_s
        self._is_entered = False
        self.gripper_is_stuck = False
        self._dt_s = 1.0 / cell.control_hz
        limits = joint_limits_from_config(cell.joint_limits)
        self._ramp_bounds = Bounds(limits.qvel_max, RAMP_ACCELERATION * limits.qacc_max, RAMP_JERK * limits.qjerk_max)
        physics.before_step.append(self._drive)

    def __enter__(self) -> SimulatedArm:
        """Take control of the arm at its present state. Raises ArmError before the first reset of the cell."""
        try:
            self.reset()
        except RuntimeError as error:
            raise ArmError(str(error)) from error
        self._is_entered = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop and release."""
        if self._is_entered:
            self.stop()
        self._is_entered = False

    def reset(self) -> None:
        """Hold the present joint angles and opening; the cell calls this for every new scene."""
        data = self._physics.scene.data
        places = data.qpos[arm_addresses(self._physics.scene.model)]
        self._command = CommandState.at_rest(places[:NUM_JOINTS])
        self._from = self._command.qpos
        self._ramp: list[Float[np.ndarray, " 6"]] = []
        self._on_the_way: deque[tuple[float, Float[np.ndarray, " 6"], float]] = deque()
        self._since_s = self._physics.now_s()
        self._opening_target_m = self._opening_m = float(np.sum(places[NUM_JOINTS:]))
        self.gripper_is_stuck = False

    def read_state(self) -> JointState:
        """Joint angles, velocities and gripper opening now."""
        self._require_entered()
        data = self._physics.scene.data
        at = arm_addresses(self._physics.scene.model)
        return JointState(
            qpos=data.qpos[at[:NUM_JOINTS]].copy(),
            qvel=data.qvel[at[:NUM_JOINTS]].copy(),
            gripper_opening_m=float(np.sum(data.qpos[at[NUM_JOINTS:]])),
            stamp_s=self._physics.now_s(),
        )

    def command(self, qpos_command: Float[np.ndarray, " 6"], gripper_opening_m: float) -> Float[np.ndarray, " 6"]:
        """Move to this set-point within one control period; returns it clamped to the joint limits."""
        self._require_entered()
        sent, opening_m = within_limits(qpos_command, gripper_opening_m, self._cell)
        self.schedule(sent, opening_m, self._physics.now_s() + self._latency_s)
        self._receive(self._physics.now_s())
        return sent.copy()

    def schedule(self, qpos: Float[np.ndarray, " 6"], opening_m: float, due_s: float) -> None:
        """Take a set-point that the servos begin to follow at `due_s`, s by the physics."""
        self._on_the_way.append((due_s, qpos, opening_m))

    def stop(self) -> None:
        """Brake to rest on the controller's ramp; the gripper goes on as commanded."""
        self._on_the_way.clear()
        if self._is_entered and not self._ramp:
            self._ramp = self._plan_ramp()

    def _receive(self, stamp_s: float) -> None:
        """Take the commands that have arrived."""
        while self._on_the_way and self._on_the_way[0][0] <= stamp_s + PHYSICS_DT_S / 2:
            _, qpos, self._opening_target_m = self._on_the_way.popleft()
            self._ramp = []
            self._go_to(qpos, stamp_s)

    def _go_to(self, qpos: Float[np.ndarray, " 6"], stamp_s: float) -> None:
        """Take the next set-point, to be reached in one period from now on."""
        self._from, _ = self._target(stamp_s)
        self._command = self._command.then(qpos, self._dt_s)
        self._since_s = stamp_s

    def _plan_ramp(self) -> list[Float[np.ndarray, " 6"]]:
        """The set-points of a stop; none for an arm at rest, or for one that was sent away faster than it can go."""
        command, bounds = self._command, self._ramp_bounds
        is_within = np.abs([command.qvel, command.qacc]) <= [bounds.velocity, bounds.acceleration]
        return [] if command.is_at_rest or not is_within.all() else list(stop_path(command, bounds, self._dt_s))

    def _follow_ramp(self, stamp_s: float) -> None:
        """The set-points of the ramp, one a period; it begins where a period ends without a new set-point."""
        if stamp_s - self._since_s < self._dt_s - PHYSICS_DT_S / 2:
            return
        self._ramp = self._ramp or self._plan_ramp()
        if self._ramp:
            self._go_to(self._ramp.pop(0), stamp_s)
            if not self._ramp:
                self._command = CommandState.at_rest(self._command.qpos)

    def _target(self, stamp_s: float) -> tuple[Float[np.ndarray, " 6"], Float[np.ndarray, " 6"]]:
        """Position and velocity targets of the servos."""
        progress = (stamp_s - self._since_s) * self._cell.control_hz
        if progress >= 1.0 - 1e-9:
            return self._command.qpos, np.zeros(NUM_JOINTS)
        step = self._command.qpos - self._from
        return self._from + progress * step, step * self._cell.control_hz

    def _drive(self, stamp_s: float) -> None:
        """Write the servos' inputs for the step that begins now."""
        self._receive(stamp_s)
        self._follow_ramp(stamp_s)
        aim, _ = self._target(stamp_s + PHYSICS_DT_S)
        _, velocity = self._target(stamp_s)
        if not self.gripper_is_stuck:
            if self._opening_target_m > self._opening_m:
                # Fingers that were pressed on something open from where they are, not from where they were sent.
                self._opening_m = max(self._opening_m, min(self._measured_opening_m(), self._opening_target_m))
            reach = self._cell.gripper.speed_m_s * PHYSICS_DT_S
            self._opening_m += float(np.clip(self._opening_target_m - self._opening_m, -reach, reach))
        ctrl = self._physics.scene.data.ctrl
        ctrl[:NUM_JOINTS] = aim
        ctrl[NUM_JOINTS : 2 * NUM_JOINTS] = velocity
        ctrl[2 * NUM_JOINTS :] = self._opening_m / 2

    def _measured_opening_m(self) -> float:
        data = self._physics.scene.data
        return float(np.sum(data.qpos[arm_addresses(self._physics.scene.model)[NUM_JOINTS:]]))

    def _require_entered(self) -> None:
        if not self._is_entered:
            raise ArmError("the arm is closed: use it inside `with cell.arm:`")


def within_limits(
    qpos: Float[np.ndarray, " 6"], opening_m: float, cell: WorkCellConfig
) -> tuple[Float[np.ndarray, " 6"], float]:
    """A set-point (rad, m) clamped to what arm and gripper can take. Raises ArmError for one that is not finite."""
    if not (np.all(np.isfinite(qpos)) and np.isfinite(opening_m)):
        raise ArmError(f"set-point is not finite: {qpos.tolist()} rad, opening {opening_m} m")
    limits, gripper = cell.joint_limits, cell.gripper
    clamped = np.clip(qpos, limits.qpos_low_rad, limits.qpos_high_rad)
    return clamped, float(np.clip(opening_m, gripper.opening_min_m, gripper.opening_max_m))
