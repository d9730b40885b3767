"""What every way of locating an object starts from (one checked frame and its place) and ends with (a centre)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64
from pydantic import Field

from robot.camera.intrinsics import check_fits_image, check_pinhole
from robot.errors import RobotError
from robot.types import Frame
from robot.perception.box_depth import BoxDepth, DepthConfig, check_depth
from robot.projection.rays import pixel_rays, plane_inverse_depth
from robot.projection.uncertainty import UncertaintyConfig, rotate_covariance, surface_covariance
from robot.transforms import apply_transform, inverse, require_transform
from vision.config import Config


class ProjectionConfig(Config):
    """From boxes and depth to positions."""

    depth: DepthConfig = DepthConfig()
    uncertainty: UncertaintyConfig = UncertaintyConfig()
    max_standing_height_m: float = Field(default=0.10, gt=0)
    """A top face higher than this above the table belongs to something that is held, not standing."""
    max_slenderness: float = Field(default=1.6, gt=1)
    """What looks taller than this many times its width is held above the table rather than standing on it."""
    min_box_overlap: float = Field(default=0.5, ge=0, le=1)
    """Below this overlap (IoU) with the detector's box a cuboid found in the depth is not what the detector saw."""
    expected_size_m: float = Field(default=0.048, gt=0)
    """Length, width and height of an object of which not all can be seen."""
    expected_size_sigma_m: float = Field(default=0.008, gt=0)
    """Standard deviation of that size."""
    expected_unevenness_m: float = Field(default=0.004, gt=0)
    """Standard deviation of the difference between its length and its width."""


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A frame and where it was taken from. table_height_m is in the base frame, None if unknown.

    Raises TransformError for what is no rigid transform (mirrored, not orthonormal), CameraError for a K that does not
    fit the image, DepthError for depth that cannot be metres and RobotError for a camera below the table.
    """

    frame: Frame
    T_base_camera: Float[np.ndarray, "4 4"]
    table_height_m: float | None
    config: ProjectionConfig

    def __post_init__(self) -> None:
        require_transform(self.T_base_camera, "T_base_camera")
        height, width = self.frame.image_rgb.shape[:2]
        check_pinhole(self.frame.K)
        check_fits_image(self.frame.K, (height, width))
        check_depth(self.frame.depth_m, (height, width))
        if self.table_height_m is not None and self.T_base_camera[2, 3] <= self.table_height_m:
            raise RobotError(
                f"expected the camera above the table at z = {self.table_height_m:g} m of the base frame, "
                f"got z = {self.T_base_camera[2, 3]:g} m: is T_base_camera inverted?"
            )

    @property
    def focal_px(self) -> float:
        """The geometric mean of both focal lengths."""
        return float(np.sqrt(self.frame.K[0, 0] * self.frame.K[1, 1]))

    def heights_above(self, surface: BoxDepth, height_m: float) -> Float[np.ndarray, "h w"]:
        """Height (m) of what each pixel of the surface's window shows above the plane z = height_m of the base frame.

        With z the depth and z' that of the plane along the same ray, it is the camera's height times 1 - z / z'.
        """
        a, b, c = plane_inverse_depth(self.frame.K, self.T_base_camera, height_m)
        rows, columns = surface.mask.shape
        inverse_plane = (b * (np.arange(rows) + surface.top_px) + c)[:, None] + a * (
            np.arange(columns) + surface.left_px
        )
        return (self.T_base_camera[2, 3] - height_m) * (1.0 - surface.crop(self.frame.depth_m) * inverse_plane)

    def points_base(self, surface: BoxDepth, pixels_vu: Int64[np.ndarray, "N 2"]) -> Float[np.ndarray, "N 3"]:
        """Points (m, base frame) of pixels (row, column) of the surface's window, from their depth."""
        rows, columns = pixels_vu[:, 0] + surface.top_px, pixels_vu[:, 1] + surface.left_px
        pixels_uv = np.stack([columns, rows], axis=1).astype(np.float64)
        depth_m = self.frame.depth_m[rows, columns].astype(np.float64)
        return apply_transform(self.T_base_camera, pixel_rays(pixels_uv, self.frame.K) * depth_m[:, None])

    def covariance(self, p_base: Float[np.ndarray, "3"], depth_sigma_m: float) -> Float[np.ndarray, "3 3"]:
        """Covariance (m^2, base frame) of a surface point from the error of its depth and of the calibration."""
        p_camera = apply_transform(inverse(self.T_base_camera), p_base)
        covariance = surface_covariance(p_camera, depth_sigma_m, self.config.uncertainty)
        return rotate_covariance(covariance, self.T_base_camera[:3, :3])


@dataclass(frozen=True, slots=True, eq=False)
class Located:
    """An object's centre with its covariance (m^2); yaw and size (length, width, height) where they were seen."""

    p_base: Float[np.ndarray, "3"]
    covariance_base: Float[np.ndarray, "3 3"]
    yaw_rad: float | None = None
    size_m: Float[np.ndarray, "3"] | None = None
