"""Where the wrist camera is when it looks, as picking meets it: tool poses drawn at random, reached by the arm."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from robot.config import WorkCellConfig
from robot.errors import KinematicsError
from robot.kinematics.limits import joint_limits_from_config
from robot.kinematics.ur10e_ik import choose_solution, inverse_kinematics
from robot.transforms import inverse

# Tool pointing straight down, fingers opening along base y.
_DOWN = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])


def tool_rotation(yaw_rad: float, tilt_rad: float, tilt_azimuth_rad: float) -> Float[np.ndarray, "3 3"]:
    """R_base_tool: pointing down, turned by yaw about base z, then tilted about a horizontal axis."""
    c, s = np.cos(yaw_rad), np.sin(yaw_rad)
    yaw = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    axis = np.array([np.cos(tilt_azimuth_rad), np.sin(tilt_azimuth_rad), 0.0])
    cross = np.cross(np.eye(3), axis)
    tilt = np.eye(3) - np.sin(tilt_rad) * cross + (1 - np.cos(tilt_rad)) * cross @ cross
    return tilt @ yaw @ _DOWN


def tool_looking_at(
    p_base: Float[np.ndarray, " 3"], height_m: float, R_base_tool: Float[np.ndarray, "3 3"], cell: WorkCellConfig
) -> Float[np.ndarray, "4 4"]:
    """T_base_tool with the camera `height_m` above `p_base`, which lies on its optical axis."""
    R_base_camera = R_base_tool @ cell.T_tool_camera[:3, :3]
    direction = R_base_camera[:, 2]
    T_base_camera = np.eye(4)
    T_base_camera[:3, :3] = R_base_camera
    T_base_camera[:3, 3] = p_base - direction * (height_m / -direction[2])
    return T_base_camera @ inverse(cell.T_tool_camera)


def tool_grasping_at(
    p_base: Float[np.ndarray, " 3"], R_base_tool: Float[np.ndarray, "3 3"], cell: WorkCellConfig
) -> Float[np.ndarray, "4 4"]:
    """T_base_tool with the grasp point at `p_base`."""
    T_base_tcp = np.eye(4)
    T_base_tcp[:3, :3] = R_base_tool @ cell.T_tool_tcp[:3, :3]
    T_base_tcp[:3, 3] = p_base
    return T_base_tcp @ inverse(cell.T_tool_tcp)


def joints_for(T_base_tool: Float[np.ndarray, "4 4"], cell: WorkCellConfig) -> Float[np.ndarray, " 6"] | None:
    """The configuration nearest to home that brings the tool there within the workspace, None if there is none."""
    tcp = (T_base_tool @ cell.T_tool_tcp)[:3, 3]
    if not cell.workspace.contains(tcp):
        return None
    home = np.array(cell.home_qpos)
    try:
        solutions = inverse_kinematics(T_base_tool, q6_hint=home[5])
        return choose_solution(solutions, home, joint_limits_from_config(cell.joint_limits))
    except KinematicsError:
        return None
