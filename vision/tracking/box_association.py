"""Associate boxes with tracks: overlapping candidate pairs, then the one-to-one assignment of largest total gain.

Boxes far apart are never compared: candidates come from a sweep along x, so a thousand boxes cost no million pairs.
Uncontested pairs are matched at once; only the rest goes through the Hungarian method (scipy's).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

_DENSE_UP_TO = 64
"""Groups of at most this many tracks are solved densely, larger ones sparsely, whichever is faster."""


@dataclass(frozen=True, slots=True, eq=False)
class Overlaps:
    """Pairs of overlapping boxes in three columns: track, detection and their IoU > 0."""

    tracks: Int64[np.ndarray, " P"]
    detections: Int64[np.ndarray, " P"]
    ious: Float[np.ndarray, " P"]

    def __getitem__(self, chosen: Bool[np.ndarray, " P"] | Int64[np.ndarray, " M"]) -> Overlaps:
        """The chosen pairs."""
        return Overlaps(self.tracks[chosen], self.detections[chosen], self.ious[chosen])


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """Matched tracks and detections, row by row, and what is unmatched; every index occurs exactly once."""

    tracks: Int64[np.ndarray, " M"]
    detections: Int64[np.ndarray, " M"]
    unmatched_tracks: Int64[np.ndarray, " T"]
    unmatched_detections: Int64[np.ndarray, " D"]


def overlapping_pairs(track_boxes: Float[np.ndarray, "N 4"], detection_boxes: Float[np.ndarray, "M 4"]) -> Overlaps:
    """All pairs of boxes (x1 y1 x2 y2) whose IoU is above 0, track by track.

    The IoU is that of `vision.boxes.iou`, written for columns, each area taken once for all pairs of its box.
    """
    tracks, detections = _neighbours_in_x(track_boxes, detection_boxes)
    if not len(tracks):
        return Overlaps(tracks, detections, np.zeros(0))
    theirs, ours = track_boxes.T.take(tracks, axis=1), detection_boxes.T.take(detections, axis=1)
    sides = np.minimum(theirs[2:], ours[2:]) - np.maximum(theirs[:2], ours[:2])
    touching = ((sides[0] > 0.0) & (sides[1] > 0.0)).nonzero()[0]
    tracks, detections = tracks[touching], detections[touching]
    common = sides[0, touching] * sides[1, touching]
    both = _areas(track_boxes)[tracks] + _areas(detection_boxes)[detections]
    return Overlaps(tracks, detections, common / (both - common))


def _neighbours_in_x(
    track_boxes: Float[np.ndarray, "N 4"], detection_boxes: Float[np.ndarray, "M 4"]
) -> tuple[Int64[np.ndarray, " P"], Int64[np.ndarray, " P"]]:
    """Pairs that contain all that overlap: detections that begin left of a track's end and not too far left of it."""
    if not len(track_boxes) or not len(detection_boxes):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    order = detection_boxes[:, 0].argsort(kind="stable")
    left = detection_boxes[order, 0]
    widest = (detection_boxes[:, 2] - detection_boxes[:, 0]).max()
    first = left.searchsorted(track_boxes[:, 0] - widest)
    counts = np.maximum(left.searchsorted(track_boxes[:, 2]) - first, 0)
    ends = counts.cumsum()
    tracks = np.arange(len(track_boxes)).repeat(counts)
    return tracks, order[np.arange(ends[-1]) + (first - ends + counts)[tracks]]


def _areas(boxes: Float[np.ndarray, "K 4"]) -> Float[np.ndarray, " K"]:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def most_gain(
    tracks: Int64[np.ndarray, " P"], detections: Int64[np.ndarray, " P"], gains: Float[np.ndarray, " P"]
) -> Int64[np.ndarray, " M"]:
    """Which of these pairs make up the one-to-one assignment with the largest sum of gains.

    Pairs that gain nothing (<= 0) are not joined.
    """
    useful = (gains > 0.0).nonzero()[0]
    of_track, of_detection = tracks[useful], detections[useful]
    is_contested = (np.bincount(of_track)[of_track] > 1) | (np.bincount(of_detection)[of_detection] > 1)
    if not is_contested.any():
        return useful
    alone, contested = useful[~is_contested], useful[is_contested]
    return np.concatenate([alone, contested[_solve(tracks[contested], detections[contested], gains[contested])]])


def is_one_to_one(tracks: Int64[np.ndarray, " P"], detections: Int64[np.ndarray, " P"]) -> bool:
    """Whether there are pairs at all and no index occurs in two of them."""
    return len(tracks) > 0 and bool(np.bincount(tracks).max() == 1 and np.bincount(detections).max() == 1)


def split_matched(
    tracks: Int64[np.ndarray, " M"], detections: Int64[np.ndarray, " M"], num_tracks: int, num_detections: int
) -> Matches:
    """Matches of these pairs, with all other indices as unmatched."""
    return Matches(tracks, detections, _others(tracks, num_tracks), _others(detections, num_detections))


def _others(indices: np.ndarray, num: int) -> Int64[np.ndarray, " K"]:
    is_free = np.ones(num, dtype=bool)
    is_free[indices] = False
    return is_free.nonzero()[0]


def _ranks(indices: Int64[np.ndarray, " P"]) -> tuple[Int64[np.ndarray, " P"], int]:
    """The place of each index among the different ones, and how many of those there are."""
    occurs = np.zeros(indices.max() + 1, dtype=np.int64)
    occurs[indices] = 1
    places = occurs.cumsum() - 1
    return places[indices], int(places[-1]) + 1


def _solve(tracks: np.ndarray, detections: np.ndarray, gains: np.ndarray) -> Int64[np.ndarray, " M"]:
    """Which of these pairs the best assignment joins."""
    row_of, num_rows = _ranks(tracks)
    column_of, num_columns = _ranks(detections)
    if num_rows <= _DENSE_UP_TO:
        dense = np.zeros((num_rows, num_columns))
        dense[row_of, column_of] = gains
        partner = np.full(num_rows, -1)
        best_rows, best_columns = linear_sum_assignment(dense, maximize=True)
        partner[best_rows] = best_columns
    else:
        partner = _solve_sparse(row_of, column_of, gains, num_rows, num_columns)
    return (partner[row_of] == column_of).nonzero()[0]


def _solve_sparse(
    row_of: np.ndarray, column_of: np.ndarray, gains: np.ndarray, num_rows: int, num_columns: int
) -> Int64[np.ndarray, " R"]:
    """The column of each row, or one beyond num_columns: each row also has a dummy column, where it gains nothing."""
    own = np.arange(num_rows)
    top = 1.0 + gains.max()  # scipy minimises and takes a stored 0 for a missing pair
    costs = np.concatenate([top - gains, np.full(num_rows, top)])
    places = (np.concatenate([row_of, own]), np.concatenate([column_of, num_columns + own]))
    graph = csr_array((costs, places), shape=(num_rows, num_columns + num_rows))
    best_rows, best_columns = min_weight_full_bipartite_matching(graph)
    partner = np.empty(num_rows, dtype=np.int64)
    partner[best_rows] = best_columns
    return partner
