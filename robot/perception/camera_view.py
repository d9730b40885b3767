"""A frame with its camera pose, pixel rays and where they meet a plane, and the covariance of located points.

A ray is written (x, y, 1) in the camera frame, so a point at depth z along the camera's axis is z times its ray.

Positions err for three reasons, propagated to the base frame by Jacobians: the depth sensor (along the ray), the edges
found in the image (across the rays), and the hand-eye calibration, whose small rotation w and translation t (camera
frame) move a point p by w x p + t.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64
from pydantic import Field

from handeye.robot.camera.intrinsics import check_fits_image, check_pinhole
from handeye.robot.errors import RobotError
from handeye.robot.perception.box_depth import BoxDepth, DepthConfig, check_depth
from handeye.robot.transforms import apply_transform, inverse, require_transform, rotate_vectors
from handeye.robot.types import Frame
from handeye.vision.config import Config


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


class ProjectionConfig(Config):
    """Localization from detector boxes and depth."""

    depth: DepthConfig = DepthConfig()
    uncertainty: UncertaintyConfig = UncertaintyConfig()
    max_standing_height_m: float = Field(default=0.10, gt=0)
    """A top face higher than this above the table belongs to something that is held, not standing."""
    max_slenderness: float = Field(default=1.6, gt=1)
    """What looks taller than this many times its width is held above the table, not standing on it."""
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
    def table_m(self) -> float:
        """table_height_m, for callers that have checked that it is known."""
        assert self.table_height_m is not None
        return self.table_height_m

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


def pixel_rays(
    pixels_uv: Float[np.ndarray, "*points 2"], K: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, "*points 3"]:
    """Rays (x, y, 1) in the camera frame through pixels (u, v) of a pinhole camera with matrix K."""
    y = (pixels_uv[..., 1] - K[1, 2]) / K[1, 1]
    x = (pixels_uv[..., 0] - K[0, 2] - K[0, 1] * y) / K[0, 0]
    return np.stack([x, y, np.ones_like(x)], axis=-1)


def plane_depth(
    rays_camera: Float[np.ndarray, "*points 3"], T_base_camera: Float[np.ndarray, "4 4"], height_m: float
) -> Float[np.ndarray, "*points"]:
    """Depth (m, along the camera's axis) at which rays meet the horizontal plane z = height_m of the base frame.

    NaN where the plane lies behind the camera or the ray runs along it.
    """
    descent = rays_camera @ T_base_camera[2, :3]
    with np.errstate(divide="ignore", invalid="ignore"):
        depth_m = (height_m - T_base_camera[2, 3]) / descent
    return np.where(np.isfinite(depth_m) & (depth_m > 0.0), depth_m, np.nan)


def plane_inverse_depth(
    K: Float[np.ndarray, "3 3"], T_base_camera: Float[np.ndarray, "4 4"], height_m: float
) -> Float[np.ndarray, "3"]:
    """Coefficients (a, b, c) with which the plane z = height_m of the base frame shows 1 / depth = a u + b v + c (1/m).

    Negative values of 1 / depth are pixels above the plane's horizon. The camera must not lie in the plane itself.
    """
    return np.linalg.inv(K).T @ T_base_camera[2, :3] / (height_m - T_base_camera[2, 3])


def pixels_on_plane(
    pixels_uv: Float[np.ndarray, "*points 2"],
    K: Float[np.ndarray, "3 3"],
    T_base_camera: Float[np.ndarray, "4 4"],
    height_m: float,
) -> Float[np.ndarray, "*points 3"]:
    """Points of the plane z = height_m of the base frame (m) that pixels show; NaN where they show no such point."""
    rays = pixel_rays(pixels_uv, K)
    depth_m = plane_depth(rays, T_base_camera, height_m)
    return depth_m[..., None] * rotate_vectors(T_base_camera, rays) + T_base_camera[:3, 3]


def plane_jacobians(
    pixel_uv: Float[np.ndarray, "2"],
    K: Float[np.ndarray, "3 3"],
    T_base_camera: Float[np.ndarray, "4 4"],
    height_m: float,
) -> tuple[Float[np.ndarray, "3 2"], Float[np.ndarray, "3"]]:
    """How the point of `pixels_on_plane` moves in the base frame: by the pixel (m/px) and by the height (m/m)."""
    ray_camera = pixel_rays(pixel_uv, K)
    ray_base = rotate_vectors(T_base_camera, ray_camera)
    depth_m = plane_depth(ray_camera, T_base_camera, height_m)
    # Sliding along the ray keeps the point on the plane: remove each column's height by a step along the ray.
    along_ray = ray_base / ray_base[2]
    J_ray_pixel = T_base_camera[:3, :3] @ np.linalg.inv(K)[:, :2]
    return depth_m * (J_ray_pixel - np.outer(along_ray, J_ray_pixel[2])), along_ray


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
