"""Visibility of an object in a depth image, and depth images without the arm.

The depth image shows what occludes, be it the arm, the gripper or another object, so no model of them is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from jaxtyping import Float
from pydantic import Field

from handeye.robot.kinematics.collision_geometry import PlacedArm, points_on_arm
from handeye.robot.perception.camera_view import ProjectionConfig, pixel_rays
from handeye.robot.transforms import apply_transform, inverse
from handeye.robot.types import Frame
from handeye.vision.config import Config
from handeye.vision.runtime.detections import Detections

_AROUND_PX = 6  # readings this near around a box count as well
_NOISE_SIGMAS = 2.0
_SHAPE_ERROR_M = 0.002  # how far the arm may differ from its collision geometry


class VisibilityConfig(Config):
    """What counts as visible."""

    object_radius_m: float = Field(default=0.03, gt=0)
    """How far the object reaches around its centre; all of that must be inside the image."""
    patch_px: int = Field(default=5, ge=1)
    """Side of the patch of depth around the object's centre that is looked at."""


def build_visibility(
    frame: Frame, T_base_camera: Float[np.ndarray, "4 4"], config: VisibilityConfig
) -> Callable[[Float[np.ndarray, " 3"]], bool]:
    """A function from a point p_base (m) to whether an object there would be visible in this frame.

    It is hidden when its centre projects too near to the border or behind the camera, or when the median depth there
    is nearer than the object's front could be. A patch without readings counts as hidden: a track that is kept too
    long costs less than one that is dropped because the sensor was blind there.
    """
    T_camera_base = inverse(T_base_camera)

    def is_visible(p_base: Float[np.ndarray, " 3"]) -> bool:
        x, y, z = frame.K @ apply_transform(T_camera_base, p_base)
        if z <= config.object_radius_m:
            return False
        u, v = x / z, y / z
        margin_px = config.object_radius_m * frame.K[0, 0] / z
        height, width = frame.depth_m.shape
        if not (margin_px <= u <= width - 1 - margin_px and margin_px <= v <= height - 1 - margin_px):
            return False
        return bool(_median_depth(frame, round(u), round(v), config.patch_px) >= z - 2.0 * config.object_radius_m)

    return is_visible


def _median_depth(frame: Frame, u: int, v: int, patch_px: int) -> float:
    """Median of the readings around a pixel in m; 0 where there are none."""
    half = patch_px // 2
    patch = frame.depth_m[max(v - half, 0) : v + half + 1, max(u - half, 0) : u + half + 1]
    with np.errstate(invalid="ignore"):
        readings = patch[(patch > 0.0) & np.isfinite(patch)]
    return float(np.median(readings)) if readings.size else 0.0


def without_arm(
    frame: Frame,
    T_base_camera: Float[np.ndarray, "4 4"],
    arm: PlacedArm,
    detections: Detections,
    config: ProjectionConfig,
) -> Frame:
    """The frame with negative depth where readings in and around the boxes lie on the arm, within their noise.

    So no object is located on a hand in front of it; what ends at such a reading is cut, not at its own edge.
    """
    in_box = np.zeros(frame.depth_m.shape, dtype=bool)
    for x0, y0, x1, y1 in np.nan_to_num(detections.boxes_xyxy).astype(int):
        in_box[max(y0 - _AROUND_PX, 0) : y1 + _AROUND_PX, max(x0 - _AROUND_PX, 0) : x1 + _AROUND_PX] = True
    rows, columns = np.nonzero(in_box & (frame.depth_m > 0.0) & np.isfinite(frame.depth_m))
    depth_m = frame.depth_m[rows, columns].astype(np.float64)
    rays = pixel_rays(np.stack([columns, rows], axis=1).astype(np.float64), frame.K)
    points = apply_transform(T_base_camera, rays * depth_m[:, None])
    sigma_m = config.depth.sigma_m(1.0, float(np.sqrt(frame.K[0, 0] * frame.K[1, 1]))) * depth_m**2
    is_arm = points_on_arm(points, arm, _SHAPE_ERROR_M + _NOISE_SIGMAS * sigma_m)
    marked = frame.depth_m.copy()
    marked[rows[is_arm], columns[is_arm]] *= -1.0
    return replace(frame, depth_m=marked)
