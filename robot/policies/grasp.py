"""Grasp planning: straight down on an object, along its faces, where the depth image shows room for the fingers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from pydantic import Field

from handeye.robot.config import WorkCellConfig
from handeye.robot.errors import KinematicsError
from handeye.robot.kinematics.limits import joint_limits_from_config
from handeye.robot.kinematics.ur10e_ik import choose_solution, inverse_kinematics
from handeye.robot.transforms import apply_transform, inverse, make_transform
from handeye.robot.types import Frame, Track
from handeye.vision.config import Config


class GraspConfig(Config):
    """Distances and limits of a grasp."""

    clearance_m: float = Field(default=0.10, gt=0)
    """Height of the grasp point above the object's centre before going straight down."""
    finger_gap_m: float = Field(default=0.014, gt=0)
    """Free space wanted on each side of the object while going down, where the opening allows it."""
    finger_thickness_m: float = Field(default=0.020, gt=0)
    """Extent of a finger along the opening direction; what it sweeps over must be free."""
    finger_width_m: float = Field(default=0.026, gt=0)
    """Extent of a finger across the opening direction."""
    table_gap_m: float = Field(default=0.005, ge=0)
    """The fingertips stay this far above the table."""
    blocked_points: int = Field(default=6, ge=1)
    """This many depth points in the way of the fingers are an obstacle; fewer are noise."""
    held_opening_min_m: float = Field(default=0.015, gt=0)
    """Fingers that have closed to less than this hold nothing."""
    moved_m: float = Field(default=0.03, gt=0)
    """An object that is found this far from where it was expected has moved, and is approached anew."""
    correct_m: float = Field(default=0.0015, ge=0)
    """Corrections above the object that are smaller than this are not worth a motion."""
    correct_rad: float = Field(default=0.03, ge=0)
    """The same for the yaw."""
    max_approaches: int = Field(default=4, ge=1)
    """How often an object may be followed to a new position within one attempt before it counts as lost."""
    max_attempts: int = Field(default=4, ge=1)
    """Grasps to try before giving up."""


QUARTER_TURN = np.pi / 2
BLOCKED_COST_RAD = 2 * np.pi
"""No turn of the hand costs as much as closing the fingers on a neighbour."""
PIXEL_STEP = 2
"""Every second pixel in each direction is enough: at half a metre that is a point every 2.6 mm."""
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


def points_around(
    frame: Frame,
    T_base_camera: Float[np.ndarray, "4 4"],
    p_base: Float[np.ndarray, " 3"],
    radius_m: float,
) -> Float[np.ndarray, "N 3"]:
    """The surface points of `frame` in the base frame (m) that lie within `radius_m` of `p_base` in x and y."""
    depth_m = frame.depth_m[::PIXEL_STEP, ::PIXEL_STEP].astype(np.float64)
    v, u = np.nonzero(np.isfinite(depth_m))
    z = depth_m[v, u]
    x = (u * PIXEL_STEP - frame.K[0, 2]) * z / frame.K[0, 0]
    y = (v * PIXEL_STEP - frame.K[1, 2]) * z / frame.K[1, 1]
    points = apply_transform(T_base_camera, np.stack([x, y, z], axis=1))
    return points[np.hypot(points[:, 0] - p_base[0], points[:, 1] - p_base[1]) <= radius_m]


def count_in_finger_sweep(
    points_base: Float[np.ndarray, "N 3"],
    p_grasp_base: Float[np.ndarray, " 3"],
    yaw_rad: float,
    opening_m: float,
    object_width_m: float,
    fingertip_z_m: float,
    config: GraspConfig,
) -> int:
    """Number of points in the way of the two fingers when they come down open and close on the object.

    The fingers open along the horizontal direction at `yaw_rad` from base x. Seen from above each sweeps a rectangle
    from just beside the object to the outside of the open finger; points below `fingertip_z_m` do not matter.
    """
    offset = points_base[:, :2] - p_grasp_base[:2]
    along = np.abs(offset @ np.array([np.cos(yaw_rad), np.sin(yaw_rad)]))
    across = np.abs(offset @ np.array([-np.sin(yaw_rad), np.cos(yaw_rad)]))
    # The object's own faces, seen with noise and a slightly wrong yaw, must not count as an obstacle.
    inner_m = object_width_m / 2 + config.finger_gap_m / 2
    outer_m = opening_m / 2 + config.finger_thickness_m
    inside = (along > inner_m) & (along < outer_m) & (across < config.finger_width_m / 2)
    return int(np.count_nonzero(inside & (points_base[:, 2] > fingertip_z_m)))


def _rotation_down(yaw_rad: float) -> Float[np.ndarray, "3 3"]:
    """x axis horizontal at `yaw_rad`, z axis down."""
    cos, sin = np.cos(yaw_rad), np.sin(yaw_rad)
    return np.array([[cos, sin, 0.0], [sin, -cos, 0.0], [0.0, 0.0, -1.0]])
