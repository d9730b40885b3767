"""An object that touches its neighbours: depth shows one surface, only the detector's box says where the object ends.

A rectangle is fitted to both at once: its sides to the parts of the outline that are seen, and what it covers in the
image to the box. What neither determines is held by the expected size, and the covariance says how well all is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import least_squares

from robot.perception.box_depth import BoxDepth
from robot.projection.rays import pixels_on_plane
from robot.perception.camera_view import View
from robot.transforms import apply_transform, inverse

_START_YAWS_RAD = np.radians([-37.5, -22.5, -7.5, 7.5, 22.5, 37.5])
_ROBUST_SIGMAS = 3.0
_ROUGH, _FINE = 1e-2, 1e-8  # where to stop: each start, and the best of them
_PATCH_PX = 8.0  # outline pixels this near to each other err together
_MODEL_FACTOR = 2.2  # sigmas are stated larger by this: rounded edges and the neighbour's own outline are not modelled
_CORNERS = 0.5 * np.array([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])


@dataclass(frozen=True, slots=True, eq=False)
class Rectangle:
    """A top face: centre (m), yaw, length and width (m), and their joint covariance in this order."""

    centre_xy: Float[np.ndarray, "2"]
    yaw_rad: float
    size_m: Float[np.ndarray, "2"]
    covariance: Float[np.ndarray, "5 5"]


def reaches_beyond(surface: BoxDepth, size_hw: tuple[int, ...]) -> bool:
    """Whether the surface goes on at the window's border, where no border of the image (height, width) ends it."""
    mask, (height, width) = surface.mask, surface.mask.shape
    return bool(
        (surface.top_px > 0 and mask[0].any())
        or (surface.left_px > 0 and mask[:, 0].any())
        or (surface.top_px + height < size_hw[0] and mask[-1].any())
        or (surface.left_px + width < size_hw[1] and mask[:, -1].any())
    )


def fit_touching(
    outline_xy: Float[np.ndarray, "N 2"],
    is_cut: Bool[np.ndarray, " N"],
    box_xyxy: Float[np.ndarray, "4"],
    height_m: float,
    depth_m: float,
    view: View,
) -> Rectangle | None:
    """Fit the top face, height_m above the table, of the object that the box (px) shows; None where that fails.

    outline_xy (m) is the outline of all that is as high, is_cut the part of it where no edge ends the object. Of starts
    all over the quarter turn the best fit is taken; far outliers, a neighbour's sides, have little say.
    """
    table_m = view.table_height_m or 0.0
    middle_uv = 0.5 * (box_xyxy[:2] + box_xyxy[2:]) - 0.5
    start = pixels_on_plane(middle_uv, view.frame.K, view.T_base_camera, table_m + height_m)[:2]
    if not np.isfinite(start).all():
        return None
    problem = _Problem(outline_xy[~is_cut], box_xyxy, height_m, depth_m, view)
    size = view.config.expected_size_m
    starts = [np.array([*start, yaw, size, size]) for yaw in _START_YAWS_RAD]
    rough = min((_minimise(problem, x, _ROUGH) for x in starts), key=lambda fit: float(fit.cost))
    best = _minimise(problem, rough.x, _FINE)
    if not np.isfinite(best.x).all() or best.x[3:].min() <= 0.0:
        return None
    information = best.jac.T @ best.jac
    if np.linalg.cond(information) > 1e12:
        return None
    yaw = float((best.x[2] + np.pi / 4) % (np.pi / 2) - np.pi / 4)
    turned = round((best.x[2] - yaw) / (np.pi / 2)) % 2 == 1
    order = [0, 1, 2, 4, 3] if turned else [0, 1, 2, 3, 4]
    covariance = _MODEL_FACTOR**2 * np.linalg.inv(information)[np.ix_(order, order)]
    return Rectangle(best.x[:2], yaw, best.x[order][3:], covariance)


def _minimise(problem: _Problem, start: Float[np.ndarray, "5"], tolerance: float) -> Any:
    return least_squares(
        problem.residuals,
        start,
        loss="cauchy",
        f_scale=_ROBUST_SIGMAS,
        x_scale="jac",
        max_nfev=40,
        ftol=tolerance,
        xtol=tolerance,
    )


class _Problem:
    """Residuals, in standard deviations, of a rectangle (x, y, yaw, length, width)."""

    def __init__(
        self, outline_xy: np.ndarray, box_xyxy: np.ndarray, height_m: float, depth_m: float, view: View
    ) -> None:
        self._outline_xy, self._box = outline_xy, box_xyxy
        table_m = view.table_height_m or 0.0
        self._levels_m = (table_m + height_m, table_m)
        uncertainty = view.config.uncertainty
        self._edge_m = uncertainty.edge_sigma_px * depth_m / view.focal_px * np.sqrt(_PATCH_PX)
        self._box_px = uncertainty.box_edge_sigma_px
        self._size_m, self._size_sigma_m = view.config.expected_size_m, view.config.expected_size_sigma_m
        self._unevenness_m = view.config.expected_unevenness_m
        self._K, self._T_camera_base = view.frame.K, inverse(view.T_base_camera)

    def residuals(self, x: Float[np.ndarray, "5"]) -> Float[np.ndarray, " R"]:
        """Outline points from the rectangle's sides, the box from what it covers, the size from the expected one.

        Length and width are also expected to differ little: one side that is well seen tells of one that is not.
        """
        c, s = np.cos(x[2]), np.sin(x[2])
        R = np.array([[c, -s], [s, c]])
        beyond = np.abs((self._outline_xy - x[:2]) @ R) - 0.5 * x[3:]
        # From the nearest side or its prolongation: the neighbour often goes on along the same line.
        from_sides = np.abs(beyond).min(axis=1)
        top, bottom = (self._image_box((_CORNERS * x[3:]) @ R.T + x[:2], level) for level in self._levels_m)
        # A side face may hide behind the neighbour: the box ends somewhere from the top's edge to the bottom's.
        low, high = np.minimum(top, bottom), np.maximum(top, bottom)
        low[2:], high[:2] = top[2:], top[:2]
        from_box = np.maximum(self._box - high, 0.0) + np.minimum(self._box - low, 0.0)
        from_size = (x[3:] - self._size_m) / self._size_sigma_m
        from_square = [(x[3] - x[4]) / self._unevenness_m]
        return np.concatenate([from_sides / self._edge_m, from_box / self._box_px, from_size, from_square])

    def _image_box(self, corners_xy: np.ndarray, level_m: float) -> Float[np.ndarray, "4"]:
        """The box (px) around four points of a level."""
        corners = np.column_stack([corners_xy, np.full(4, level_m)])
        image = apply_transform(self._T_camera_base, corners) @ self._K.T
        pixels = image[:, :2] / np.maximum(image[:, 2:], 1e-6) + 0.5
        return np.concatenate([pixels.min(axis=0), pixels.max(axis=0)])
