"""Positions when no top face can be used: from the visible surface alone, or from a pixel's ray and the table."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from robot.perception.box_depth import BoxDepth
from robot.projection.rays import pixel_rays, pixels_on_plane, plane_jacobians
from robot.projection.uncertainty import averaged_depth_sigma
from robot.perception.camera_view import Located, View
from robot.transforms import apply_transform, rotate_vectors


def locate_surface(surface: BoxDepth, view: View) -> Located:
    """Centre of an object held in the air: behind the middle of its visible surface by half of its apparent width.

    How thick it is cannot be seen, so a quarter of the width is the standard deviation along the ray.
    """
    rows, columns = np.nonzero(surface.mask)
    low = np.array([columns.min(), rows.min()], dtype=np.float64)
    high = np.array([columns.max(), rows.max()], dtype=np.float64)
    width_m = float((high - low + 1.0).min()) * surface.depth_m / view.focal_px
    ray_camera = pixel_rays(0.5 * (low + high) + (surface.left_px, surface.top_px), view.frame.K)
    centre_camera = ray_camera * (surface.depth_m + 0.5 * width_m)
    p_base = apply_transform(view.T_base_camera, centre_camera)
    across = 0.1 * width_m
    if surface.is_cut.any():  # most of it may be hidden
        across = 0.5 * max(width_m, view.config.expected_size_m)
    noise = view.config.depth.sigma_m(surface.depth_m, view.focal_px)
    sigma = averaged_depth_sigma(noise, len(rows), view.config.uncertainty)
    along_ray = rotate_vectors(view.T_base_camera, ray_camera)
    covariance = (
        view.covariance(p_base, sigma) + across**2 * np.eye(3) + (0.25 * width_m) ** 2 * np.outer(along_ray, along_ray)
    )
    return Located(p_base, covariance)


def locate_on_ray(box_xyxy: Float[np.ndarray, "4"], view: View) -> Located | None:
    """Centre of an object without depth: where the ray through the box's middle is at half its expected height.

    The middle of a box errs by a part of its size, because boxes show the visible part only and perspective is
    lopsided. None when no table is known, or the ray does not meet it.
    """
    if view.table_height_m is None:
        return None
    config = view.config
    # A box is measured from the image's corner, a pixel from its own centre.
    middle_uv = 0.5 * (box_xyxy[:2] + box_xyxy[2:]) - 0.5
    height_m = view.table_height_m + 0.5 * config.expected_size_m
    p_base = pixels_on_plane(middle_uv, view.frame.K, view.T_base_camera, height_m)
    if not np.isfinite(p_base).all():
        return None
    J_pixel, J_height = plane_jacobians(middle_uv, view.frame.K, view.T_base_camera, height_m)
    sigma_px = np.hypot(
        config.uncertainty.box_sigma_px, config.uncertainty.box_sigma_part * (box_xyxy[2:] - box_xyxy[:2])
    )
    if _touches_border(box_xyxy, view):  # up to half of the object may lie outside
        distance_m = float(np.linalg.norm(p_base - view.T_base_camera[:3, 3]))
        sigma_px = np.maximum(sigma_px, 0.5 * config.expected_size_m * view.focal_px / distance_m)
    covariance = (
        view.covariance(p_base, 0.0)
        + (J_pixel * sigma_px**2) @ J_pixel.T
        + config.expected_size_sigma_m**2 * np.outer(J_height, J_height)
    )
    return Located(p_base, covariance)


def _touches_border(box_xyxy: Float[np.ndarray, "4"], view: View) -> bool:
    """Whether the image ends where the box does, within a pixel."""
    height, width = view.frame.depth_m.shape
    return bool((box_xyxy[:2] <= 1.0).any() or box_xyxy[2] >= width - 1.0 or box_xyxy[3] >= height - 1.0)
