"""Objects that stand on a table of known height, by their top face.

Seen from above, the top face is what every view of a box has in common: its outline gives centre, yaw and size, its
height with the table's gives the centre's z, so the result does not lean towards the sides that happen to be visible.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int64

from handeye.robot.perception.box_depth import BoxDepth
from handeye.robot.perception.camera_view import (
    Located,
    View,
    averaged_depth_sigma,
    pixel_rays,
    pixels_on_plane,
    plane_jacobians,
)
from handeye.robot.perception.rectangle_fit import Footprint, Rectangle, fit_footprint, fit_touching, reaches_beyond
from handeye.robot.transforms import apply_transform, inverse, rotate_vectors

_MIN_TOLERANCE_M = 0.003
_TOP_QUANTILE = 0.9
_SAMPLE = 500  # points are plenty for a median
_MIN_FACE_PIXELS = 12
_UNEVEN = 1.1
_SLIVER = 0.3
_MAX_HOLE_PX = 4.0
_MIN_FACING = 0.1  # sine of the angle between the ray and a side face that is seen
_MIN_SIDE = 0.25
_KNOWN_SIZE_M = 0.005
_KNOWN_YAW_RAD = math.radians(6.0)


def locate_standing(surface: BoxDepth, box_xyxy: Float[np.ndarray, "4"], view: View) -> Located | None:
    """Centre, covariance, yaw and size of a standing object; None when it does not stand, or shows no top face.

    Neighbours that touch can look like one object. The box (px) tells: a cuboid of this footprint would not fill it.
    """
    if view.table_height_m is None:
        return None
    heights_m = view.heights_above(surface, view.table_height_m)
    height_m, face = _top_face(heights_m, surface.mask, _height_sigma(surface, view))
    if height_m > view.config.max_standing_height_m:
        return None
    if np.count_nonzero(face) < _MIN_FACE_PIXELS:
        return None
    outline_xy, is_cut = _top_outline(surface, face, height_m, view)
    if reaches_beyond(surface, view.frame.depth_m.shape):
        rectangle = fit_touching(outline_xy, is_cut, box_xyxy, height_m, surface.depth_m, view)
        if rectangle is not None:
            return _locate_touching(rectangle, height_m, int(np.count_nonzero(face)), surface.depth_m, view)
    footprint = fit_footprint(outline_xy, is_cut)
    if footprint is None or height_m > view.config.max_slenderness * footprint.size_m.max():
        return None
    overlap = _box_overlap(_cuboid_box(footprint, height_m, view), box_xyxy)
    if overlap < view.config.min_box_overlap or _is_sliver(footprint, view.config.expected_size_m):
        return locate_on_ray(box_xyxy, view)
    p_top = np.array([*_whole_centre_xy(footprint, view.config.expected_size_m), view.table_height_m + height_m])
    yaw_rad, length_m, width_m = _length_axis(footprint.yaw_rad, footprint.size_m)
    return Located(
        p_base=p_top - [0.0, 0.0, 0.5 * height_m],
        covariance_base=_centre_covariance(p_top, footprint, int(np.count_nonzero(face)), surface.depth_m, view),
        yaw_rad=yaw_rad if footprint.has_yaw else None,
        size_m=np.array([length_m, width_m, height_m]) if footprint.is_whole else None,
    )


def _top_face(
    heights_m: Float[np.ndarray, "h w"], mask: Bool[np.ndarray, "h w"], sigma_m: float
) -> tuple[float, Bool[np.ndarray, "h w"]]:
    """Height of the top face above the table and the pixels of the mask on it, from a high quantile inwards."""
    tolerance = max(3.0 * sigma_m, _MIN_TOLERANCE_M)
    some_m = heights_m[mask]
    some_m = np.sort(some_m[:: max(1, len(some_m) // _SAMPLE)])
    height = some_m[int(_TOP_QUANTILE * (len(some_m) - 1))]
    for _ in range(3):
        first, last = np.searchsorted(some_m, [height - tolerance, height + tolerance])
        height = some_m[(first + last) // 2]
    with np.errstate(invalid="ignore"):
        face = mask & (np.abs(heights_m - height) <= tolerance)
    return float(heights_m[face].mean()), face


def _height_sigma(surface: BoxDepth, view: View) -> float:
    """Standard deviation of one point's height: its depth's, times how steeply the camera looks down."""
    sigma = view.config.depth.sigma_m(surface.depth_m, view.focal_px)
    return sigma * abs(float(view.T_base_camera[2, 2]))


def _top_outline(
    surface: BoxDepth, face: Bool[np.ndarray, "h w"], height_m: float, view: View
) -> tuple[Float[np.ndarray, "N 2"], Bool[np.ndarray, " N"]]:
    """Outline of the top face's pixels seen from above (m), in order, and where something else than an edge ends it."""
    is_hole = _holes_of_face(face, np.nan_to_num(surface.crop(view.frame.depth_m)) != 0.0)
    is_hole[is_hole] = ~_is_beside(surface, np.argwhere(is_hole), face, height_m, view)
    contours, _ = cv2.findContours((face | is_hole).view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline_vu = max(contours, key=len)[:, 0, ::-1].astype(np.int64)
    rows, columns = outline_vu[:, 0], outline_vu[:, 1]
    is_cut = surface.is_cut | (is_hole & (cv2.dilate(surface.is_cut.view(np.uint8), np.ones((5, 5), np.uint8)) > 0))
    outline_xy = _outline_points(surface, outline_vu, is_hole[rows, columns], height_m, view)[:, :2]
    measured_xy = view.points_base(surface, _border_vu(face))[:, :2]
    is_kept = ~(is_hole[rows, columns] & _before_near_sides(outline_xy, measured_xy, view))
    return outline_xy[is_kept], is_cut[rows, columns][is_kept]


def _border_vu(face: Bool[np.ndarray, "h w"]) -> Int64[np.ndarray, "N 2"]:
    """Pixels (row, column) around all pieces of the face."""
    contours, _ = cv2.findContours(face.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return np.concatenate(contours)[:, 0, ::-1].astype(np.int64)


def _before_near_sides(
    points_xy: Float[np.ndarray, "N 2"], measured_xy: Float[np.ndarray, "M 2"], view: View
) -> Bool[np.ndarray, " N"]:
    """Whether each point lies beyond a side of the measured face (m) under which the camera sees a side face.

    There the face ends at its last reading. The holes along the silhouette go on beyond the face's corners, beside the
    side face, and would widen the face towards the camera.
    """
    middle = measured_xy.mean(axis=0)
    hull = cv2.convexHull(((measured_xy - middle) * 1e3).astype(np.float32))[:, 0].astype(np.float64) / 1e3
    edges = np.roll(hull, -1, axis=0) - hull
    lengths = np.maximum(np.hypot(edges[:, 0], edges[:, 1]), 1e-9)
    outward = np.column_stack([edges[:, 1], -edges[:, 0]]) / lengths[:, None]
    outward *= np.where((outward * hull).sum() < 0.0, -1.0, 1.0)
    from_side = view.T_base_camera[:3, 3] - np.column_stack([hull + middle, np.full(len(hull), view.table_height_m)])
    facing = (from_side[:, :2] * outward).sum(axis=1) / np.linalg.norm(from_side, axis=1)
    is_near = (facing > _MIN_FACING) & (lengths > _MIN_SIDE * np.ptp(hull, axis=0).max())
    beyond = (points_xy - middle) @ outward.T - (hull * outward).sum(axis=1)
    return (beyond[:, is_near] > 0.0).any(axis=1)


def _holes_of_face(face: Bool[np.ndarray, "h w"], has_reading: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Pixels without a reading that belong to the face: they are nearer to its pixels than to any other reading.

    Stereo leaves holes along both sides of an edge, so the edge is in the middle of them.
    """
    to_face = cv2.distanceTransform((~face).view(np.uint8), cv2.DIST_L2, 3)
    to_other = cv2.distanceTransform((face | ~has_reading).view(np.uint8), cv2.DIST_L2, 3)
    return ~has_reading & (to_face < to_other) & (to_face <= _MAX_HOLE_PX)


def _is_beside(
    surface: BoxDepth, pixels_vu: Int64[np.ndarray, "N 2"], face: Bool[np.ndarray, "h w"], height_m: float, view: View
) -> Bool[np.ndarray, " N"]:
    """Whether each pixel shows a side face, if not the top: the table where its ray ends is under the top face.

    Sides that are seen almost edge-on give no reading, and would widen the face towards the camera.
    """
    corner_uv = np.array([surface.left_px, surface.top_px])
    pixels_uv = (pixels_vu[:, ::-1] + corner_uv).astype(np.float64)
    points = pixels_on_plane(pixels_uv, view.frame.K, view.T_base_camera, view.table_height_m or 0.0)
    image = apply_transform(inverse(view.T_base_camera), points + [0.0, 0.0, height_m]) @ view.frame.K.T
    with np.errstate(invalid="ignore", divide="ignore"):
        above_uv = np.nan_to_num(image[:, :2] / image[:, 2:], nan=-1e6, posinf=-1e6, neginf=-1e6)
    columns, rows = (np.round(above_uv) - corner_uv).astype(np.int64).T
    is_inside = (rows >= 0) & (columns >= 0) & (rows < face.shape[0]) & (columns < face.shape[1])
    is_beside = np.zeros(len(pixels_vu), dtype=bool)
    is_beside[is_inside] = face[rows[is_inside], columns[is_inside]]
    return is_beside


def _outline_points(
    surface: BoxDepth,
    outline_vu: Int64[np.ndarray, "N 2"],
    is_hole: Bool[np.ndarray, " N"],
    height_m: float,
    view: View,
) -> Float[np.ndarray, "N 3"]:
    """Points (m, base frame) of the outline: measured, or on the plane of the top face where there is a hole.

    Measured ones are not put on that plane: a pixel of a side face just below the rim would land outside of it.
    """
    points = np.empty((len(outline_vu), 3))
    points[~is_hole] = view.points_base(surface, outline_vu[~is_hole])
    pixels_uv = outline_vu[is_hole][:, ::-1] + np.array([surface.left_px, surface.top_px], dtype=np.float64)
    top_m = (view.table_height_m or 0.0) + height_m
    points[is_hole] = pixels_on_plane(pixels_uv, view.frame.K, view.T_base_camera, top_m)
    return points


def _is_sliver(footprint: Footprint, expected_size_m: float) -> bool:
    """Whether so little is seen that it may as well be the rim of a side face."""
    return not footprint.is_whole and float(footprint.size_m.min()) < _SLIVER * expected_size_m


def _cuboid_box(footprint: Footprint, height_m: float, view: View) -> Float[np.ndarray, "4"]:
    """The box (px, clipped to the image) around a cuboid on the table."""
    table_m = view.table_height_m or 0.0
    sides = np.stack([footprint.low_m, footprint.high_m])
    corners_uv = np.array([[sides[i, 0], sides[j, 1]] for i in (0, 1) for j in (0, 1)]) @ footprint.axes.T
    corners = np.concatenate([np.c_[corners_uv, np.full(4, table_m + z)] for z in (0.0, height_m)])
    image = apply_transform(inverse(view.T_base_camera), corners) @ view.frame.K.T
    pixels_uv = image[:, :2] / np.maximum(image[:, 2:], 1e-6) + 0.5  # boxes count from the image's corner
    height, width = view.frame.depth_m.shape
    return np.clip(np.concatenate([pixels_uv.min(axis=0), pixels_uv.max(axis=0)]), 0.0, [width, height] * 2)


def _box_overlap(a_xyxy: Float[np.ndarray, "4"], b_xyxy: Float[np.ndarray, "4"]) -> float:
    """Intersection over union of two boxes."""
    shared = np.minimum(a_xyxy[2:], b_xyxy[2:]) - np.maximum(a_xyxy[:2], b_xyxy[:2])
    intersection = float(np.maximum(shared, 0.0).prod())
    areas = float(np.prod(a_xyxy[2:] - a_xyxy[:2]) + np.prod(b_xyxy[2:] - b_xyxy[:2]))
    return intersection / max(areas - intersection, 1e-9)


def _whole_centre_xy(footprint: Footprint, expected_size_m: float) -> Float[np.ndarray, "2"]:
    """The middle of the rectangle; along an axis with one hidden side, half the expected size from the seen side."""
    middle = 0.5 * (footprint.low_m + footprint.high_m)
    half = 0.5 * np.maximum(footprint.size_m, expected_size_m)
    from_low = footprint.is_seen_low & ~footprint.is_seen_high
    from_high = footprint.is_seen_high & ~footprint.is_seen_low
    middle = np.where(from_low, footprint.low_m + half, np.where(from_high, footprint.high_m - half, middle))
    return footprint.axes @ middle


def _length_axis(yaw_rad: float, size_m: Float[np.ndarray, "2"]) -> tuple[float, float, float]:
    """Yaw of the longer side, length, width. Of a square both sides are as good, so its yaw stays in [-pi/4, pi/4)."""
    along_u, along_v = (float(extent) for extent in size_m)
    if along_v <= _UNEVEN * along_u:
        return yaw_rad, along_u, along_v
    quarter = -math.pi / 2 if yaw_rad > 0.0 else math.pi / 2
    return yaw_rad + quarter, along_v, along_u


def _locate_touching(rectangle: Rectangle, height_m: float, num_pixels: int, depth_m: float, view: View) -> Located:
    """Centre of an object whose neighbours hide sides of it; yaw and size only as far as they are well known."""
    p_top = np.array([*rectangle.centre_xy, (view.table_height_m or 0.0) + height_m])
    covariance = _top_covariance(p_top, num_pixels, depth_m, view)
    covariance[:2, :2] += rectangle.covariance[:2, :2]
    sigmas = np.sqrt(np.diag(rectangle.covariance))
    has_size = bool(sigmas[3:].max() <= _KNOWN_SIZE_M)
    length_axis = _length_axis(rectangle.yaw_rad, rectangle.size_m)
    return Located(
        p_base=p_top - [0.0, 0.0, 0.5 * height_m],
        covariance_base=covariance,
        yaw_rad=length_axis[0] if sigmas[2] <= _KNOWN_YAW_RAD else None,
        size_m=np.array([*length_axis[1:], height_m]) if has_size else None,
    )


def _top_covariance(
    p_top: Float[np.ndarray, "3"], num_pixels: int, depth_m: float, view: View
) -> Float[np.ndarray, "3 3"]:
    """Covariance (m^2, base frame) of a centre halfway between top face and table, from depth, hand-eye and table."""
    uncertainty = view.config.uncertainty
    sigma = averaged_depth_sigma(view.config.depth.sigma_m(depth_m, view.focal_px), num_pixels, uncertainty)
    J_centre_top = np.diag([1.0, 1.0, 0.5])
    covariance = J_centre_top @ view.covariance(p_top, sigma) @ J_centre_top
    covariance[2, 2] += 0.25 * uncertainty.table_m**2
    return covariance


def _centre_covariance(
    p_top: Float[np.ndarray, "3"], footprint: Footprint, num_pixels: int, depth_m: float, view: View
) -> Float[np.ndarray, "3 3"]:
    """Covariance (m^2, base frame) of the centre: the top face's, and that of its edges in x and y."""
    covariance = _top_covariance(p_top, num_pixels, depth_m, view)
    side_sigma = view.config.uncertainty.edge_sigma_px * depth_m / view.focal_px
    # The middle of two sides errs by less than each. Where a side is hidden the size is a guess; what is left of the
    # outline may even belong to another face, and one without a direction is of no box, so no axis is certain then.
    sigma_uv = np.full(2, side_sigma / math.sqrt(2.0))
    if not footprint.has_yaw:
        hidden_sigma = 0.25 * max(float(footprint.size_m.max()), view.config.expected_size_m)
        is_seen = footprint.is_seen_low & footprint.is_seen_high
        sigma_uv = np.hypot(side_sigma, np.where(is_seen, 0.5, 1.0) * hidden_sigma)
    covariance[:2, :2] += footprint.axes @ np.diag(sigma_uv**2) @ footprint.axes.T
    return covariance


# Positions when no top face can be used: from the visible surface alone, or from a pixel's ray and the table.


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
