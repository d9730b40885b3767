"""What stands around an object, read from the depth image: the detector does not know every obstacle, depth does."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from robot.types import Frame
from robot.policies.pick_config import GraspConfig
from robot.transforms import apply_transform

PIXEL_STEP = 2
"""Every second pixel in each direction is enough: at half a metre that is a point each 2.6 mm."""


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
    """How many points lie where the two fingers go when they come down open and close on the object.

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
