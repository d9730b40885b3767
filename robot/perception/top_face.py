"""Find the top face of an object on a table in a depth image, and the outline of that face seen from above."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int64

from handeye.robot.perception.box_depth import BoxDepth
from handeye.robot.perception.camera_view import View, pixels_on_plane
from handeye.robot.transforms import apply_transform, inverse

_MIN_TOLERANCE_M = 0.003
_TOP_QUANTILE = 0.9
_SAMPLE = 500  # points are plenty for a median
_MAX_HOLE_PX = 4.0
_MIN_FACING = 0.1  # sine of the angle between the ray and a side face that is seen
_MIN_SIDE = 0.25  # shorter sides of the hull, relative to its extent, are rounding


@dataclass(frozen=True, slots=True, eq=False)
class TopFace:
    """A top face, height_m above the table: its pixels in the surface's window, and the surface's median depth (m)."""

    height_m: float
    mask: Bool[np.ndarray, "h w"]
    depth_m: float

    @property
    def num_pixels(self) -> int:
        """Pixels on the face."""
        return int(np.count_nonzero(self.mask))


def find_top_face(surface: BoxDepth, view: View) -> TopFace:
    """The pixels about as high as a high quantile of the surface, within three standard deviations of the depth."""
    # The error of a height is that of the depth times how steeply the camera looks down.
    sigma_m = view.config.depth.sigma_m(surface.depth_m, view.focal_px) * abs(float(view.T_base_camera[2, 2]))
    tolerance = max(3.0 * sigma_m, _MIN_TOLERANCE_M)
    heights_m = view.heights_above(surface, view.table_m)
    some_m = heights_m[surface.mask]
    some_m = np.sort(some_m[:: max(1, len(some_m) // _SAMPLE)])
    height = some_m[int(_TOP_QUANTILE * (len(some_m) - 1))]
    for _ in range(3):
        first, last = np.searchsorted(some_m, [height - tolerance, height + tolerance])
        height = some_m[(first + last) // 2]
    with np.errstate(invalid="ignore"):
        mask = surface.mask & (np.abs(heights_m - height) <= tolerance)
    return TopFace(float(heights_m[mask].mean()), mask, surface.depth_m)


def top_outline(
    surface: BoxDepth, face: TopFace, view: View
) -> tuple[Float[np.ndarray, "N 2"], Bool[np.ndarray, " N"]]:
    """Outline of the face seen from above (m), in order, and where it is cut: where no edge of the object ends it.

    Measured points keep their measured place: a pixel of a side face just below the rim would land outside of the face
    if it were put on its plane. Points in holes of the depth are put on that plane.
    """
    is_hole = _holes_of_face(face.mask, np.nan_to_num(surface.crop(view.frame.depth_m)) != 0.0)
    is_hole[is_hole] = ~_shows_side_face(surface, np.argwhere(is_hole), face, view)
    outline_vu = max(_contours(face.mask | is_hole), key=len)[:, 0, ::-1].astype(np.int64)
    rows, columns = outline_vu[:, 0], outline_vu[:, 1]
    in_hole = is_hole[rows, columns]
    is_cut = surface.is_cut | (is_hole & (cv2.dilate(surface.is_cut.view(np.uint8), np.ones((5, 5), np.uint8)) > 0))

    outline = np.empty((len(outline_vu), 3))
    outline[~in_hole] = view.points_base(surface, outline_vu[~in_hole])
    hole_uv = outline_vu[in_hole][:, ::-1] + np.array([surface.left_px, surface.top_px], dtype=np.float64)
    outline[in_hole] = pixels_on_plane(hole_uv, view.frame.K, view.T_base_camera, view.table_m + face.height_m)
    border_vu = np.concatenate(_contours(face.mask))[:, 0, ::-1].astype(np.int64)
    measured_xy = view.points_base(surface, border_vu)[:, :2]
    is_kept = ~(in_hole & _beyond_near_sides(outline[:, :2], measured_xy, view))
    return outline[is_kept, :2], is_cut[rows, columns][is_kept]


def _contours(mask: Bool[np.ndarray, "h w"]) -> list[np.ndarray]:
    return list(cv2.findContours(mask.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0])


def _holes_of_face(face: Bool[np.ndarray, "h w"], has_reading: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Pixels without a reading that belong to the face: they are nearer to its pixels than to any other reading.

    Stereo leaves holes along both sides of an edge, so the edge is in the middle of them.
    """
    to_face = cv2.distanceTransform((~face).view(np.uint8), cv2.DIST_L2, 3)
    to_other = cv2.distanceTransform((face | ~has_reading).view(np.uint8), cv2.DIST_L2, 3)
    return ~has_reading & (to_face < to_other) & (to_face <= _MAX_HOLE_PX)


def _shows_side_face(
    surface: BoxDepth, pixels_vu: Int64[np.ndarray, "N 2"], face: TopFace, view: View
) -> Bool[np.ndarray, " N"]:
    """Whether each pixel shows a side face, if not the top: the table where its ray ends is under the top face.

    Sides that are seen almost edge-on give no reading, and would widen the face towards the camera.
    """
    corner_uv = np.array([surface.left_px, surface.top_px])
    pixels_uv = (pixels_vu[:, ::-1] + corner_uv).astype(np.float64)
    points = pixels_on_plane(pixels_uv, view.frame.K, view.T_base_camera, view.table_m)
    image = apply_transform(inverse(view.T_base_camera), points + [0.0, 0.0, face.height_m]) @ view.frame.K.T
    with np.errstate(invalid="ignore", divide="ignore"):
        above_uv = np.nan_to_num(image[:, :2] / image[:, 2:], nan=-1e6, posinf=-1e6, neginf=-1e6)
    columns, rows = (np.round(above_uv) - corner_uv).astype(np.int64).T
    is_inside = (rows >= 0) & (columns >= 0) & (rows < face.mask.shape[0]) & (columns < face.mask.shape[1])
    is_side = np.zeros(len(pixels_vu), dtype=bool)
    is_side[is_inside] = face.mask[rows[is_inside], columns[is_inside]]
    return is_side


def _beyond_near_sides(
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
    from_side = view.T_base_camera[:3, 3] - np.column_stack([hull + middle, np.full(len(hull), view.table_m)])
    facing = (from_side[:, :2] * outward).sum(axis=1) / np.linalg.norm(from_side, axis=1)
    is_near = (facing > _MIN_FACING) & (lengths > _MIN_SIDE * np.ptp(hull, axis=0).max())
    beyond = (points_xy - middle) @ outward.T - (hull * outward).sum(axis=1)
    return (beyond[:, is_near] > 0.0).any(axis=1)
