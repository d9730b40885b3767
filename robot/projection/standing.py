"""Objects that stand on a table of known height, by their top face.

Seen from above, the top face is what every view of a box has in common: its outline gives centre, yaw and size, its
height with the table's gives the centre's z, so the result does not lean towards the sides that happen to be visible.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int64

from robot.projection.depth import BoxDepth
from robot.projection.fallbacks import locate_on_ray
from robot.projection.footprint import Footprint, fit_footprint
from robot.projection.uncertainty import averaged_depth_sigma
from robot.projection.view import Located, View
from robot.transforms import apply_transform, inverse

_MIN_TOLERANCE_M = 0.003
_TOP_QUANTILE = 0.9
_SAMPLE = 500  # points are plenty for a median
_MIN_FACE_PIXELS = 12
_UNEVEN = 1.1
_SLIVER = 0.3


def locate_standing(surface: BoxDepth, box_xyxy: Float[np.ndarray, "4"], view: View) -> Located | None:
    """Centre, covariance, yaw and size of a standing object; None when it does not stand, or shows no top face.

    Neighbours that touch can look like one object. The box (px) tells: a cuboid of this footprint would not fill it.
    """
    if view.table_height_m is None:
        return None
    pixels_vu = np.argwhere(surface.mask)
    heights_m = view.points_base(surface, pixels_vu)[:, 2] - view.table_height_m
    height_m, is_top = _top_face(heights_m, _height_sigma(surface, view))
    if height_m > view.config.max_standing_height_m:
        return None
    footprint = _top_outline(surface, pixels_vu[is_top], view)
    if footprint is None or height_m > view.config.max_slenderness * footprint.size_m.max():
        return None
    overlap = _box_overlap(_cuboid_box(footprint, height_m, view), box_xyxy)
    if overlap < view.config.min_box_overlap or _is_sliver(footprint, view.config.expected_size_m):
        return locate_on_ray(box_xyxy, view)
    p_top = np.array([*_whole_centre_xy(footprint, view.config.expected_size_m), view.table_height_m + height_m])
    yaw_rad, length_m, width_m = _length_axis(footprint)
    return Located(
        p_base=p_top - [0.0, 0.0, 0.5 * height_m],
        covariance_base=_centre_covariance(p_top, footprint, int(np.count_nonzero(is_top)), surface.depth_m, view),
        yaw_rad=yaw_rad if footprint.has_yaw else None,
        size_m=np.array([length_m, width_m, height_m]) if footprint.is_whole else None,
    )


def _top_face(heights_m: Float[np.ndarray, " N"], sigma_m: float) -> tuple[float, Bool[np.ndarray, " N"]]:
    """Height of the top face above the table and which points lie on it, from a high percentile inwards."""
    tolerance = max(3.0 * sigma_m, _MIN_TOLERANCE_M)
    some_m = np.sort(heights_m[:: max(1, len(heights_m) // _SAMPLE)])
    height = some_m[int(_TOP_QUANTILE * (len(some_m) - 1))]
    for _ in range(3):
        first, last = np.searchsorted(some_m, [height - tolerance, height + tolerance])
        height = some_m[(first + last) // 2]
    is_top = np.abs(heights_m - height) <= tolerance
    return float(heights_m[is_top].mean()), is_top


def _height_sigma(surface: BoxDepth, view: View) -> float:
    """Standard deviation of one point's height: its depth's, times how steeply the camera looks down."""
    sigma = view.config.depth.sigma_m(surface.depth_m, view.focal_px)
    return sigma * abs(float(view.T_base_camera[2, 2]))


def _top_outline(surface: BoxDepth, pixels_vu: Int64[np.ndarray, "N 2"], view: View) -> Footprint | None:
    """The rectangle around the top face's pixels (row, column of the window)."""
    if len(pixels_vu) < _MIN_FACE_PIXELS:
        return None
    face = np.zeros(surface.mask.shape, dtype=np.uint8)
    face[pixels_vu[:, 0], pixels_vu[:, 1]] = 1
    contours, _ = cv2.findContours(face, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline_vu = max(contours, key=len)[:, 0, ::-1].astype(np.int64)
    outline_xy = view.points_base(surface, outline_vu)[:, :2]
    return fit_footprint(outline_xy, surface.is_cut[outline_vu[:, 0], outline_vu[:, 1]])


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


def _length_axis(footprint: Footprint) -> tuple[float, float, float]:
    """Yaw of the longer side, length, width. Of a square both sides are as good, so its yaw stays in [-pi/4, pi/4)."""
    along_u, along_v = (float(extent) for extent in footprint.size_m)
    if along_v <= _UNEVEN * along_u:
        return footprint.yaw_rad, along_u, along_v
    quarter = -math.pi / 2 if footprint.yaw_rad > 0.0 else math.pi / 2
    return footprint.yaw_rad + quarter, along_v, along_u


def _centre_covariance(
    p_top: Float[np.ndarray, "3"], footprint: Footprint, num_pixels: int, depth_m: float, view: View
) -> Float[np.ndarray, "3 3"]:
    """Covariance (m^2, base frame) of the centre: the top face's, halved in z, and its edges' in x and y."""
    uncertainty = view.config.uncertainty
    sigma = averaged_depth_sigma(view.config.depth.sigma_m(depth_m, view.focal_px), num_pixels, uncertainty)
    J_centre_top = np.diag([1.0, 1.0, 0.5])
    covariance = J_centre_top @ view.covariance(p_top, sigma) @ J_centre_top
    covariance[2, 2] += 0.25 * uncertainty.table_m**2
    side_sigma = uncertainty.edge_sigma_px * depth_m / view.focal_px
    # The middle of two sides errs by less than each. Where a side is hidden the size is a guess; what is left of the
    # outline may even belong to another face, and one without a direction is of no box, so no axis is certain then.
    sigma_uv = np.full(2, side_sigma / math.sqrt(2.0))
    if not footprint.has_yaw:
        hidden_sigma = 0.25 * max(float(footprint.size_m.max()), view.config.expected_size_m)
        is_seen = footprint.is_seen_low & footprint.is_seen_high
        sigma_uv = np.hypot(side_sigma, np.where(is_seen, 0.5, 1.0) * hidden_sigma)
    covariance[:2, :2] += footprint.axes @ np.diag(sigma_uv**2) @ footprint.axes.T
    return covariance
