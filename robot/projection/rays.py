"""Pixel rays and where they meet a plane: what is left of 3D without depth, and the depth that a table would show.

A ray is written (x, y, 1) in the camera frame, so a point at depth z along the camera's axis is z times its ray.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from robot.transforms import rotate_vectors


def pixel_rays(
    pixels_uv: Float[np.ndarray, "*points 2"], K: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, "*points 3"]:
    """Rays (x, y, 1) in the camera frame through pixels (u, v): equations 30.3 and 30.4 of the specification, d = 1."""
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
