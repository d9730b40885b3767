"""MuJoCo as the second opinion: a chain of six hinges written straight from a DH table."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from handeye.robot.kinematics.forward import UR10E, DHParameters

MujocoPose = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def mjcf_from_dh(dh: DHParameters) -> str:
    """Each body carries one hinge about its z axis and holds the next at the fixed part of its DH row."""
    opening, closing, place = "", "", 'pos="0 0 0"'
    for i, (a, d, alpha) in enumerate(zip(dh.a_m, dh.d_m, dh.alpha_rad, strict=True)):
        opening += (
            f'<body {place}><inertial pos="0 0 0" mass="1" diaginertia="1 1 1"/><joint name="q{i}" axis="0 0 1"/>'
        )
        closing += "</body>"
        place = f'pos="{a} 0 {d}" quat="{math.cos(alpha / 2)} {math.sin(alpha / 2)} 0 0"'
    site = f'<site name="flange" {place}/>'
    return f'<mujoco><compiler angle="radian"/><worldbody>{opening}{site}{closing}</worldbody></mujoco>'


@pytest.fixture(scope="session")
def mujoco_pose() -> MujocoPose:
    """`mujoco_pose(qpos)`: the pose of the flange (4, 4) and its Jacobian (6, 6), linear rows first."""
    mujoco = pytest.importorskip("mujoco", reason="the second opinion on kinematics comes from MuJoCo")
    model = mujoco.MjModel.from_xml_string(mjcf_from_dh(UR10E))
    data = mujoco.MjData(model)
    site = model.site("flange").id

    def pose(qpos: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        data.qpos[:] = qpos
        mujoco.mj_forward(model, data)
        T = np.eye(4)
        T[:3, :3], T[:3, 3] = data.site_xmat[site].reshape(3, 3), data.site_xpos[site]
        J = np.zeros((6, 6))
        mujoco.mj_jacSite(model, data, J[:3], J[3:], site)
        return T, J

    return pose
