"""Safety gates that judge every set-point before it reaches the arm. No limit has a default.

Speed gates are anchored on the last set-point that was sent, not on a measurement: a lagging arm must not widen
what may be commanded. `set_point_stream` brings the arm to rest on any violation. Software gates prevent accidents
of our own making; they are no safety function in the sense of ISO 13849, so the arm's own safety configuration must
stand behind them.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from jaxtyping import Float
from pydantic import Field, model_validator

from handeye.robot.config import WorkCellConfig
from handeye.robot.control.gates import (
    Violations,
    check_acceleration,
    check_age,
    check_clearance,
    check_finite,
    check_gripper,
    check_jerk,
    check_joint_limits,
    check_policy,
    check_singularity,
    check_step,
    check_tool_speed,
    check_turns,
    check_velocity,
    check_wait,
    check_workspace,
    is_in_joint_limits,
    is_in_workspace,
    is_regular,
)
from handeye.robot.kinematics.clearance import CellClearance, Clearances
from handeye.robot.kinematics.forward import SingularityMargins, link_frames, singularity_measures
from handeye.robot.kinematics.limits import joint_limits_from_config
from handeye.robot.motion.jerk_limited import Bounds
from handeye.robot.motion.set_points import SetPoint
from handeye.robot.types import NUM_JOINTS, CommandState
from handeye.vision.config import Config
from handeye.vision.errors import ConfigError


class SafetyConfig(Config):
    """The limits of the gates. Joint limits, workspace, table and control rate come from the work cell.

    A file gives all of them or none: a limit that was forgotten is not taken from another cell.
    """

    is_given_whole: ClassVar[bool] = True

    joint_margin_rad: float = Field(ge=0, allow_inf_nan=False)
    """How far set-points stay inside the joints' position limits."""
    step_max_rad: float = Field(gt=0, allow_inf_nan=False)
    """How far a joint's target may lie from what was sent last; nearer ones are followed within the limits below."""
    velocity_fraction: float = Field(gt=0, le=1)
    """Part of the joints' greatest speeds that may be commanded."""
    acceleration_fraction: float = Field(gt=0, allow_inf_nan=False)
    """Commanded accelerations as multiples of the cell's; above 1 leaves room for targets that are not smooth."""
    jerk_fraction: float = Field(gt=0, allow_inf_nan=False)
    """Commanded jerks as multiples of the cell's: how abruptly a stop may begin."""
    tool_speed_max_m_s: float = Field(gt=0, allow_inf_nan=False)
    """How fast the grasp point may be moved."""
    table_clearance_m: float = Field(ge=0, allow_inf_nan=False)
    """How far every part of the hand, and of the arm beyond the shoulder, stays from the table."""
    fixture_clearance_m: float = Field(ge=0, allow_inf_nan=False)
    """How far every part of arm and hand stays from the bin's walls and floor."""
    self_clearance_m: float = Field(ge=0, allow_inf_nan=False)
    """How far parts of arm and hand stay from each other, where a joint can bring them together."""
    held_clearance_m: float = Field(ge=0, allow_inf_nan=False)
    """How far an object between the fingers stays from the arm and from the bin's walls."""
    wrist_sine_min: float = Field(ge=0, le=1)
    """Least |sin q5|; below it the wrist is about to lose a direction of rotation."""
    elbow_sine_min: float = Field(ge=0, le=1)
    """Least |sin q3|; below it the arm is about stretched or folded."""
    shoulder_reach_min_m: float = Field(ge=0, allow_inf_nan=False)
    """Least distance of joint 5's place from the singular cylinder around the base axis."""
    hold_age_s: float = Field(gt=0, allow_inf_nan=False)
    """An observation older than this stops the arm until a newer one comes."""
    stop_age_s: float = Field(gt=0, allow_inf_nan=False)
    """An observation older than this latches the stop, and so does waiting this long for one that may be used."""
    policy_silent_max_s: float = Field(gt=0, allow_inf_nan=False)
    """A policy whose last chunk ended longer ago than this latches the stop."""
    ahead_max_s: float = Field(ge=0, allow_inf_nan=False)
    """A stamp farther ahead of now than this latches the stop: clocks disagree, and ages mean nothing."""

    @model_validator(mode="after")
    def _holds_before_it_stops(self) -> SafetyConfig:
        if self.hold_age_s > self.stop_age_s:
            raise ValueError(f"hold_age_s {self.hold_age_s} must not exceed stop_age_s {self.stop_age_s}")
        return self

    @property
    def clearances(self) -> Clearances:
        """The least distances of solids from each other."""
        return Clearances(
            self_m=self.self_clearance_m,
            fixture_m=self.fixture_clearance_m,
            table_m=self.table_clearance_m,
            held_m=self.held_clearance_m,
        )

    @property
    def singularity_margins(self) -> SingularityMargins:
        """The three singularity limits together."""
        return SingularityMargins(self.wrist_sine_min, self.elbow_sine_min, self.shoulder_reach_min_m)


class SafetyGates:
    """All gates of a cell; pure: what was sent before is given to them."""

    def __init__(self, config: SafetyConfig, cell: WorkCellConfig) -> None:
        """Raises ConfigError when the margin leaves a joint no room."""
        self._config = config
        self._cell = cell
        self._dt_s = 1.0 / cell.control_hz
        self._limits = joint_limits_from_config(cell.joint_limits)
        if not np.all(self._limits.qpos_high - self._limits.qpos_low > 2.0 * config.joint_margin_rad):
            raise ConfigError(f"safety: joint_margin_rad {config.joint_margin_rad} leaves a joint no room to move")
        self.bounds = Bounds(
            self._limits.qvel_max * config.velocity_fraction,
            self._limits.qacc_max * config.acceleration_fraction,
            self._limits.qjerk_max * config.jerk_fraction,
        )
        """What every set-point keeps, stops included: rad/s, rad/s^2 and rad/s^3."""
        self._margins = config.singularity_margins
        self._low_m, self._high_m = np.array(cell.workspace.low_m), np.array(cell.workspace.high_m)
        self._clearance = CellClearance(cell, config.clearances)
        self._p_tool_tcp = np.array(cell.tool_tcp.translation_m)

    def check_start(self, qpos: Float[np.ndarray, " 6"], gripper_opening_m: float) -> Violations:
        """Whether the arm may start where it stands (rad), with fingers that are this far apart (m)."""
        return (
            check_finite(qpos, gripper_opening_m)
            or check_turns(qpos, np.array(self._cell.home_qpos))
            or self._check_places(
                qpos[None], link_frames(qpos[None]), gripper_opening_m, holds=self.may_hold(gripper_opening_m)
            )
        )

    def check_target(self, target: SetPoint, last: CommandState, observation_age_s: float) -> Violations:
        """Whether the target may be followed at all, from what was sent last."""
        config, gripper = self._config, self._cell.gripper
        qpos_target, gripper_target_m = target.qpos_target, target.gripper_target_m
        # While the arm is held for its observation's age, a target that runs on is no violation of its own.
        return (
            check_age(observation_age_s, config.hold_age_s, config.stop_age_s, config.ahead_max_s)
            or check_policy(target.past_end_s, config.policy_silent_max_s)
            or check_finite(qpos_target, gripper_target_m)
            or check_step(qpos_target, last.qpos, config.step_max_rad)
            + check_gripper(gripper_target_m, gripper.opening_min_m, gripper.opening_max_m)
        )

    def check_wait(self, stale_s: float) -> Violations:
        """Whether the arm may be held any longer for observations that are too old to move by, s."""
        return check_wait(stale_s, self._config.stop_age_s)

    def check_command(
        self,
        last: CommandState,
        command: CommandState,
        stop: Float[np.ndarray, "T 6"],
        opening_m: float,
        *,
        holds: bool,
    ) -> Violations:
        """Whether the next set-point may be sent, and then the stop that would follow it.

        opening_m is how far the fingers are apart at most meanwhile, holds whether an object may be between them.
        """
        qpos = np.concatenate([[last.qpos, command.qpos], stop])
        links = link_frames(qpos)
        p_last, p_tcp = self._p_tcp(links[:2])
        return (
            check_velocity(command.qvel, self.bounds.velocity)
            + check_acceleration(command.qacc, self.bounds.acceleration)
            + check_jerk((command.qacc - last.qacc) / self._dt_s, self.bounds.jerk)
            + check_tool_speed(p_tcp, p_last, self._config.tool_speed_max_m_s, self._dt_s)
            + self._check_places(qpos[1:], links[1:], opening_m, holds=holds)
        )

    def may_hold(self, opening_m: float) -> bool:
        """Whether fingers that are sent so near together may have an object between them.

        Decided by the command, not by a measurement, which may be late or wrong: fingers nearer together than the
        largest object is wide count as holding one of that size, though it may be smaller, or there may be none.
        """
        return opening_m < self._cell.cube_edge_m[1]

    def in_gripper_range(self, opening_m: float) -> float:
        """The nearest opening (m) that the gripper has."""
        return min(max(opening_m, self._cell.gripper.opening_min_m), self._cell.gripper.opening_max_m)

    def _check_places(
        self, qpos: Float[np.ndarray, "T 6"], links: Float[np.ndarray, "T 7 4 4"], opening_m: float, *, holds: bool
    ) -> Violations:
        """The gates that look at places alone: of the first of T set-points that is out of place."""
        p_tcp = self._p_tcp(links)
        measures = np.stack(singularity_measures(qpos), axis=-1)
        inside = (
            is_in_joint_limits(qpos, self._limits, self._config.joint_margin_rad).all(axis=-1)
            & is_in_workspace(p_tcp, self._low_m, self._high_m).all(axis=-1)
            & is_regular(measures, self._margins).all(axis=-1)
            & ~self._clearance.too_near(qpos, links, opening_m, holds=holds)
        )
        if inside.all():
            return ()
        row = int(np.argmin(inside))
        return (
            check_joint_limits(qpos[row], self._limits, self._config.joint_margin_rad)
            + check_workspace(p_tcp[row], self._low_m, self._high_m)
            + check_clearance(self._clearance.near_pairs(links[row], opening_m, holds=holds))
            + check_singularity(measures[row], self._margins)
        )

    def _p_tcp(self, links: Float[np.ndarray, "T 7 4 4"]) -> Float[np.ndarray, "T 3"]:
        tool = links[:, NUM_JOINTS]
        return tool[:, :3, :3] @ self._p_tool_tcp + tool[:, :3, 3]
