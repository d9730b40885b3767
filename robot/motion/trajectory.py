"""Plan trajectories: joint to joint, along a straight line of the tool, and braking.

Every motion starts with the present velocity (joint motions and stops with the present acceleration too), ends at rest
and keeps within velocity, acceleration and jerk limits. The planners raise MotionPlanningError; whoever plans while
moving then sends `plan_brake`, which cannot fail.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from handeye.robot.errors import MotionPlanningError, SingularityError, UnreachableError
from handeye.robot.kinematics.forward import SingularityMargins, geometric_jacobian, singularity_measures
from handeye.robot.kinematics.limits import JointLimits
from handeye.robot.kinematics.ur10e_ik import inverse_kinematics_branches
from handeye.robot.motion.jerk_limited import Bounds, brake_to_rest, state_to_rest
from handeye.robot.transforms import (
    make_transform,
    require_transform,
    rotation_to_rotvec,
    rotvec_to_rotation,
    wrap_angle,
)
from handeye.robot.types import NUM_JOINTS, ActionChunk
from handeye.vision.errors import ConfigError

_LIMIT_TOLERANCE_RAD = 1e-9
_SAME_PLACE_RAD = 1e-6  # start_qpos and T_base_start may differ by this; a step of it passes every limit unnoticed
_SAME_POINT = 1e-9  # lines shorter than this, in m and in rad, are no motion
_OFF_LINE_M_S, _OFF_LINE_RAD_S = 1e-3, 1e-2
_MAX_SLOWINGS = 6
_DIFFERENCE_S = 1e-5

PLANNING_MARGINS = SingularityMargins(wrist=0.05, elbow=0.05, shoulder_m=0.02)
"""Straight lines keep 3 degrees from wrist and elbow singularities and 2 cm from the shoulder's."""


@dataclass(frozen=True, slots=True, eq=False)
class JointTrajectory:
    """A motion sampled every dt_s: row k holds k * dt_s after the start, the last row is the goal, at rest.

    qpos in rad, qvel in rad/s and qacc in rad/s^2 are values of the motion itself, not differences of samples.
    """

    qpos: Float[np.ndarray, "T 6"]
    qvel: Float[np.ndarray, "T 6"]
    qacc: Float[np.ndarray, "T 6"]
    dt_s: float

    @property
    def duration_s(self) -> float:
        """Time from the first row to the last; the motion itself ends less than one dt_s sooner."""
        return (len(self.qpos) - 1) * self.dt_s

    def action_chunk(self, gripper_target_m: float, stamp_s: float) -> ActionChunk:
        """The motion as actions from stamp_s on, with one gripper opening (m) throughout."""
        gripper = np.full((len(self.qpos), 1), gripper_target_m)
        return ActionChunk(np.concatenate([self.qpos, gripper], axis=1), self.dt_s, stamp_s)


@dataclass(frozen=True, slots=True)
class ToolLimits:
    """How fast the tool may move (m/s, m/s^2, m/s^3) and turn (rad/s, rad/s^2, rad/s^3); ConfigError unless above 0."""

    speed_m_s: float
    acceleration_m_s2: float
    jerk_m_s3: float
    turn_speed_rad_s: float
    turn_acceleration_rad_s2: float
    turn_jerk_rad_s3: float

    def __post_init__(self) -> None:
        for value in (*self.moving, *self.turning):
            if not (np.isfinite(value) and value > 0.0):
                raise ConfigError(f"tool limits: expected finite numbers above 0, got {self}")

    @property
    def moving(self) -> tuple[float, float, float]:
        """Speed, acceleration and jerk of the flange's centre."""
        return self.speed_m_s, self.acceleration_m_s2, self.jerk_m_s3

    @property
    def turning(self) -> tuple[float, float, float]:
        """Speed, acceleration and jerk of the flange's orientation."""
        return self.turn_speed_rad_s, self.turn_acceleration_rad_s2, self.turn_jerk_rad_s3


def plan_joint_motion(
    start_qpos: Float[np.ndarray, " 6"],
    start_qvel: Float[np.ndarray, " 6"],
    goal_qpos: Float[np.ndarray, " 6"],
    limits: JointLimits,
    dt_s: float,
    start_qacc: Float[np.ndarray, " 6"] | None = None,
) -> JointTrajectory:
    """The fastest synchronised motion from a moving start to rest at goal_qpos: all joints arrive together.

    From rest no joint overshoots its goal; a moving start may have to. Raises MotionPlanningError for values that are
    not finite, a start or goal outside the position limits, a motion that would overshoot them, and whenever ruckig
    finds no profile.
    """
    _require_period(dt_s)
    for name, values in (("start_qpos", start_qpos), ("start_qvel", start_qvel), ("goal_qpos", goal_qpos)):
        if not np.all(np.isfinite(values)):
            raise MotionPlanningError(f"{name}: expected finite numbers, got {values.tolist()}")
    _require_within(start_qpos[None], limits, "start_qpos")
    _require_within(goal_qpos[None], limits, "goal_qpos")
    profile = state_to_rest(start_qpos, start_qvel, goal_qpos, _bounds(limits), dt_s, start_qacc)
    _require_within(profile.position, limits, "the motion between start and goal")
    return JointTrajectory(*profile, dt_s)


def plan_brake(
    start_qpos: Float[np.ndarray, " 6"],
    start_qvel: Float[np.ndarray, " 6"],
    limits: JointLimits,
    dt_s: float,
    start_qacc: Float[np.ndarray, " 6"] | None = None,
) -> JointTrajectory:
    """Bring all joints to rest together, as soon as acceleration and jerk limits allow; at rest: a single row.

    Has an answer for every finite start. The arm goes on moving meanwhile, by about 0.75 qvel^2 / qacc_max, and the
    position limits are not looked at: braking harder than the arm can would not stop it sooner.
    """
    _require_period(dt_s)
    qacc = np.zeros(NUM_JOINTS) if start_qacc is None else start_qacc
    return JointTrajectory(*brake_to_rest(start_qpos, start_qvel, qacc, _bounds(limits), dt_s), dt_s)


def plan_linear_motion(
    T_base_start: Float[np.ndarray, "4 4"],
    T_base_goal: Float[np.ndarray, "4 4"],
    *,
    start_qpos: Float[np.ndarray, " 6"],
    limits: JointLimits,
    tool_limits: ToolLimits,
    dt_s: float,
    start_qvel: Float[np.ndarray, " 6"] | None = None,
    margins: SingularityMargins = PLANNING_MARGINS,
) -> JointTrajectory:
    """Move the flange from T_base_start, where start_qpos puts it, in a straight line to rest at T_base_goal.

    The orientation turns meanwhile by the shortest way about one axis. start_qvel (rest, when left out) must move the
    flange along the line. Every sample is inverted in closed form on the branch of the start; where a joint would be
    too fast, the whole motion is slowed. Raises UnreachableError for a goal out of reach, SingularityError where the
    branch ends or a margin is broken on the way (no slowing helps there), TransformError, and MotionPlanningError for
    the rest: start not at start_qpos, joint limits, a start too fast or off the line.
    """
    _require_period(dt_s)
    require_transform(T_base_start, "T_base_start")
    require_transform(T_base_goal, "T_base_goal")
    line = _Line.between(T_base_start, T_base_goal)
    branch = _branch_at(T_base_start, start_qpos)
    start_speed = 0.0 if start_qvel is None else line.parameter_speed(start_qpos, start_qvel)
    if line.length_m < _SAME_POINT and line.angle_rad < _SAME_POINT:
        at_rest = np.zeros((1, NUM_JOINTS))
        return JointTrajectory(start_qpos[None].copy(), at_rest, at_rest, dt_s)
    slowness = excess = 1.0
    for _ in range(_MAX_SLOWINGS):
        bounds = line.parameter_bounds(tool_limits, slowness)
        s = state_to_rest(np.zeros(1), np.array([start_speed]), np.ones(1), bounds, dt_s)
        qpos = _follow(line, s.position[:, 0], branch, start_qpos, margins)
        _require_within(qpos, limits, "the straight line")
        qvel, qacc = line.joint_rates(qpos, s.velocity, s.acceleration)
        trajectory = JointTrajectory(qpos, qvel, qacc, dt_s)
        excess = _worst_excess(trajectory, limits)
        if excess <= 1.0:
            return trajectory
        slowness *= 1.001 * excess
    raise MotionPlanningError(f"the straight line is {excess:.2f} times too fast for the joints, and so is its start")


@dataclass(frozen=True, slots=True, eq=False)
class _Line:
    """Poses T(s), s = 0..1: the flange's centre moves by `offset` (m), turning by `rotvec` (rad), both in base axes."""

    T_start: np.ndarray
    offset: np.ndarray
    rotvec: np.ndarray

    @staticmethod
    def between(T_start: np.ndarray, T_goal: np.ndarray) -> _Line:
        rotvec = rotation_to_rotvec(T_goal[:3, :3] @ T_start[:3, :3].T)
        return _Line(T_start, T_goal[:3, 3] - T_start[:3, 3], rotvec)

    @property
    def length_m(self) -> float:
        return float(np.linalg.norm(self.offset))

    @property
    def angle_rad(self) -> float:
        return float(np.linalg.norm(self.rotvec))

    def poses(self, s: np.ndarray) -> np.ndarray:
        """(T, 4, 4) poses at the path parameters s (T,)."""
        R = rotvec_to_rotation(s[:, None] * self.rotvec) @ self.T_start[:3, :3]
        return make_transform(R, self.T_start[:3, 3] + s[:, None] * self.offset)

    def parameter_bounds(self, tool_limits: ToolLimits, slowness: float) -> Bounds:
        """Tool limits as bounds of s, for a motion that takes `slowness` times as long."""
        length, angle = max(self.length_m, _SAME_POINT), max(self.angle_rad, _SAME_POINT)
        speed, acceleration, jerk = (
            np.array([min(move / length, turn / angle)])
            for move, turn in zip(tool_limits.moving, tool_limits.turning, strict=True)
        )
        return Bounds(speed / slowness, acceleration / slowness**2, jerk / slowness**3)

    def parameter_speed(self, qpos: np.ndarray, qvel: np.ndarray) -> float:
        """ds/dt >= 0 of an arm that moves along the line; MotionPlanningError when it moves off it or backwards."""
        twist = geometric_jacobian(qpos) @ qvel
        path = np.concatenate([self.offset, self.rotvec])
        squared = float(path @ path)
        speed = float(path @ twist) / squared if squared > _SAME_POINT**2 else 0.0
        off = twist - speed * path
        off_m_s, off_rad_s = float(np.linalg.norm(off[:3])), float(np.linalg.norm(off[3:]))
        backwards = speed * self.length_m < -_OFF_LINE_M_S or speed * self.angle_rad < -_OFF_LINE_RAD_S
        if backwards or not (off_m_s <= _OFF_LINE_M_S and off_rad_s <= _OFF_LINE_RAD_S):
            raise MotionPlanningError(
                f"the start does not move along the line: {speed * self.length_m:.3f} m/s along it, "
                f"{off_m_s:.3f} m/s and {off_rad_s:.3f} rad/s off it; stop first"
            )
        return max(speed, 0.0)

    def joint_rates(
        self, qpos: np.ndarray, s_speed: np.ndarray, s_acceleration: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(T, 6) qvel and qacc from J qvel = path s' and J qacc = path s'' - J' qvel, s' and s'' (T, 1)."""
        path = np.concatenate([self.offset, self.rotvec])
        J = geometric_jacobian(qpos)
        qvel = np.linalg.solve(J, (s_speed * path)[..., None])
        ahead, behind = qpos + _DIFFERENCE_S * qvel[..., 0], qpos - _DIFFERENCE_S * qvel[..., 0]
        J_rate = (geometric_jacobian(ahead) - geometric_jacobian(behind)) / (2.0 * _DIFFERENCE_S)
        qacc = np.linalg.solve(J, (s_acceleration * path)[..., None] - J_rate @ qvel)
        return qvel[..., 0], qacc[..., 0]


def _branch_at(T_base_start: np.ndarray, start_qpos: np.ndarray) -> tuple[int, ...]:
    """The place of start_qpos among the branches of the inverse at T_base_start."""
    branches = inverse_kinematics_branches(T_base_start, q6_hint=float(start_qpos[5]))
    distance = np.abs(wrap_angle(branches - start_qpos)).max(axis=-1)
    if not np.any(distance <= _SAME_PLACE_RAD):
        raise MotionPlanningError(
            f"start_qpos {start_qpos.tolist()} does not place the flange at T_base_start: no branch of the inverse "
            f"there comes nearer than {np.min(np.nan_to_num(distance, nan=np.inf)):.2g} rad"
        )
    return tuple(int(i) for i in np.unravel_index(int(np.nanargmin(distance)), distance.shape))


def _follow(
    line: _Line, s: np.ndarray, branch: tuple[int, ...], start_qpos: np.ndarray, margins: SingularityMargins
) -> np.ndarray:
    """(T, 6) joint angles along the line, without turns between rows."""
    places = inverse_kinematics_branches(line.poses(s), q6_hint=float(start_qpos[5]))
    if np.all(np.isnan(places[-1])):
        raise UnreachableError(line.poses(s[-1:])[0], "the straight line ends out of reach")
    qpos = places[(slice(None), *branch)]
    _require_regular(qpos, s, margins)
    return start_qpos + np.cumsum(wrap_angle(np.diff(qpos, axis=0, prepend=start_qpos[None])), axis=0)


def _require_regular(qpos: np.ndarray, s: np.ndarray, margins: SingularityMargins) -> None:
    """Raise SingularityError at the first row (T, 6) on the line where a margin is broken or the branch has ended."""
    measures = np.stack(singularity_measures(qpos), axis=-1)
    is_regular = measures >= np.array(margins.values)
    if np.all(is_regular):
        return
    row = int(np.argmin(np.all(is_regular, axis=-1)))
    where = f"{100 * s[row]:.0f} % along the straight line"
    if np.any(np.isnan(qpos[row])):
        raise SingularityError(f"{where} the arm would be stretched or folded, or its wrist too near the base axis")
    name = ("wrist", "elbow", "shoulder")[int(np.argmin(is_regular[row]))]
    raise SingularityError(f"{where} the {name} is about singular: measures {measures[row]}, margins {margins.values}")


def _worst_excess(trajectory: JointTrajectory, limits: JointLimits) -> float:
    """By which factor the motion must be slowed to respect velocity, acceleration and jerk of every joint."""
    dt_s = trajectory.dt_s
    step = np.abs(np.diff(trajectory.qpos, axis=0)) / dt_s
    jerk = np.abs(np.diff(trajectory.qacc, axis=0)) / dt_s
    return max(
        float((np.abs(trajectory.qvel) / limits.qvel_max).max()),
        float((step / limits.qvel_max).max(initial=0.0)),
        float(np.sqrt((np.abs(trajectory.qacc) / limits.qacc_max).max())),
        float(np.cbrt((jerk / limits.qjerk_max).max(initial=0.0))),
    )


def _bounds(limits: JointLimits) -> Bounds:
    return Bounds(limits.qvel_max, limits.qacc_max, limits.qjerk_max)


def _require_period(dt_s: float) -> None:
    if not (np.isfinite(dt_s) and dt_s > 0.0):
        raise ConfigError(f"dt_s: expected a finite period above 0 s, got {dt_s}")


def _require_within(qpos: np.ndarray, limits: JointLimits, name: str) -> None:
    """Raise MotionPlanningError, naming the worst joint, unless all rows (T, 6) lie within the position limits."""
    excess = np.maximum(qpos - limits.qpos_high, limits.qpos_low - qpos)
    if not np.all(excess <= _LIMIT_TOLERANCE_RAD):
        row, joint = np.unravel_index(int(np.argmax(excess)), excess.shape)
        raise MotionPlanningError(
            f"{name}: joint {joint + 1} would be at {qpos[row, joint]:.4f} rad, "
            f"limits {limits.qpos_low[joint]:.4f} to {limits.qpos_high[joint]:.4f} rad"
        )
