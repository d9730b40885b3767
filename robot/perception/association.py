"""Data association of detections and tracks: a chi-square gate, then the assignment of least total cost.

The gate is also the cost of leaving a pair unmatched, so a poor match never displaces a good one. Pairs without
competitors are matched at once; only the rest goes through the Hungarian method (SciPy's, Jonker-Volgenant).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree
from scipy.stats import chi2


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Candidate pairs in three columns of equal length: track, detection and the cost of joining them."""

    track_index: Int64[np.ndarray, " P"]
    detection_index: Int64[np.ndarray, " P"]
    costs: Float[np.ndarray, " P"]


@dataclass(frozen=True, slots=True, eq=False)
class Assignment:
    """Matched pairs, row by row and in order of the tracks, and what stays alone; every index occurs exactly once."""

    track_index: Int64[np.ndarray, " M"]
    detection_index: Int64[np.ndarray, " M"]
    unmatched_tracks: Int64[np.ndarray, " T"]
    unmatched_detections: Int64[np.ndarray, " D"]


def chi_square_gate(probability: float, num_dims: int) -> float:
    """The squared Mahalanobis distance within which a true match lies with this probability (0 < probability < 1)."""
    return float(chi2.ppf(probability, num_dims))


def assign(costs: Float[np.ndarray, "T D"], max_cost: float) -> Assignment:
    """The one-to-one assignment of tracks (rows) to detections (columns) with the least total cost.

    A track or detection may stay alone; joining a pair is worth max_cost, so no pair of a higher cost is ever joined.
    Infinite and NaN costs forbid a pair.
    """
    track_index, detection_index = np.nonzero(costs <= max_cost)
    pairs = Pairs(track_index, detection_index, costs[track_index, detection_index])
    return assign_pairs(pairs, costs.shape[0], costs.shape[1], max_cost)


def assign_pairs(pairs: Pairs, num_tracks: int, num_detections: int, max_cost: float) -> Assignment:
    """`assign` for a sparse list of candidate pairs; those that cost more than max_cost are ignored."""
    is_allowed = pairs.costs <= max_cost
    tracks, detections = pairs.track_index[is_allowed], pairs.detection_index[is_allowed]
    costs = pairs.costs[is_allowed]
    groups = _competing_groups(tracks, detections, num_tracks, num_detections)
    matched: list[tuple[int, int]] = []
    order = np.argsort(groups, kind="stable")
    for chosen in np.split(order, np.flatnonzero(np.diff(groups[order])) + 1):
        matched += _assign_group(tracks[chosen], detections[chosen], costs[chosen], max_cost)
    joined = np.array(sorted(matched), dtype=np.int64).reshape(-1, 2)
    return Assignment(
        track_index=joined[:, 0],
        detection_index=joined[:, 1],
        unmatched_tracks=np.setdiff1d(np.arange(num_tracks), joined[:, 0]),
        unmatched_detections=np.setdiff1d(np.arange(num_detections), joined[:, 1]),
    )


def pairs_within(
    points: Float[np.ndarray, "N 3"], others: Float[np.ndarray, "M 3"], reach_m: float
) -> tuple[Int64[np.ndarray, " P"], Int64[np.ndarray, " P"]]:
    """Indices of all pairs no further apart than reach_m."""
    if not len(points) or not len(others):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    found = KDTree(others).query_ball_point(points, reach_m)
    counts = [len(indices) for indices in found]
    return np.repeat(np.arange(len(points)), counts), np.array([j for indices in found for j in indices], np.int64)


def _competing_groups(tracks: np.ndarray, detections: np.ndarray, num_tracks: int, num_detections: int) -> np.ndarray:
    """For each pair the number of the connected group of tracks and detections that it belongs to."""
    if not len(tracks):
        return np.zeros(0, dtype=np.int64)
    num = num_tracks + num_detections
    graph = coo_array((np.ones(len(tracks), dtype=np.int8), (tracks, num_tracks + detections)), shape=(num, num))
    return connected_components(graph, directed=False)[1][tracks]


def _assign_group(
    tracks: np.ndarray, detections: np.ndarray, costs: np.ndarray, max_cost: float
) -> list[tuple[int, int]]:
    """The best assignment inside one group."""
    if len(tracks) < 2:  # also the empty group of no pairs at all
        return list(zip(tracks.tolist(), detections.tolist(), strict=True))
    rows, row_of = np.unique(tracks, return_inverse=True)
    columns, column_of = np.unique(detections, return_inverse=True)
    # Gain below zero by which joining beats leaving apart; forbidden pairs gain nothing and are dropped afterwards.
    gains = np.full((len(rows), len(columns)), np.inf)
    np.minimum.at(gains, (row_of, column_of), costs - max_cost)
    best_rows, best_columns = linear_sum_assignment(np.where(np.isfinite(gains), gains, 0.0))
    is_joined = np.isfinite(gains[best_rows, best_columns])
    return list(zip(rows[best_rows[is_joined]].tolist(), columns[best_columns[is_joined]].tolist(), strict=True))
