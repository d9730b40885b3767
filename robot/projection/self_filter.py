"""Depth without the arm, known from its joints, so that no object is placed onto a hand that comes before it.

Readings on the arm get a negative sign: nothing is measured by them, but what ends there is cut off, not at its edge.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from robot.kinematics.collision_geometry import PlacedArm
from robot.types import Frame
from robot.projection.rays import pixel_rays
from robot.perception.camera_view import ProjectionConfig
from robot.tracking.visibility import points_on_arm
from robot.transforms import apply_transform
from vision.runtime.detections import Detections

_AROUND_PX = 6
"""Readings so near around a box have a say in it."""
_NOISE_SIGMAS = 2.0
_SHAPE_ERROR_M = 0.002
"""How far arm and drawing may differ."""


def without_arm(
    frame: Frame,
    T_base_camera: Float[np.ndarray, "4 4"],
    arm: PlacedArm,
    detections: Detections,
    config: ProjectionConfig,
) -> Frame:
    """The frame with negative depth where readings in and around the boxes lie on the arm, within their noise."""
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
