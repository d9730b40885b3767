"""Safety gates that check every set-point before it reaches the arm. No limit has a default.

Speed gates are anchored on the last set-point that was commanded, not on a measurement: a lagging arm must not widen
what may be commanded. On any violation the last commanded set-point is held; every violation but a merely old
observation also latches, and the latch opens only by `reset`. Jerk has no gate: it wears gears, but planned motions
bound it already. Software gates prevent accidents of our own making; they are no safety function in the sense of
ISO 13849, so the arm's own safety configuration must stand behind them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from pydantic import Field, model_validator

from handeye.robot.config import WorkCellConfig
from handeye.robot.control.gates import (
    GateReason,
    Violations,
    check_acceleration,
    check_age,
    check_finite,
    check_gripper,
    check_joint_limits,
    check_singularity,
    check_step,
    check_table,
    check_tool_speed,
    check_velocity,
    check_workspace,
)
from handeye.robot.errors import SafetyError
from handeye.robot.kinematics.collision_geometry import points_of_cell
from handeye.robot.kinematics.forward import SingularityMargins, link_frames
from handeye.robot.kinematics.limits import joint_limits_from_config
from handeye.robot.transforms import apply_transform
from handeye.robot.types import NUM_JOINTS
from handeye.vision.config import Config
from handeye.vision.errors import ConfigError


@dataclass(frozen=True, slots=True, eq=False)
class GateDecision:
    """The command to send now: the target itself when allowed, otherwise the last command once more.

    violations are those of this tick, or those that latched the stop. is_latched: call `arm.stop()` and stay there
    until someone has looked and called `reset`.
    """

    allowed: bool
    violations: Violations
    qpos_command: Float[np.ndarray, " 6"]
    gripper_command_m: float
    is_latched: bool

    @property
    def reasons(self) -> tuple[GateReason, ...]:
        """Each reason once, in the order of the gates."""
        return tuple(dict.fromkeys(violation.reason for violation in self.violations))


class SafetyConfig(Config):
    """The limits of the gates. Joint limits, workspace, table and control rate come from the work cell."""

    joint_margin_rad: float = Field(ge=0, allow_inf_nan=False)
    """How far set-points stay inside the joints' position limits."""
    step_max_rad: float = Field(gt=0, allow_inf_nan=False)
    """Largest step of a joint in one control period."""
    velocity_fraction: float = Field(gt=0, le=1)
    """Part of the joints' greatest speeds that may be commanded."""
    acceleration_fraction: float = Field(gt=0, allow_inf_nan=False)
    """Commanded accelerations as multiples of the cell's; above 1 leaves room for targets that are not smooth."""
    tool_speed_max_m_s: float = Field(gt=0, allow_inf_nan=False)
    """How fast the grasp point may be moved."""
    table_clearance_m: float = Field(ge=0, allow_inf_nan=False)
    """How far every protected point stays above the table."""
    wrist_sine_min: float = Field(ge=0, le=1)
    """Least |sin q5|; below it the wrist is about to lose a direction of rotation."""
    elbow_sine_min: float = Field(ge=0, le=1)
    """Least |sin q3|; below it the arm is about stretched or folded."""
    shoulder_reach_min_m: float = Field(ge=0, allow_inf_nan=False)
    """Least distance of joint 5's place from the singular cylinder around the base axis."""
    hold_age_s: float = Field(gt=0, allow_inf_nan=False)
    """An observation older than this holds the arm until a newer one comes."""
    stop_age_s: float = Field(gt=0, allow_inf_nan=False)
    """An observation older than this latches the stop."""
    ahead_max_s: float = Field(ge=0, allow_inf_nan=False)
    """A stamp farther ahead of now than this latches the stop: clocks disagree, and ages mean nothing."""

    @model_validator(mode="after")
    def _holds_before_it_stops(self) -> SafetyConfig:
        if self.hold_age_s > self.stop_age_s:
            raise ValueError(f"hold_age_s {self.hold_age_s} must not exceed stop_age_s {self.stop_age_s}")
        return self

    @property
    def singularity_margins(self) -> SingularityMargins:
        """The three singularity limits together."""
        return SingularityMargins(self.wrist_sine_min, self.elbow_sine_min, self.shoulder_reach_min_m)


class SafetyGates:
    """All gates, with the last two commands and the latch. Begins with `reset`."""

    def __init__(self, config: SafetyConfig, cell: WorkCellConfig) -> None:
        """Raises ConfigError when the margin leaves a joint no room."""
        self._config = config
        self._cell = cell
        self._dt_s = 1.0 / cell.control_hz
        self._limits = joint_limits_from_config(cell.joint_limits)
        if not np.all(self._limits.qpos_high - self._limits.qpos_low > 2.0 * config.joint_margin_rad):
            raise ConfigError(f"safety: joint_margin_rad {config.joint_margin_rad} leaves a joint no room to move")
        self._qvel_max = self._limits.qvel_max * config.velocity_fraction
        self._qacc_max = self._limits.qacc_max * config.acceleration_fraction
        self._margins = config.singularity_margins
        self._low_m, self._high_m = np.array(cell.workspace.low_m), np.array(cell.workspace.high_m)
        self._lowest_m = cell.table.height_m + config.table_clearance_m
        self._points = points_of_cell(cell)
        self._p_tool_tcp = np.array(cell.tool_tcp.translation_m)
        self._last: _LastCommand | None = None
        self._latched: Violations = ()

    @property
    def latched(self) -> Violations:
        """The violations that latched the stop; empty while set-points may pass."""
        return self._latched

    def reset(self, qpos: Float[np.ndarray, " 6"], gripper_opening_m: float) -> None:
        """Open the latch and take the arm's present resting position (rad, m) for the last commanded set-point.

        A measured opening may lie a hair outside the gripper's range; the nearest inside counts as commanded. Raises
        SafetyError, and changes nothing, when the arm stands where the gates would not have let it go.
        """
        gripper_m = self._in_gripper_range(gripper_opening_m)
        links = link_frames(qpos)
        violations = check_finite(qpos, gripper_opening_m) or self._check_place(qpos, gripper_m, links)
        if violations:
            raise SafetyError(f"the arm stands outside its gates: {'; '.join(map(str, violations))}")
        self._last = _LastCommand(qpos.copy(), qpos.copy(), self._p_tcp(links), gripper_m)
        self._latched = ()

    def check(
        self, qpos_target: Float[np.ndarray, " 6"], gripper_target_m: float, *, observation_age_s: float
    ) -> GateDecision:
        """Judge one set-point for this control period; observation_age_s is the age of what it rests on.

        The decision's set-point counts as commanded. Once latched, every set-point is refused. Raises SafetyError
        before the first `reset`.
        """
        last = self._last
        if last is None:
            raise SafetyError("the gates do not know where the arm is: call reset with its joint angles first")
        if self._latched:
            return self._hold(last, self._latched)
        # While the arm is held for its observation's age, a target that runs on is no violation of its own.
        config = self._config
        blind = check_age(observation_age_s, config.hold_age_s, config.stop_age_s, config.ahead_max_s)
        violations = blind or check_finite(qpos_target, gripper_target_m)
        if violations:
            return self._hold(last, violations)
        links = link_frames(qpos_target)
        p_tcp = self._p_tcp(links)
        violations = self._check_motion(qpos_target, p_tcp, last)
        violations += self._check_place(qpos_target, gripper_target_m, links)
        if violations:
            return self._hold(last, violations)
        gripper_m = self._in_gripper_range(gripper_target_m)
        self._last = _LastCommand(qpos_target.copy(), last.qpos, p_tcp, gripper_m)
        return GateDecision(
            allowed=True,
            violations=(),
            qpos_command=qpos_target.copy(),
            gripper_command_m=gripper_m,
            is_latched=False,
        )

    def _hold(self, last: _LastCommand, violations: Violations) -> GateDecision:
        """Command the last set-point again, so with no velocity; what follows must start from rest."""
        if any(violation.reason.latches for violation in violations):
            self._latched = violations
        self._last = _LastCommand(last.qpos, last.qpos, last.p_tcp, last.gripper_m)
        return GateDecision(
            allowed=False,
            violations=violations,
            qpos_command=last.qpos.copy(),
            gripper_command_m=last.gripper_m,
            is_latched=bool(self._latched),
        )

    def _check_motion(self, qpos: np.ndarray, p_tcp: np.ndarray, last: _LastCommand) -> Violations:
        """The gates that compare with what was commanded before."""
        return (
            check_step(qpos, last.qpos, self._config.step_max_rad)
            + check_velocity(qpos, last.qpos, self._qvel_max, self._dt_s)
            + check_acceleration(qpos, last.qpos, last.qpos_before, self._qacc_max, self._dt_s)
            + check_tool_speed(p_tcp, last.p_tcp, self._config.tool_speed_max_m_s, self._dt_s)
        )

    def _check_place(self, qpos: np.ndarray, gripper_m: float, links: np.ndarray) -> Violations:
        """The gates that look at the set-point alone."""
        gripper = self._cell.gripper
        return (
            check_joint_limits(qpos, self._limits, self._config.joint_margin_rad)
            + check_gripper(gripper_m, gripper.opening_min_m, gripper.opening_max_m)
            + check_workspace(self._p_tcp(links), self._low_m, self._high_m)
            + check_table(self._points.lowest_m(links), self._lowest_m, self._points.names)
            + check_singularity(qpos, self._margins)
        )

    def _in_gripper_range(self, opening_m: float) -> float:
        return min(max(opening_m, self._cell.gripper.opening_min_m), self._cell.gripper.opening_max_m)

    def _p_tcp(self, links: np.ndarray) -> np.ndarray:
        return apply_transform(links[NUM_JOINTS], self._p_tool_tcp)


@dataclass(frozen=True, slots=True, eq=False)
class _LastCommand:
    """The last commanded set-point, the joint angles commanded before it, and where it puts the grasp point."""

    qpos: np.ndarray
    qpos_before: np.ndarray
    p_tcp: np.ndarray
    gripper_m: float
