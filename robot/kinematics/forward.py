"""Forward kinematics, geometric Jacobian and singularity measures from a Denavit-Hartenberg table (standard, distal).

Frame i-1 -> i: turn by theta about z, move by d along z, move by a along x, turn by alpha about x. Frame 0 is the
base (z up), frame 6 the tool flange (z outwards). At qpos = 0 the UR10e lies stretched along -x of the base.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from handeye.robot.types import NUM_JOINTS
from handeye.vision.errors import ConfigError


@dataclass(frozen=True, slots=True)
class DHParameters:
    """Six rows of a DH table: link lengths a_m, link offsets d_m and twists alpha_rad; theta is the joint angle."""

    a_m: tuple[float, float, float, float, float, float]
    d_m: tuple[float, float, float, float, float, float]
    alpha_rad: tuple[float, float, float, float, float, float]


UR10E = DHParameters(
    a_m=(0.0, -0.6127, -0.57155, 0.0, 0.0, 0.0),
    d_m=(0.1807, 0.0, 0.0, 0.17415, 0.11985, 0.11655),
    alpha_rad=(np.pi / 2, 0.0, 0.0, np.pi / 2, -np.pi / 2, 0.0),
)
"""Nominal UR10e, from Universal Robots' published "Parameters for calculations of kinematics and dynamics".

A real arm deviates from it by 1 to 2 mm at the flange; its factory calibration lies in its controller.
"""


def forward_kinematics(
    qpos: Float[np.ndarray, "*batch 6"], dh: DHParameters = UR10E
) -> Float[np.ndarray, "*batch 4 4"]:
    """T_base_tool, the pose of the flange (frame 6), for joint angles in rad; any number of leading dimensions."""
    return link_frames(qpos, dh)[..., NUM_JOINTS, :, :]


def link_frames(qpos: Float[np.ndarray, "*batch 6"], dh: DHParameters = UR10E) -> Float[np.ndarray, "*batch 7 4 4"]:
    """T_base_0 (the identity) to T_base_6 (the flange): joint i + 1 turns about the z axis of frame i."""
    steps = joint_transforms(qpos, dh)
    frames = np.empty((*qpos.shape[:-1], NUM_JOINTS + 1, 4, 4))
    frames[..., 0, :, :] = np.eye(4)
    for i in range(NUM_JOINTS):
        frames[..., i + 1, :, :] = frames[..., i, :, :] @ steps[..., i, :, :]
    return frames


def joint_transforms(
    qpos: Float[np.ndarray, "*batch 6"], dh: DHParameters = UR10E
) -> Float[np.ndarray, "*batch 6 4 4"]:
    """The transforms from frame i to frame i + 1, i = 0..5: Rot_z(q) Trans_z(d) Trans_x(a) Rot_x(alpha)."""
    a, d = np.asarray(dh.a_m), np.asarray(dh.d_m)
    sin_alpha, cos_alpha = np.sin(dh.alpha_rad), np.cos(dh.alpha_rad)
    sin_q, cos_q = np.sin(qpos), np.cos(qpos)
    steps = np.zeros((*qpos.shape, 4, 4))
    steps[..., 0, 0] = cos_q
    steps[..., 0, 1] = -sin_q * cos_alpha
    steps[..., 0, 2] = sin_q * sin_alpha
    steps[..., 0, 3] = a * cos_q
    steps[..., 1, 0] = sin_q
    steps[..., 1, 1] = cos_q * cos_alpha
    steps[..., 1, 2] = -cos_q * sin_alpha
    steps[..., 1, 3] = a * sin_q
    steps[..., 2, 1] = sin_alpha
    steps[..., 2, 2] = cos_alpha
    steps[..., 2, 3] = d
    steps[..., 3, 3] = 1.0
    return steps


class SingularityMeasures(NamedTuple):
    """Zero where singular. wrist and elbow are sines, shoulder_m the reach of joint 5's place in the arm's plane."""

    wrist: Float[np.ndarray, "*batch"]
    elbow: Float[np.ndarray, "*batch"]
    shoulder_m: Float[np.ndarray, "*batch"]


@dataclass(frozen=True, slots=True)
class SingularityMargins:
    """How far from singular a configuration must stay: |sin q5|, |sin q3| and the shoulder's reach in m.

    Raises ConfigError for margins that are negative or not finite.
    """

    wrist: float
    elbow: float
    shoulder_m: float

    def __post_init__(self) -> None:
        for name, value in zip(SingularityMeasures._fields, self.values, strict=True):
            if not (np.isfinite(value) and value >= 0.0):
                raise ConfigError(f"singularity margins: {name}: expected a finite number >= 0, got {value}")

    @property
    def values(self) -> tuple[float, float, float]:
        """In the order of SingularityMeasures."""
        return self.wrist, self.elbow, self.shoulder_m


def geometric_jacobian(
    qpos: Float[np.ndarray, "*batch 6"],
    p_tool: Float[np.ndarray, " 3"] | None = None,
    dh: DHParameters = UR10E,
) -> Float[np.ndarray, "*batch 6 6"]:
    """J with (v, w) = J qvel: velocity in m/s of the point p_tool of the tool frame, angular velocity in rad/s.

    Both are written in base axes. Without p_tool the point is the flange's centre. Column i is (z_i x (p - p_i), z_i),
    the motion by a turn about joint i's axis.
    """
    frames = link_frames(qpos, dh)
    tool = frames[..., NUM_JOINTS, :, :]
    point = tool[..., :3, 3] if p_tool is None else tool[..., :3, :3] @ p_tool + tool[..., :3, 3]
    axes = frames[..., :NUM_JOINTS, :3, 2]
    arms = point[..., None, :] - frames[..., :NUM_JOINTS, :3, 3]
    columns = np.concatenate([np.cross(axes, arms), axes], axis=-1)
    return np.swapaxes(columns, -1, -2)


def singularity_measures(qpos: Float[np.ndarray, "*batch 6"], dh: DHParameters = UR10E) -> SingularityMeasures:
    """|sin q5|, |sin q3| and |a2 c2 + a3 c23 + d5 s234| for the UR family; |det J| is their product times |a2 a3|.

    The determinant vanishes where wrist (q5), elbow (q3) or shoulder (wrist above the base axis) is singular, so
    nearness is reported for each of the three by itself.
    """
    q2, q23 = qpos[..., 1], qpos[..., 1] + qpos[..., 2]
    reach = dh.a_m[1] * np.cos(q2) + dh.a_m[2] * np.cos(q23) + dh.d_m[4] * np.sin(q23 + qpos[..., 3])
    return SingularityMeasures(
        wrist=np.asarray(np.abs(np.sin(qpos[..., 4]))),
        elbow=np.asarray(np.abs(np.sin(qpos[..., 2]))),
        shoulder_m=np.asarray(np.abs(reach)),
    )
