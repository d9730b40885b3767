"""Where a position's error comes from, propagated to the base frame by Jacobians.

Three sources: the depth sensor (along the ray), the edges found in the image (across the rays), and the hand-eye
calibration, whose small rotation w and translation t (camera frame) move a point p by w x p + t.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from pydantic import Field

from vision.config import Config


class UncertaintyConfig(Config):
    """Standard deviations of what positions are computed from."""

    edge_sigma_px: float = Field(default=0.5, gt=0)
    """Of a side of an object found in the depth image."""
    box_sigma_px: float = Field(default=3.0, gt=0)
    """Of the middle of a detector's box."""
    box_sigma_part: float = Field(default=0.15, ge=0)
    """The same as a part of the box's size: how far the middle may be from the object's centre in the image."""
    box_edge_sigma_px: float = Field(default=2.0, gt=0)
    """Of one side of a detector's box that no other object hides."""
    depth_patch_px: float = Field(default=25.0, gt=0)
    """Pixels that share one depth error, because stereo matches patches."""
    hand_eye_translation_m: float = Field(default=0.001, ge=0)
    """Of each coordinate of the camera's place on the tool."""
    hand_eye_rotation_rad: float = Field(default=0.001, ge=0)
    """About each axis of the camera."""
    table_m: float = Field(default=0.0005, ge=0)
    """Of the table's height."""


def surface_covariance(
    p_camera: Float[np.ndarray, "3"], depth_sigma_m: float, config: UncertaintyConfig
) -> Float[np.ndarray, "3 3"]:
    """Covariance (m^2, camera frame) of a surface point from its depth and from the hand-eye calibration.

    d p / d depth is the ray p / z. With equal variances about all axes, [p]x S [p]x^T = s^2 (|p|^2 1 - p p^T).
    """
    ray = p_camera / p_camera[2]
    rotation = float(p_camera @ p_camera) * np.eye(3) - np.outer(p_camera, p_camera)
    return (
        depth_sigma_m**2 * np.outer(ray, ray)
        + config.hand_eye_translation_m**2 * np.eye(3)
        + config.hand_eye_rotation_rad**2 * rotation
    )


def averaged_depth_sigma(sigma_m: float, num_pixels: int, config: UncertaintyConfig) -> float:
    """Standard deviation of the mean depth of a surface: readings within a patch are no independent witnesses."""
    return sigma_m / max(1.0, np.sqrt(num_pixels / config.depth_patch_px))


def rotate_covariance(
    covariance: Float[np.ndarray, "3 3"], R_a_b: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, "3 3"]:
    """The covariance of R p when p has this covariance, exactly symmetric."""
    rotated = R_a_b @ covariance @ R_a_b.T
    return 0.5 * (rotated + rotated.T)
