"""The rectangle that an object's outline fills when seen from above: centre, length, width and yaw.

The hull of the outline is used edge by edge: the edges' directions, four-fold, give the yaw, and their offsets along
the two axes the four sides. Sides of which no true edge was seen are known to be so.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int64

_MIN_RECTANGULARITY = 0.5
_SAME_SIDE_COSINE = 0.8
_MIN_SEEN = 0.4


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
