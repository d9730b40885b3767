"""Fit a rectangle to an object's outline seen from above: centre, length, width and yaw.

`fit_footprint` uses the hull of the outline edge by edge: the edges' directions, four-fold, give the yaw, and their
offsets along the two axes the four sides. Sides of which no true edge was seen are marked.

`fit_rectangle` is for an object that touches its neighbours: depth shows one surface, and only the detector's box says
where the object ends. A robust least-squares fit to both at once: the sides to the parts of the outline that are seen,
and the projection to the box. What neither determines is held by the expected size, and the covariance says how well
everything is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int64
from scipy.optimize import least_squares

from handeye.robot.perception.box_depth import BoxDepth
from handeye.robot.perception.camera_view import View, pixels_on_plane
from handeye.robot.transforms import inverse, wrap_angle

_MIN_RECTANGULARITY = 0.5
_SAME_SIDE_COSINE = 0.8
_MIN_SEEN = 0.4
_START_YAWS_RAD = np.radians([-37.5, -22.5, -7.5, 7.5, 22.5, 37.5])
_ROBUST_SIGMAS = 3.0
_STEP = float(np.sqrt(np.finfo(np.float64).eps))
_ROUGH_STEPS, _DAMPING, _EASE, _DAMP = 12, 1e-2, 0.3, 5.0
_TOLERANCE = 1e-8
_PATCH_PX = 8.0  # outline pixels this near to each other err together
_MODEL_FACTOR = 2.2  # sigmas are stated larger by this: rounded edges and the neighbour's own outline are not modelled
_CORNERS = 0.5 * np.array([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])


@dataclass(frozen=True, slots=True, eq=False)
class Footprint:
    """A rectangle in the plane, its sides at low and high along its axes u and v (u is base x turned by yaw).

    is_seen_low and is_seen_high say, for each axis, whether the outline shows that side. rectangularity is 1 for a
    rectangle and 0 for a circle; yaw_rad lies in [-pi/4, pi/4) and means nothing when has_yaw is False.
    """

    yaw_rad: float
    low_m: Float[np.ndarray, "2"]
    high_m: Float[np.ndarray, "2"]
    is_seen_low: Bool[np.ndarray, "2"]
    is_seen_high: Bool[np.ndarray, "2"]
    rectangularity: float

    @property
    def axes(self) -> Float[np.ndarray, "2 2"]:
        """The unit vectors u and v as columns."""
        c, s = np.cos(self.yaw_rad), np.sin(self.yaw_rad)
        return np.array([[c, -s], [s, c]])

    @property
    def centre_xy(self) -> Float[np.ndarray, "2"]:
        """The middle of the rectangle (m)."""
        return self.axes @ (0.5 * (self.low_m + self.high_m))

    @property
    def size_m(self) -> Float[np.ndarray, "2"]:
        """Extents along u and v (m)."""
        return self.high_m - self.low_m

    @property
    def is_whole(self) -> bool:
        """Whether all four sides were seen."""
        return bool((self.is_seen_low & self.is_seen_high).all())

    @property
    def has_yaw(self) -> bool:
        """Whether the outline is whole and straight enough to have a direction."""
        return self.is_whole and self.rectangularity >= _MIN_RECTANGULARITY


def fit_footprint(outline_xy: Float[np.ndarray, "N 2"], is_cut: Bool[np.ndarray, " N"]) -> Footprint | None:
    """Fit a rectangle to outline points (m), given in their order along it, in either sense.

    is_cut marks points where not the object's own edge ends it. Points inside the hull (dents and holes of the depth)
    have no say. None when the points span no area.
    """
    if len(outline_xy) < 3:
        return None
    # Millimetres about the middle: OpenCV computes in single precision.
    middle = outline_xy.mean(axis=0)
    chosen: Int64[np.ndarray, " M"] = cv2.convexHull(
        ((outline_xy - middle) * 1e3).astype(np.float32), returnPoints=False
    )[:, 0].astype(np.int64)
    if len(chosen) < 3:
        return None
    start, end = outline_xy[chosen] - middle, np.roll(outline_xy[chosen], -1, axis=0) - middle
    is_edge_cut = _mostly_cut(is_cut, chosen)
    edges = end - start
    lengths = np.hypot(edges[:, 0], edges[:, 1])
    yaw, rectangularity = _four_fold_direction(edges, np.where(is_edge_cut, 0.0, lengths))
    c, s = np.cos(yaw), np.sin(yaw)
    axes = np.array([[c, -s], [s, c]])
    low, high, is_seen_low, is_seen_high = _sides(start @ axes, end @ axes, lengths, is_edge_cut)
    shift = middle @ axes
    return Footprint(yaw, low + shift, high + shift, is_seen_low, is_seen_high, rectangularity)


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


def fit_rectangle(
    outline_xy: Float[np.ndarray, "N 2"],
    box_xyxy: Float[np.ndarray, "4"],
    height_m: float,
    depth_m: float,
    view: View,
) -> Rectangle | None:
    """Fit the top face, height_m above the table, of the object that the box (px) shows; None where that fails.

    outline_xy (m) are the edges of everything at that height. The best fit of several starting yaws is taken; far
    outliers, such as a neighbour's sides, have little weight.
    """
    middle_uv = 0.5 * (box_xyxy[:2] + box_xyxy[2:]) - 0.5
    start = pixels_on_plane(middle_uv, view.frame.K, view.T_base_camera, view.table_m + height_m)[:2]
    if not np.isfinite(start).all():
        return None
    problem = _Problem(outline_xy, box_xyxy, height_m, depth_m, view)
    size = view.config.expected_size_m
    starts = np.array([[*start, yaw, size, size] for yaw in _START_YAWS_RAD])
    best = _minimise(problem, _best_of_rough(problem, starts))
    if not np.isfinite(best.x).all() or best.x[3:].min() <= 0.0:
        return None
    information = best.jac.T @ best.jac
    if np.linalg.cond(information) > 1e12:
        return None
    yaw = wrap_angle(float(best.x[2]), np.pi / 2)
    turned = round((best.x[2] - yaw) / (np.pi / 2)) % 2 == 1
    order = [0, 1, 2, 4, 3] if turned else [0, 1, 2, 3, 4]
    covariance = _MODEL_FACTOR**2 * np.linalg.inv(information)[np.ix_(order, order)]
    return Rectangle(best.x[:2], yaw, best.x[order][3:], covariance)


def _mostly_cut(is_cut: Bool[np.ndarray, " N"], chosen: Int64[np.ndarray, " M"]) -> Bool[np.ndarray, " M"]:
    """Of each hull edge, whether most of the outline points along it are cut; the shorter way round is along it."""
    num = len(is_cut)
    low, high = np.sort(np.stack([chosen, np.roll(chosen, -1)]), axis=0)
    cut_before = np.concatenate([[0], np.cumsum(is_cut)])
    num_inside, cut_inside = high + 1 - low, cut_before[high + 1] - cut_before[low]
    num_around, cut_around = num - high + low + 1, cut_before[num] - cut_before[high] + cut_before[low + 1]
    is_inside = num_inside <= num_around
    return np.where(is_inside, 2 * cut_inside > num_inside, 2 * cut_around > num_around)


def _four_fold_direction(edges: Float[np.ndarray, "M 2"], weights: Float[np.ndarray, " M"]) -> tuple[float, float]:
    """Mean direction of edges modulo a quarter turn, in [-pi/4, pi/4), and its resultant length in [0, 1]."""
    total = float(weights.sum())
    if total <= 0.0:
        return 0.0, 0.0
    angles = np.arctan2(edges[:, 1], edges[:, 0])
    resultant = complex(np.sum(weights * np.exp(4j * angles))) / total
    return float(np.angle(resultant)) / 4.0, abs(resultant)


def _sides(
    start: Float[np.ndarray, "M 2"],
    end: Float[np.ndarray, "M 2"],
    lengths: Float[np.ndarray, " M"],
    is_edge_cut: Bool[np.ndarray, " M"],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Offsets of the four sides along both axes, and whether each is seen along enough of its length."""
    points = np.concatenate([start, end])
    offsets = np.array([points.min(axis=0), points.max(axis=0)])
    extent = offsets[1] - offsets[0]
    is_seen = np.zeros((2, 2), dtype=bool)
    middles = 0.5 * (start + end)
    headings = (end - start) / np.maximum(lengths, 1e-9)[:, None]
    # The hull runs one way round, so the two sides of an axis are told apart by the heading of their edges.
    turn = _turning_sense(start, end)
    for axis in range(2):
        along = headings[:, 1 - axis]
        # Counter-clockwise the low u side runs down (-v) and the low v side runs right (+u).
        low_direction = -turn if axis == 0 else turn
        for side, direction in enumerate((low_direction, -low_direction)):
            weights = np.where((along * direction > _SAME_SIDE_COSINE) & ~is_edge_cut, lengths, 0.0)
            seen_m = weights.sum()
            is_seen[side, axis] = seen_m >= _MIN_SEEN * extent[1 - axis]
            if is_seen[side, axis]:
                offsets[side, axis] = weights @ middles[:, axis] / seen_m
    return offsets[0], offsets[1], is_seen[0], is_seen[1]


def _turning_sense(start: Float[np.ndarray, "M 2"], end: Float[np.ndarray, "M 2"]) -> float:
    """+1 for a polygon that runs counter-clockwise, -1 for clockwise."""
    return 1.0 if np.sum(start[:, 0] * end[:, 1] - end[:, 0] * start[:, 1]) > 0.0 else -1.0


def _best_of_rough(problem: _Problem, starts: Float[np.ndarray, "K 5"]) -> Float[np.ndarray, "5"]:
    """Near the best of the minima that the starts lead to: Levenberg-Marquardt steps of all starts at once."""
    x, damping = starts.copy(), np.full(len(starts), _DAMPING)
    residuals, jacobian = problem.linearised(x)
    cost = _robust_cost(residuals)
    for _ in range(_ROUGH_STEPS):
        weights = 1.0 / (1.0 + (residuals / _ROBUST_SIGMAS) ** 2)
        weighted = np.swapaxes(jacobian, 1, 2) * weights[:, None]
        curvature = weighted @ jacobian
        curvature += damping[:, None, None] * (np.eye(5) * curvature)
        trial = x - np.linalg.solve(curvature, weighted @ residuals[..., None])[..., 0]
        trial_cost = _robust_cost(problem.residuals_of(trial))
        is_better = trial_cost < cost
        x[is_better], cost = trial[is_better], np.minimum(trial_cost, cost)
        damping = np.where(is_better, _EASE * damping, _DAMP * damping)
        residuals, jacobian = problem.linearised(x)
    return x[np.argmin(cost)]


def _robust_cost(residuals: Float[np.ndarray, "K R"]) -> Float[np.ndarray, " K"]:
    """The Cauchy loss, up to a factor."""
    return np.log1p((residuals / _ROBUST_SIGMAS) ** 2).sum(axis=-1)


def _minimise(problem: _Problem, start: Float[np.ndarray, "5"]) -> Any:
    jacobian: Any = problem.jacobian  # scipy takes a function here too; its annotations say names only
    return least_squares(
        problem.residuals,
        start,
        jac=jacobian,
        loss="cauchy",
        f_scale=_ROBUST_SIGMAS,
        x_scale="jac",
        max_nfev=40,
        ftol=_TOLERANCE,
        xtol=_TOLERANCE,
    )


class _Problem:
    """Residuals, in standard deviations, of a rectangle (x, y, yaw, length, width)."""

    def __init__(
        self, outline_xy: np.ndarray, box_xyxy: np.ndarray, height_m: float, depth_m: float, view: View
    ) -> None:
        self._outline_xy, self._box = outline_xy, box_xyxy
        self._levels_m = np.array([view.table_m + height_m, view.table_m])
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
        return self.residuals_of(x[None])[0]

    def jacobian(self, x: Float[np.ndarray, "5"]) -> Float[np.ndarray, "R 5"]:
        """The derivatives of the residuals."""
        return self.linearised(x[None])[1][0]

    def linearised(self, x: Float[np.ndarray, "K 5"]) -> tuple[Float[np.ndarray, "K R"], Float[np.ndarray, "K R 5"]]:
        """Residuals and their derivatives by forward differences, for K rectangles in one go."""
        there = x[:, None] + np.eye(5) * (_STEP * np.maximum(np.abs(x), 1.0))[:, None]
        points = np.concatenate([x[:, None], there], axis=1)
        values = self.residuals_of(points.reshape(-1, 5)).reshape(len(x), 6, -1)
        steps = np.diagonal(there - x[:, None], axis1=1, axis2=2)
        return values[:, 0], np.moveaxis(values[:, 1:] - values[:, :1], 1, 2) / steps[:, None]

    def residuals_of(self, x: Float[np.ndarray, "K 5"]) -> Float[np.ndarray, "K R"]:
        """The residuals of K rectangles."""
        c, s = np.cos(x[:, 2]), np.sin(x[:, 2])
        R = np.stack([c, -s, s, c], axis=-1).reshape(-1, 2, 2)
        middle, size = x[:, None, :2], x[:, None, 3:]
        beyond = np.abs((self._outline_xy - middle) @ R) - 0.5 * size
        # From the nearest side or its prolongation: the neighbour often goes on along the same line.
        from_sides = np.abs(beyond).min(axis=-1)
        top, bottom = self._image_boxes((_CORNERS * size) @ np.swapaxes(R, 1, 2) + middle)
        # A side face may hide behind the neighbour: the box ends somewhere from the top's edge to the bottom's.
        low, high = np.minimum(top, bottom), np.maximum(top, bottom)
        low[:, 2:], high[:, :2] = top[:, 2:], top[:, :2]
        from_box = np.maximum(self._box - high, 0.0) + np.minimum(self._box - low, 0.0)
        from_size = (x[:, 3:] - self._size_m) / self._size_sigma_m
        from_square = (x[:, 3:4] - x[:, 4:]) / self._unevenness_m
        return np.concatenate([from_sides / self._edge_m, from_box / self._box_px, from_size, from_square], axis=-1)

    def _image_boxes(self, corners_xy: Float[np.ndarray, "K 4 2"]) -> Float[np.ndarray, "2 K 4"]:
        """The boxes (px) around the four points, once at the height of each level."""
        corners = np.empty((2, *corners_xy.shape[:2], 3))
        corners[..., :2] = corners_xy
        corners[..., 2] = self._levels_m[:, None, None]
        image = (corners @ self._T_camera_base[:3, :3].T + self._T_camera_base[:3, 3]) @ self._K.T
        pixels = image[..., :2] / np.maximum(image[..., 2:], 1e-6) + 0.5
        return np.concatenate([pixels.min(axis=-2), pixels.max(axis=-2)], axis=-1)
