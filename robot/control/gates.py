"""Safety gates as pure functions: from a set-point and a limit to violations, each with a reason and numbers.

Every comparison is written so that NaN fails it, and every limit is checked where it is configured: a limit of NaN
would switch a clamp off and a negative one would turn it round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from jaxtyping import Bool, Float

from handeye.robot.kinematics.clearance import NearPair, Obstacle
from handeye.robot.kinematics.forward import SingularityMargins
from handeye.robot.kinematics.limits import JointLimits
from handeye.robot.types import NUM_JOINTS

_ROUNDING = 1e-6  # relative; a motion planned exactly at a limit passes
ROUNDING_SI = 1e-9
"""rad or m by which a place at a limit may miss it: sums of rounded steps do."""
JOINT_NAMES = tuple(f"joint {i + 1}" for i in range(NUM_JOINTS))


class GateReason(Enum):
    """Why a set-point was not allowed."""

    NOT_FINITE = "not_finite"
    STALE_OBSERVATION = "stale_observation"
    LOST_OBSERVATION = "lost_observation"
    POLICY_SILENT = "policy_silent"
    FUTURE_OBSERVATION = "future_observation"
    JOINT_LIMIT = "joint_limit"
    STEP = "step"
    VELOCITY = "velocity"
    ACCELERATION = "acceleration"
    JERK = "jerk"
    GRIPPER_RANGE = "gripper_range"
    WORKSPACE = "workspace"
    TABLE = "table"
    FIXTURE = "fixture"
    SELF_COLLISION = "self_collision"
    TOOL_SPEED = "tool_speed"
    SINGULARITY = "singularity"
    JOINT_TURN = "joint_turn"

    @property
    def latches(self) -> bool:
        """Whether the stop stays until it is reset; only an observation that is merely old does not."""
        return self is not GateReason.STALE_OBSERVATION


@dataclass(frozen=True, slots=True)
class GateViolation:
    """One broken limit: where (a joint, a point, ...), what came and what was allowed, in SI units."""

    reason: GateReason
    where: str
    value: float
    limit: float

    def __str__(self) -> str:
        return f"{self.reason.value}: {self.where} at {self.value:.4g}, limit {self.limit:.4g}"


Violations = tuple[GateViolation, ...]
_REASONS = {
    Obstacle.SELF: GateReason.SELF_COLLISION,
    Obstacle.FIXTURE: GateReason.FIXTURE,
    Obstacle.TABLE: GateReason.TABLE,
}


def check_finite(qpos_target: Float[np.ndarray, " 6"], gripper_target_m: float) -> Violations:
    """Every number of the set-point is finite."""
    values = np.append(qpos_target, gripper_target_m)
    return _violations(GateReason.NOT_FINITE, (*JOINT_NAMES, "gripper"), np.isfinite(values), values, np.inf)


def check_age(observation_age_s: float, hold_age_s: float, stop_age_s: float, ahead_max_s: float) -> Violations:
    """The observation is at most hold_age_s old, else stale; beyond stop_age_s, or of no known age, it is lost.

    A stamp more than ahead_max_s ahead of now (a negative age) means that clocks disagree: no age can be believed.
    """
    if -ahead_max_s <= observation_age_s <= hold_age_s:
        return ()
    if observation_age_s < -ahead_max_s:
        return (GateViolation(GateReason.FUTURE_OBSERVATION, "age in s", observation_age_s, -ahead_max_s),)
    if hold_age_s < observation_age_s <= stop_age_s:
        return (GateViolation(GateReason.STALE_OBSERVATION, "age in s", observation_age_s, hold_age_s),)
    return (GateViolation(GateReason.LOST_OBSERVATION, "age in s", observation_age_s, stop_age_s),)


def check_wait(stale_s: float, stop_age_s: float) -> Violations:
    """The arm has waited at most stop_age_s for an observation that is not stale."""
    if stale_s <= stop_age_s:
        return ()
    return (GateViolation(GateReason.LOST_OBSERVATION, "waited in s", stale_s, stop_age_s),)


def check_policy(past_end_s: float, policy_silent_max_s: float) -> Violations:
    """The policy's chunk has ended at most policy_silent_max_s ago: a policy that lives gives a new one."""
    if past_end_s <= policy_silent_max_s:
        return ()
    return (GateViolation(GateReason.POLICY_SILENT, "chunk ended s ago", past_end_s, policy_silent_max_s),)


def is_in_joint_limits(
    qpos: Float[np.ndarray, "*batch 6"], limits: JointLimits, margin_rad: float
) -> Bool[np.ndarray, "*batch 6"]:
    """Whether each joint lies inside its position limits, at least margin_rad from their ends, but for rounding."""
    low, high = limits.qpos_low + margin_rad, limits.qpos_high - margin_rad
    return (qpos >= low - ROUNDING_SI) & (qpos <= high + ROUNDING_SI)


def check_joint_limits(qpos: Float[np.ndarray, " 6"], limits: JointLimits, margin_rad: float) -> Violations:
    """Every joint lies inside its position limits, at least margin_rad away from their ends."""
    low, high = limits.qpos_low + margin_rad, limits.qpos_high - margin_rad
    inside = is_in_joint_limits(qpos, limits, margin_rad)
    return _violations(GateReason.JOINT_LIMIT, JOINT_NAMES, inside, qpos, np.where(qpos < low, low, high))


def check_turns(qpos: Float[np.ndarray, " 6"], home_qpos: Float[np.ndarray, " 6"]) -> Violations:
    """No joint stands more than half a turn from home: one turn away it looks the same and must be unwound first."""
    turn = np.abs(qpos - home_qpos)
    return _violations(GateReason.JOINT_TURN, JOINT_NAMES, turn <= np.pi, turn, np.pi)


def check_step(
    qpos_target: Float[np.ndarray, " 6"], qpos_last: Float[np.ndarray, " 6"], step_max_rad: float
) -> Violations:
    """No joint's target lies farther than step_max_rad from the set-point that was sent last."""
    step = np.abs(qpos_target - qpos_last)
    return _violations(GateReason.STEP, JOINT_NAMES, _within(step, step_max_rad), step, step_max_rad)


def check_velocity(qvel: Float[np.ndarray, " 6"], qvel_max: Float[np.ndarray, " 6"]) -> Violations:
    """The speed of each joint: its last step over the control period."""
    return _violations(GateReason.VELOCITY, JOINT_NAMES, _within(np.abs(qvel), qvel_max), np.abs(qvel), qvel_max)


def check_acceleration(qacc: Float[np.ndarray, " 6"], qacc_max: Float[np.ndarray, " 6"]) -> Violations:
    """The second difference of the set-points of each joint."""
    return _violations(GateReason.ACCELERATION, JOINT_NAMES, _within(np.abs(qacc), qacc_max), np.abs(qacc), qacc_max)


def check_jerk(qjerk: Float[np.ndarray, " 6"], qjerk_max: Float[np.ndarray, " 6"]) -> Violations:
    """The third difference of the set-points of each joint."""
    return _violations(GateReason.JERK, JOINT_NAMES, _within(np.abs(qjerk), qjerk_max), np.abs(qjerk), qjerk_max)


def check_gripper(gripper_target_m: float, opening_min_m: float, opening_max_m: float) -> Violations:
    """The opening is one that the gripper has, but for rounding."""
    if opening_min_m - ROUNDING_SI <= gripper_target_m <= opening_max_m + ROUNDING_SI:
        return ()
    bound = opening_min_m if gripper_target_m < opening_min_m else opening_max_m
    return (GateViolation(GateReason.GRIPPER_RANGE, "gripper", gripper_target_m, bound),)


def is_in_workspace(
    p_base: Float[np.ndarray, "*batch 3"], low_m: Float[np.ndarray, " 3"], high_m: Float[np.ndarray, " 3"]
) -> Bool[np.ndarray, "*batch 3"]:
    """Whether each coordinate lies in the box along the base axes, border included."""
    return (p_base >= low_m - ROUNDING_SI) & (p_base <= high_m + ROUNDING_SI)


def check_workspace(
    p_base: Float[np.ndarray, " 3"], low_m: Float[np.ndarray, " 3"], high_m: Float[np.ndarray, " 3"]
) -> Violations:
    """The grasp point lies in the workspace."""
    inside = is_in_workspace(p_base, low_m, high_m)
    bound = np.where(p_base < low_m, low_m, high_m)
    return _violations(GateReason.WORKSPACE, ("tcp x", "tcp y", "tcp z"), inside, p_base, bound)


def check_clearance(pairs: Sequence[NearPair]) -> Violations:
    """No part of arm, hand or held object is too near to another, to bin or table; `pairs` are those that are."""
    return tuple(
        GateViolation(_REASONS[pair.obstacle], pair.names, pair.distance_m, pair.clearance_m) for pair in pairs
    )


def check_tool_speed(
    p_base: Float[np.ndarray, " 3"], p_base_last: Float[np.ndarray, " 3"], speed_max_m_s: float, dt_s: float
) -> Violations:
    """The grasp point moves no faster than speed_max_m_s from the last commanded set-point to this one."""
    speed = np.atleast_1d(np.linalg.norm(p_base - p_base_last)) / dt_s
    return _violations(GateReason.TOOL_SPEED, ("tcp",), _within(speed, speed_max_m_s), speed, speed_max_m_s)


def is_regular(measures: Float[np.ndarray, "*batch 3"], margins: SingularityMargins) -> Bool[np.ndarray, "*batch 3"]:
    """Whether wrist, elbow and shoulder (as in SingularityMeasures) are each farther from singular than the margin."""
    return measures >= np.array(margins.values)


def check_singularity(measures: Float[np.ndarray, " 3"], margins: SingularityMargins) -> Violations:
    """Wrist, elbow and shoulder are away from singularities."""
    limits = np.array(margins.values)
    inside = is_regular(measures, margins)
    return _violations(GateReason.SINGULARITY, ("wrist", "elbow", "shoulder"), inside, measures, limits)


def _within(values: np.ndarray, limit: np.ndarray | float) -> np.ndarray:
    return values <= np.asarray(limit) * (1.0 + _ROUNDING)


def _violations(
    reason: GateReason, names: Sequence[str], inside: np.ndarray, values: np.ndarray, limit: np.ndarray | float
) -> Violations:
    if inside.all():
        return ()
    limits = np.broadcast_to(limit, values.shape)
    return tuple(
        GateViolation(reason, names[i], float(values[i]), float(limits[i])) for i in np.flatnonzero(~inside).tolist()
    )
