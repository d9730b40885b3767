"""Solve the inverse kinematics of the UR10e in closed form: all configurations, up to eight, for a flange pose.

Shoulder left or right, wrist up or down, elbow up or down. The axes of joints 2, 3 and 4 are parallel, which splits
the problem: joint 1 from the wrist's distance to their plane, joints 5 and 6 from their direction seen from the tool,
joints 2 to 4 as a planar arm. After Hawkins, "Analytic Inverse Kinematics for the UR-5/UR-10 Arms" (2013), with
atan2 in place of acos where that keeps digits.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from handeye.robot.errors import JointLimitError, UnreachableError
from handeye.robot.kinematics.forward import UR10E
from handeye.robot.kinematics.limits import JointLimits
from handeye.robot.transforms import wrap_angle
from handeye.robot.types import NUM_JOINTS

_D1, _D4, _D5, _D6 = UR10E.d_m[0], UR10E.d_m[3], UR10E.d_m[4], UR10E.d_m[5]
_A2, _A3 = UR10E.a_m[1], UR10E.a_m[2]
_FULL_TURN = 2.0 * np.pi

WRIST_SINGULAR_SINE = 1e-9
"""|sin q5| below which axes 4 and 6 count as parallel; q6 is then free and taken from the hint."""
_REACH_TOLERANCE_M2 = 1e-11  # rounding may push a just reachable wrist this far out of reach; moves it by < 1e-9 m
_SAME_SOLUTION_RAD = 1e-7


def inverse_kinematics(T_base_tool: Float[np.ndarray, "4 4"], *, q6_hint: float) -> Float[np.ndarray, "K 6"]:
    """All K distinct configurations, 1 <= K <= 8, with the flange at T_base_tool; angles in [-pi, pi).

    q6_hint (rad) is the last joint's angle where the pose leaves it free (joint 5 stretched); pass the present one.
    Where two branches meet (elbow stretched, wrist on the shoulder's cylinder, joint 5 stretched) they count once.
    Raises UnreachableError.
    """
    branches = inverse_kinematics_branches(T_base_tool, q6_hint=q6_hint).reshape(-1, NUM_JOINTS)
    solutions = branches[~np.isnan(branches).any(axis=1)]
    if len(solutions) == 0:
        raise UnreachableError(T_base_tool, _why_unreachable(T_base_tool))
    difference = np.abs(wrap_angle(solutions[:, None] - solutions[None])).max(axis=-1)
    is_repeated = np.tril(difference < _SAME_SOLUTION_RAD, k=-1).any(axis=1)
    return solutions[~is_repeated]


def inverse_kinematics_branches(
    T_base_tool: Float[np.ndarray, "*batch 4 4"], *, q6_hint: float
) -> Float[np.ndarray, "*batch 2 2 2 6"]:
    """The eight branches in fixed places [shoulder, wrist, elbow], NaN where the pose is out of a branch's reach.

    Along a path of poses a place keeps its meaning: a branch is left only through a singular configuration.
    """
    poses = T_base_tool.reshape(-1, 4, 4)
    R, p_wrist = poses[:, :3, :3], poses[:, :3, 3] - _D6 * poses[:, :3, 2]
    q1 = _shoulder_angles(p_wrist)
    q5, q6 = _wrist_angles(R, q1, q6_hint)
    q2, q3, q4 = _planar_arm_angles(R, p_wrist, q1, q6)
    qpos = np.empty((len(poses), 2, 2, 2, NUM_JOINTS))
    qpos[..., 0] = q1[:, :, None, None]
    qpos[..., 1] = q2
    qpos[..., 2] = q3
    qpos[..., 3] = q4
    qpos[..., 4] = q5[..., None]
    qpos[..., 5] = q6[..., None]
    qpos[np.isnan(qpos).any(axis=-1)] = np.nan
    return wrap_angle(qpos).reshape(*T_base_tool.shape[:-2], 2, 2, 2, NUM_JOINTS)


def choose_solution(
    solutions: Float[np.ndarray, "K 6"],
    qpos_near: Float[np.ndarray, " 6"],
    limits: JointLimits,
    weights: Float[np.ndarray, " 6"] | None = None,
) -> Float[np.ndarray, " 6"]:
    """The configuration with the shortest way from qpos_near: least sqrt(sum of weights * (joint difference)^2).

    Each joint is first turned by whole turns to the angle nearest to qpos_near that lies within its limits. Without
    weights all joints count alike. Raises JointLimitError when every solution has a joint with no angle inside.
    """
    candidates = nearest_turns(solutions, qpos_near, limits)
    is_allowed = limits.contain(candidates)
    if not is_allowed.any():
        joints = np.flatnonzero((candidates < limits.qpos_low) | (candidates > limits.qpos_high)) % NUM_JOINTS + 1
        raise JointLimitError(
            f"all {len(solutions)} configurations lie outside the joint limits, with joints "
            f"{sorted(set(joints.tolist()))} of 1 to {NUM_JOINTS}"
        )
    weights = np.ones(NUM_JOINTS) if weights is None else weights
    distance = np.sqrt((weights * (candidates - qpos_near) ** 2).sum(axis=1))
    return candidates[np.argmin(np.where(is_allowed, distance, np.inf))]


def nearest_turns(
    qpos: Float[np.ndarray, "*batch 6"], qpos_near: Float[np.ndarray, " 6"], limits: JointLimits
) -> Float[np.ndarray, "*batch 6"]:
    """Each joint changed by whole turns: within its limits where that is possible, and there nearest to qpos_near."""
    turned = qpos + _FULL_TURN * np.round((qpos_near - qpos) / _FULL_TURN)
    turned = turned - _FULL_TURN * np.ceil(np.maximum(turned - limits.qpos_high, 0.0) / _FULL_TURN)
    return turned + _FULL_TURN * np.ceil(np.maximum(limits.qpos_low - turned, 0.0) / _FULL_TURN)


def _shoulder_angles(p_wrist: np.ndarray) -> np.ndarray:
    """(N, 2) q1: the wrist lies at distance d4 from the plane of the arm, sin(q1 - azimuth) = d4 / radius."""
    x, y = p_wrist[:, 0], p_wrist[:, 1]
    along = _root(x * x + y * y - _D4**2)
    azimuth, side = np.arctan2(y, x), np.arctan2(_D4, along)
    return np.stack([azimuth + side, azimuth + np.pi - side], axis=-1)


def _wrist_angles(R: np.ndarray, q1: np.ndarray, q6_hint: float) -> tuple[np.ndarray, np.ndarray]:
    """(N, 2, 2) q5 and q6 from the axis of joints 2 to 4 in tool coordinates, (c6 s5, -s6 s5, c5)."""
    axis = np.stack([np.sin(q1), -np.cos(q1), np.zeros_like(q1)], axis=-1) @ R
    sine = np.hypot(axis[..., 0], axis[..., 1])
    is_singular = sine < WRIST_SINGULAR_SINE
    sine = np.where(is_singular, 0.0, sine)
    sign = np.array([1.0, -1.0])
    q5 = np.arctan2(sine[..., None] * sign, axis[..., 2, None])
    q6 = np.arctan2(-axis[..., 1, None] * sign, axis[..., 0, None] * sign)
    return q5, np.where(is_singular[..., None], q6_hint, q6)


def _planar_arm_angles(
    R: np.ndarray, p_wrist: np.ndarray, q1: np.ndarray, q6: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N, 2, 2, 2) q2, q3, q4: two links that reach joint 4's place, whose sum is the direction of joint 5's axis."""
    forward = np.stack([np.cos(q1), np.sin(q1), np.zeros_like(q1)], axis=-1)[:, :, None]
    axis5 = -(np.sin(q6)[..., None] * R[:, None, None, :, 0] + np.cos(q6)[..., None] * R[:, None, None, :, 1])
    joint4 = p_wrist[:, None, None] - _D5 * axis5
    reach, height = (joint4 * forward).sum(axis=-1), joint4[..., 2] - _D1
    sum_of_angles = np.arctan2((axis5 * forward).sum(axis=-1), -axis5[..., 2])

    squared = reach**2 + height**2
    half = np.arctan2(_root((_A2 + _A3) ** 2 - squared), _root(squared - (_A2 - _A3) ** 2))
    q3 = 2.0 * half[..., None] * np.array([1.0, -1.0])
    q2 = np.arctan2(height, reach)[..., None] - np.arctan2(_A3 * np.sin(q3), _A2 + _A3 * np.cos(q3))
    return q2, q3, sum_of_angles[..., None] - q2 - q3


def _root(square: np.ndarray) -> np.ndarray:
    """Square root that forgives rounding just below zero and is NaN farther below."""
    return np.sqrt(np.where(square < -_REACH_TOLERANCE_M2, np.nan, np.maximum(square, 0.0)))


def _why_unreachable(T_base_tool: np.ndarray) -> str:
    p_wrist = T_base_tool[:3, 3] - _D6 * T_base_tool[:3, 2]
    if not np.all(np.isfinite(T_base_tool)):
        return "the pose is not finite"
    radius = float(np.hypot(p_wrist[0], p_wrist[1]))
    if radius < _D4:
        return f"the wrist would be {radius:.4f} m from the axis of joint 1, nearer than the wrist's offset {_D4:.5f} m"
    distance = float(np.linalg.norm(p_wrist - [0.0, 0.0, _D1]))
    return (
        f"the wrist would be {distance:.4f} m from the shoulder; upper arm and forearm span "
        f"{abs(_A2 - _A3):.4f} to {abs(_A2 + _A3):.4f} m, before offsets of {_D4:.4f} m and {_D5:.4f} m"
    )
