"""Where the gripper goes: straight down on an object, turned along its faces, beside whatever stands near."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from robot.config import WorkCellConfig
from robot.errors import KinematicsError
from robot.kinematics.limits import joint_limits_from_config
from robot.kinematics.ur10e_ik import choose_solution, inverse_kinematics
from robot.types import Track
from robot.policies.pick_config import GraspConfig
from robot.policy.surroundings import count_in_finger_sweep
from robot.transforms import inverse, make_transform

QUARTER_TURN = np.pi / 2
BLOCKED_COST_RAD = 2 * np.pi
"""No turn of the hand costs as much as closing the fingers on a neighbour."""
LIMIT_MARGIN_RAD = 0.05
"""Poses nearer to a joint's end than this are not chosen, so that the safety gates never have to object."""


@dataclass(frozen=True, slots=True, eq=False)
class Grasp:
    """A way to take the object of a track: grasp point and yaw, the opening to come with, the arm's pose above it.

    yaw_rad is the direction in which the fingers open, from base x; width_m is what they will find between them.
    T_base_tool is the flange's pose at the grasp, qpos_above are the joints above it. obstacle_points counts what
    stands where the fingers must go.
    """

    track_id: int
    p_base: Float[np.ndarray, " 3"]
    yaw_rad: float
    width_m: float
    opening_m: float
    T_base_tool: Float[np.ndarray, "4 4"]
    qpos_above: Float[np.ndarray, " 6"]
    obstacle_points: int


class GraspPlanner:
    """Chooses grasps and finds joints for poses, within the limits of one work cell."""

    def __init__(self, cell: WorkCellConfig, config: GraspConfig) -> None:
        self._cell = cell
        self._config = config
        self._limits = joint_limits_from_config(cell.joint_limits)
        self._weights = 1.0 / self._limits.qvel_max**2

    def choose(
        self, track: Track, qpos_now: Float[np.ndarray, " 6"], points_base: Float[np.ndarray, "N 3"]
    ) -> Grasp | None:
        """The grasp of `track` that turns the arm least among those whose fingers are free; None if out of reach.

        A box can be taken at each quarter turn. When neighbours (`points_base`, seen surfaces, m) block all of them,
        the least blocked is chosen: the fingers then push the neighbour a little.
        """
        yaw_rad = 0.0 if track.yaw_rad is None else track.yaw_rad
        candidates = [self._grasp_at(track, yaw_rad + k * QUARTER_TURN, qpos_now, points_base) for k in range(4)]
        reachable = [grasp for grasp in candidates if grasp is not None]

        def cost(grasp: Grasp) -> float:
            turn_rad = float(np.abs(grasp.qpos_above - qpos_now).max())
            blocked = grasp.obstacle_points >= self._config.blocked_points
            return turn_rad + (BLOCKED_COST_RAD * (1 + grasp.obstacle_points) if blocked else 0.0)

        return min(reachable, key=cost, default=None)

    def reach(
        self, T_base_tool: Float[np.ndarray, "4 4"], qpos_near: Float[np.ndarray, " 6"]
    ) -> Float[np.ndarray, " 6"] | None:
        """The joints that place the flange, by the quickest way from `qpos_near`; None where there are none."""
        try:
            solutions = inverse_kinematics(T_base_tool, q6_hint=float(qpos_near[5]))
            qpos = choose_solution(solutions, qpos_near, self._limits, self._weights)
        except KinematicsError:
            return None
        return qpos if bool(self._limits.contain(qpos, LIMIT_MARGIN_RAD)) else None

    def _grasp_at(
        self,
        track: Track,
        yaw_rad: float,
        qpos_now: Float[np.ndarray, " 6"],
        points_base: Float[np.ndarray, "N 3"],
    ) -> Grasp | None:
        cell, config = self._cell, self._config
        p_grasp = self._grasp_point(track)
        p_above = p_grasp + np.array([0.0, 0.0, config.clearance_m])
        if not (cell.workspace.contains(p_grasp) and cell.workspace.contains(p_above)):
            return None
        T_base_tool = tool_pose_down(p_grasp, yaw_rad, cell)
        qpos_above = self.reach(tool_pose_down(p_above, yaw_rad, cell), qpos_now)
        if qpos_above is None or self.reach(T_base_tool, qpos_above) is None:
            return None
        width_m = cell.cube_edge_m[1] if track.size_m is None else float(track.size_m[:2].max())
        opening_m = min(width_m + 2 * config.finger_gap_m, cell.gripper.opening_max_m)
        # Depth noise on the bare table must not look like an obstacle.
        tips_z = p_grasp[2] - cell.gripper.fingertip_beyond_tcp_m
        tips_z = max(tips_z, cell.table.height_m + 2 * config.table_gap_m)
        obstacles = count_in_finger_sweep(points_base, p_grasp, yaw_rad, opening_m, width_m, tips_z, config)
        return Grasp(track.track_id, p_grasp, yaw_rad, width_m, opening_m, T_base_tool, qpos_above, obstacles)

    def _grasp_point(self, track: Track) -> Float[np.ndarray, " 3"]:
        """The object's middle, but never so low that the fingertips touch the table."""
        lowest_z = self._cell.table.height_m + self._config.table_gap_m + self._cell.gripper.fingertip_beyond_tcp_m
        return np.array([track.p_base[0], track.p_base[1], max(float(track.p_base[2]), lowest_z)])


def tool_pose_down(
    p_tcp_base: Float[np.ndarray, " 3"], yaw_rad: float, cell: WorkCellConfig
) -> Float[np.ndarray, "4 4"]:
    """T_base_tool with the grasp point at `p_tcp_base`, pointing straight down, fingers opening along `yaw_rad`."""
    return make_transform(_rotation_down(yaw_rad), p_tcp_base) @ inverse(cell.T_tool_tcp)


def camera_pose_down(
    p_camera_base: Float[np.ndarray, " 3"], yaw_rad: float, cell: WorkCellConfig
) -> Float[np.ndarray, "4 4"]:
    """T_base_tool with the camera at `p_camera_base`, looking straight down, its x axis along `yaw_rad`."""
    return make_transform(_rotation_down(yaw_rad), p_camera_base) @ inverse(cell.T_tool_camera)


def _rotation_down(yaw_rad: float) -> Float[np.ndarray, "3 3"]:
    """x axis horizontal at `yaw_rad`, z axis down."""
    cos, sin = np.cos(yaw_rad), np.sin(yaw_rad)
    return np.array([[cos, sin, 0.0], [sin, -cos, 0.0], [0.0, 0.0, -1.0]])
