"""SORT: Kalman prediction, IoU, Hungarian, and nothing else (Bewley et al. 2016, arXiv:1602.00763).

A track is reported after min_hits detections in a row, or at once while the sequence is that young.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float
from pydantic import Field

from handeye.vision.config import Config
from handeye.vision.tracking.box_association import Matches, is_one_to_one, most_gain, overlapping_pairs, split_matched
from handeye.vision.tracking.box_kalman import AreaModel
from handeye.vision.tracking.box_tracker import BoxTracker, Indices, Seen
from handeye.vision.tracking.camera_motion import SimilarityMotion


class SortConfig(Config):
    """The paper's settings (section 3.4 and 4); it takes detections of any score."""

    kind: Literal["sort"] = "sort"
    max_age: float = Field(default=1.0, ge=0)
    """Frames that a track outlives its last detection (the paper's T_lost)."""
    min_hits: int = Field(default=3, ge=0)
    """Detections in a row, after the first, before a track is reported."""
    iou_threshold: float = Field(default=0.3, gt=0, le=1)
    """Least IoU of a match (the paper's IoU_min)."""


class SortTracker(BoxTracker):
    """See the module."""

    def __init__(self, config: SortConfig, frame_rate: float) -> None:
        super().__init__(AreaModel(), frame_rate)
        self._config = config

    def _step(self, seen: Seen, dt_frames: float, camera_motion: SimilarityMotion | None) -> Indices:
        config = self._config
        boxes = self._move(self._model.predict(self._table.motion, dt_frames), camera_motion)
        matches = match_by_iou(boxes, seen.boxes, config.iou_threshold)
        self._hit(matches.tracks, seen, matches.detections)
        self._begin(seen, matches.unmatched_detections)
        table = self._table
        is_young = self._num_updates <= config.min_hits
        reported = (table.missed == 0) & (is_young | (table.streak >= config.min_hits))
        alive = self._clock - table.last_seen <= config.max_age
        self._keep(alive)
        return np.flatnonzero(reported[alive])


def match_by_iou(
    track_boxes: Float[np.ndarray, "N 4"], detection_boxes: Float[np.ndarray, "M 4"], iou_threshold: float
) -> Matches:
    """SORT's association: the assignment of largest total IoU, of which pairs below the threshold are parted again.

    Where the pairs above the threshold are one to one already, they are taken as they are.
    """
    pairs = overlapping_pairs(track_boxes, detection_boxes)
    matched = pairs[pairs.ious > iou_threshold]
    if not is_one_to_one(matched.tracks, matched.detections):
        best = pairs[most_gain(pairs.tracks, pairs.detections, pairs.ious)]
        matched = best[best.ious >= iou_threshold]
    return split_matched(matched.tracks, matched.detections, len(track_boxes), len(detection_boxes))
