"""Locate objects on a table of known height by their top face, and others by their visible surface or a pixel's ray.

The top face is what every view of a box has in common: its outline gives centre, yaw and size, its height with the
table's gives the centre's z, so the result does not lean towards the sides that happen to be visible.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from handeye.robot.perception.box_depth import BoxDepth
from handeye.robot.perception.camera_view import (
    Located,
    View,
    averaged_depth_sigma,
    pixel_rays,
    pixels_on_plane,
    plane_jacobians,
)
from handeye.robot.perception.rectangle_fit import (
    Footprint,
    Rectangle,
    fit_footprint,
    fit_rectangle,
    reaches_beyond,
)
from handeye.robot.perception.top_face import TopFace, find_top_face, top_outline
from handeye.robot.transforms import apply_transform, inverse, rotate_vectors
from handeye.vision.boxes.iou import aligned_iou

_MIN_FACE_PIXELS = 12
_UNEVEN = 1.1
_SLIVER = 0.3
_KNOWN_SIZE_M = 0.005
_KNOWN_YAW_RAD = math.radians(6.0)


def locate_on_table(surface: BoxDepth, box_xyxy: Float[np.ndarray, "4"], view: View) -> Located | None:
    """Centre, covariance, yaw and size of an object on the table; None when it is held above it or shows no top face.

    Neighbours that touch look like one object in depth; only the detector's box (px) separates them then.
    """
    if view.table_height_m is None:
        return None
    face = find_top_face(surface, view)
    if face.height_m > view.config.max_standing_height_m or face.num_pixels < _MIN_FACE_PIXELS:
        return None
    outline_xy, is_cut = top_outline(surface, face, view)
    if reaches_beyond(surface, view.frame.depth_m.shape):
        rectangle = fit_rectangle(outline_xy[~is_cut], box_xyxy, face.height_m, face.depth_m, view)
        if rectangle is not None:
            return _from_rectangle(rectangle, face, view)
    footprint = fit_footprint(outline_xy, is_cut)
    if footprint is None or face.height_m > view.config.max_slenderness * footprint.size_m.max():
        return None
    if not _fills_box(footprint, face.height_m, box_xyxy, view):
        return locate_on_ray(box_xyxy, view)
    return _from_footprint(footprint, face, view)


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


def _from_footprint(footprint: Footprint, face: TopFace, view: View) -> Located:
    """The object whose top face fills `footprint`; along an axis with one hidden side, it has the expected size."""
    middle = 0.5 * (footprint.low_m + footprint.high_m)
    half = 0.5 * np.maximum(footprint.size_m, view.config.expected_size_m)
    from_low = footprint.is_seen_low & ~footprint.is_seen_high
    from_high = footprint.is_seen_high & ~footprint.is_seen_low
    middle = np.where(from_low, footprint.low_m + half, np.where(from_high, footprint.high_m - half, middle))
    side_sigma = view.config.uncertainty.edge_sigma_px * face.depth_m / view.focal_px
    # The middle of two sides errs by less than each. Where a side is hidden the size is a guess; what is left of the
    # outline may even belong to another face, and one without a direction is of no box, so no axis is certain then.
    sigma_uv = np.full(2, side_sigma / math.sqrt(2.0))
    if not footprint.has_yaw:
        hidden_sigma = 0.25 * max(float(footprint.size_m.max()), view.config.expected_size_m)
        is_seen = footprint.is_seen_low & footprint.is_seen_high
        sigma_uv = np.hypot(side_sigma, np.where(is_seen, 0.5, 1.0) * hidden_sigma)
    covariance_xy = footprint.axes @ np.diag(sigma_uv**2) @ footprint.axes.T
    p_base, covariance = _centre_under(footprint.axes @ middle, covariance_xy, face, view)
    yaw_rad, length_m, width_m = _length_axis(footprint.yaw_rad, footprint.size_m)
    return Located(
        p_base=p_base,
        covariance_base=covariance,
        yaw_rad=yaw_rad if footprint.has_yaw else None,
        size_m=np.array([length_m, width_m, face.height_m]) if footprint.is_whole else None,
    )


def _from_rectangle(rectangle: Rectangle, face: TopFace, view: View) -> Located:
    """The object whose top face is `rectangle`; yaw and size only where the fit is certain of them."""
    p_base, covariance = _centre_under(rectangle.centre_xy, rectangle.covariance[:2, :2], face, view)
    sigmas = np.sqrt(np.diag(rectangle.covariance))
    yaw_rad, length_m, width_m = _length_axis(rectangle.yaw_rad, rectangle.size_m)
    return Located(
        p_base=p_base,
        covariance_base=covariance,
        yaw_rad=yaw_rad if sigmas[2] <= _KNOWN_YAW_RAD else None,
        size_m=np.array([length_m, width_m, face.height_m]) if sigmas[3:].max() <= _KNOWN_SIZE_M else None,
    )


def _centre_under(
    xy: Float[np.ndarray, "2"], covariance_xy: Float[np.ndarray, "2 2"], face: TopFace, view: View
) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3 3"]]:
    """The centre halfway between top face and table, and its covariance (m^2) from depth, hand-eye, table and fit."""
    p_top = np.array([*xy, view.table_m + face.height_m])
    uncertainty = view.config.uncertainty
    sigma = averaged_depth_sigma(view.config.depth.sigma_m(face.depth_m, view.focal_px), face.num_pixels, uncertainty)
    J_centre_top = np.diag([1.0, 1.0, 0.5])
    covariance = J_centre_top @ view.covariance(p_top, sigma) @ J_centre_top
    covariance[2, 2] += 0.25 * uncertainty.table_m**2
    covariance[:2, :2] += covariance_xy
    return p_top - [0.0, 0.0, 0.5 * face.height_m], covariance


def _length_axis(yaw_rad: float, size_m: Float[np.ndarray, "2"]) -> tuple[float, float, float]:
    """Yaw of the longer side, length, width. Of a square both sides are as good, so its yaw stays in [-pi/4, pi/4)."""
    along_u, along_v = (float(extent) for extent in size_m)
    if along_v <= _UNEVEN * along_u:
        return yaw_rad, along_u, along_v
    quarter = -math.pi / 2 if yaw_rad > 0.0 else math.pi / 2
    return yaw_rad + quarter, along_v, along_u


def _fills_box(footprint: Footprint, height_m: float, box_xyxy: Float[np.ndarray, "4"], view: View) -> bool:
    """Whether a cuboid with this footprint fills the detector's box, and shows more than the rim of a side face."""
    if not footprint.is_whole and float(footprint.size_m.min()) < _SLIVER * view.config.expected_size_m:
        return False
    sides = np.stack([footprint.low_m, footprint.high_m])
    corners_xy = np.array([[sides[i, 0], sides[j, 1]] for i in (0, 1) for j in (0, 1)]) @ footprint.axes.T
    corners = np.concatenate([np.c_[corners_xy, np.full(4, view.table_m + z)] for z in (0.0, height_m)])
    image = apply_transform(inverse(view.T_base_camera), corners) @ view.frame.K.T
    pixels_uv = image[:, :2] / np.maximum(image[:, 2:], 1e-6) + 0.5  # boxes count from the image's corner
    height, width = view.frame.depth_m.shape
    cuboid_xyxy = np.clip(np.concatenate([pixels_uv.min(axis=0), pixels_uv.max(axis=0)]), 0.0, [width, height] * 2)
    return float(aligned_iou(cuboid_xyxy, box_xyxy)) >= view.config.min_box_overlap


def _touches_border(box_xyxy: Float[np.ndarray, "4"], view: View) -> bool:
    """Whether the image ends where the box does, within a pixel."""
    height, width = view.frame.depth_m.shape
    return bool((box_xyxy[:2] <= 1.0).any() or box_xyxy[2] >= width - 1.0 or box_xyxy[3] >= height - 1.0)
