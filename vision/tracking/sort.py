"""The trackers SORT (Bewley et al. 2016, arXiv:1602.00763) and OC-SORT (Cao et al. 2023, arXiv:2203.14360).

SORT is Kalman prediction, IoU and Hungarian assignment, nothing else. Both report a track after min_hits detections in
a row, or at once while the sequence is that young. OC-SORT trusts observations more than its prediction:
Re-update (ORU): when a track is found again, its filter is run over a straight line between the two observations.
Momentum (OCM): a match is better when it continues the direction in which the track was seen to move.
Recovery (OCR): what is left is compared with where the tracks were last seen, not with where they are thought to be.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from jaxtyping import Float
from pydantic import Field

from handeye.vision.config import Config
from handeye.vision.tracking.box_association import (
    Matches,
    Overlaps,
    is_one_to_one,
    most_gain,
    overlapping_pairs,
    split_matched,
)
from handeye.vision.tracking.box_kalman import AreaModel, BoxMotion
from handeye.vision.tracking.box_tracker import BoxTracker, Indices, Mask, Seen, as_score
from handeye.vision.tracking.camera_motion import SimilarityMotion

_TINY = 1e-6


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
    """SORT: Kalman prediction, IoU and Hungarian assignment."""

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


class OcSortConfig(Config):
    """The settings of the authors' evaluation on MOT17 (section 5.1 and their program)."""

    kind: Literal["ocsort"] = "ocsort"
    score_threshold: float = Field(default=0.6, ge=0, le=1)
    """Detections of no higher score are ignored."""
    max_age: float = Field(default=30.0, ge=0)
    """Frames that a track outlives its last detection."""
    min_hits: int = Field(default=3, ge=0)
    """Detections in a row, after the first, before a track is reported."""
    iou_threshold: float = Field(default=0.3, gt=0, le=1)
    """Least IoU of a match."""
    momentum_weight: float = Field(default=0.2, ge=0)
    """What continuing straight on is worth beside an IoU of 1 (the paper's lambda); a half of it at best."""
    momentum_steps: int = Field(default=3, ge=1)
    """The direction is that of this many last updates (the paper's Delta t)."""


@dataclass(slots=True, eq=False)
class Observations:
    """What each track remembers of its detections after the first one; NaN where there was none."""

    recent: Float[np.ndarray, "N steps 4"]
    """Boxes of the last updates, the oldest first."""
    last: Float[np.ndarray, "N 4"]
    directions: Float[np.ndarray, "N 2"]
    """Unit vectors of motion in the image; 0 while unknown."""
    motion_then: BoxMotion
    """The state as it was corrected by the last detection."""

    def take(self, rows: Mask) -> Observations:
        """The chosen tracks."""
        return Observations(*(getattr(self, field.name)[rows] for field in fields(self)))

    def extended(self, newborn: BoxMotion) -> Observations:
        """Room for newer tracks."""
        num = len(newborn)
        return Observations(
            np.concatenate([self.recent, np.full((num, *self.recent.shape[1:]), np.nan)]),
            np.concatenate([self.last, np.full((num, 4), np.nan)]),
            np.concatenate([self.directions, np.zeros((num, 2))]),
            self.motion_then.followed_by(newborn),
        )

    def carried(self, camera_motion: SimilarityMotion, motion_then: BoxMotion) -> None:
        """Move them with the image of a camera that has moved."""
        steps = self.recent.shape[1]
        self.recent = camera_motion.of_boxes(self.recent.reshape(-1, 4)).reshape(-1, steps, 4)
        self.last = camera_motion.of_boxes(self.last)
        self.directions = camera_motion.of_directions(self.directions) / camera_motion.scale
        self.motion_then = motion_then

    def before(self) -> Float[np.ndarray, "N 4"]:
        """For each track its oldest box among the recent ones, or else its last one; NaN if it has none."""
        before = self.last.copy()
        for step in reversed(range(self.recent.shape[1])):
            known = ~np.isnan(self.recent[:, step, 0])
            before[known] = self.recent[known, step]
        return before


class OcSortTracker(BoxTracker):
    """OC-SORT: SORT with re-update, momentum and recovery."""

    def __init__(self, config: OcSortConfig, frame_rate: float) -> None:
        super().__init__(AreaModel(), frame_rate)
        self._config = config
        nobody = np.zeros((0, 4))
        self._past = Observations(
            np.zeros((0, config.momentum_steps, 4)), nobody, np.zeros((0, 2)), self._model.start(nobody)
        )

    def _step(self, seen: Seen, dt_frames: float, camera_motion: SimilarityMotion | None) -> Indices:
        config = self._config
        if camera_motion is not None:
            self._past.carried(camera_motion, self._model.carried(self._past.motion_then, camera_motion))
        boxes = self._move(self._model.predict(self._table.motion, dt_frames), camera_motion)
        good = np.flatnonzero(seen.scores > as_score(config.score_threshold))
        first = self._match_with_momentum(boxes, seen, good)
        last_boxes = np.nan_to_num(self._past.last[first.unmatched_tracks])
        second = _recover(last_boxes, seen.boxes[first.unmatched_detections], config.iou_threshold)
        tracks = np.concatenate([first.tracks, first.unmatched_tracks[second.tracks]])
        detections = np.concatenate([first.detections, first.unmatched_detections[second.detections]])
        self._observe(tracks, seen, detections)
        self._begin(seen, first.unmatched_detections[second.unmatched_detections])
        self._past = self._past.extended(self._table.motion[len(self._past.last) :])
        table = self._table
        is_young = self._num_updates <= config.min_hits
        reported = (table.missed == 0) & (is_young | (table.streak >= config.min_hits))
        alive = self._clock - table.last_seen <= config.max_age
        self._keep(alive)
        return np.flatnonzero(reported[alive])

    def _keep(self, rows: Mask) -> None:
        super()._keep(rows)
        if not rows.all():
            self._past = self._past.take(rows)

    def _boxes(self, rows: Indices) -> Float[np.ndarray, "M 4"]:
        """The last detection as it was, for what is in sight; where it is expected, for what is not."""
        boxes = super()._boxes(rows)
        is_seen = (self._table.missed[rows] == 0) & ~np.isnan(self._past.last[rows, 0])
        boxes[is_seen] = self._past.last[rows[is_seen]]
        return boxes

    def _match_with_momentum(self, boxes: Float[np.ndarray, "N 4"], seen: Seen, good: Indices) -> Matches:
        """The assignment of largest total IoU and momentum; pairs below the IoU threshold are dropped.

        Only boxes that overlap are candidates. In the authors' program all pairs are, and those that do not overlap
        are dropped afterwards, too late for the others; results differ by less than 0.1 of HOTA either way.
        """
        config, num_tracks = self._config, len(boxes)
        pairs = overlapping_pairs(boxes, seen.boxes[good])
        matched = pairs[pairs.ious > config.iou_threshold]
        if not is_one_to_one(matched.tracks, matched.detections):
            momentum = self._consistency(pairs, seen.boxes[good]) * seen.scores[good[pairs.detections]]
            gains = pairs.ious + config.momentum_weight * momentum
            best = pairs[most_gain(pairs.tracks, pairs.detections, gains)]
            matched = best[best.ious >= config.iou_threshold]
        among = split_matched(matched.tracks, matched.detections, num_tracks, len(good))
        return Matches(among.tracks, good[among.detections], among.unmatched_tracks, good[among.unmatched_detections])

    def _consistency(self, pairs: Overlaps, boxes: Float[np.ndarray, "M 4"]) -> Float[np.ndarray, " P"]:
        """1/2 where a box lies straight ahead of where the track moved, -1/2 straight behind, 0 if it is unknown."""
        directions = _unit(_centres(boxes)[pairs.detections] - _centres(self._past.before())[pairs.tracks])
        cosine = np.clip((directions * self._past.directions[pairs.tracks]).sum(axis=1), -1.0, 1.0)
        return np.nan_to_num(0.5 - np.arccos(cosine) / np.pi)

    def _observe(self, tracks: Indices, seen: Seen, detections: Indices) -> None:
        """Correct the tracks and remember what was seen of them."""
        past, boxes = self._past, seen.boxes[detections]
        self._update_again(tracks, boxes)
        self._hit(tracks, seen, detections)
        before = past.before()[tracks]
        moved = ~np.isnan(before[:, 0])
        past.directions[tracks[moved]] = _unit(_centres(boxes[moved]) - _centres(before[moved]))
        now = np.full_like(past.last, np.nan)
        now[tracks] = boxes
        past.recent = np.concatenate([past.recent[:, 1:], now[:, None]], axis=1)
        past.last[tracks] = boxes
        past.motion_then = past.motion_then.replaced(tracks, self._table.motion[tracks])

    def _update_again(self, tracks: Indices, boxes: Float[np.ndarray, "M 4"]) -> None:
        """Let tracks that are found again live through the frames that they missed on a straight line (ORU).

        Centre, width and height run evenly from the last box to this one; the filter is started from the state that
        the last box left. As in the authors' program the new box counts twice: at the end of the line, and as itself.
        """
        table, past = self._table, self._past
        found = (table.missed[tracks] > 0) & ~np.isnan(past.last[tracks, 0])
        tracks, boxes = tracks[found], boxes[found]
        if not len(tracks):
            return
        gaps = self._clock - table.last_seen[tracks]
        num_steps = table.missed[tracks] + 1
        states, start = past.motion_then[tracks], past.last[tracks]
        for step in range(1, int(num_steps.max()) + 1):
            on_the_way = np.flatnonzero(step <= num_steps)
            part = (step / num_steps[on_the_way])[:, None]
            line = (1.0 - part) * start[on_the_way] + part * boxes[on_the_way]
            moving = self._model.predict(states[on_the_way], (gaps / num_steps)[on_the_way])
            states = states.replaced(on_the_way, self._model.update(moving, line))
        table.motion = table.motion.replaced(tracks, states)


def match_by_iou(
    track_boxes: Float[np.ndarray, "N 4"], detection_boxes: Float[np.ndarray, "M 4"], iou_threshold: float
) -> Matches:
    """SORT's association: the assignment of largest total IoU, of which pairs below the threshold are dropped.

    Where the pairs above the threshold are one to one already, they are taken as they are.
    """
    pairs = overlapping_pairs(track_boxes, detection_boxes)
    matched = pairs[pairs.ious > iou_threshold]
    if not is_one_to_one(matched.tracks, matched.detections):
        best = pairs[most_gain(pairs.tracks, pairs.detections, pairs.ious)]
        matched = best[best.ious >= iou_threshold]
    return split_matched(matched.tracks, matched.detections, len(track_boxes), len(detection_boxes))


def _recover(last_boxes: Float[np.ndarray, "N 4"], boxes: Float[np.ndarray, "M 4"], iou_threshold: float) -> Matches:
    """The assignment by IoU of what is left to where the tracks were last seen (OCR)."""
    pairs = overlapping_pairs(last_boxes, boxes)
    best = pairs[most_gain(pairs.tracks, pairs.detections, pairs.ious)]
    best = best[best.ious >= iou_threshold]
    return split_matched(best.tracks, best.detections, len(last_boxes), len(boxes))


def _centres(boxes: Float[np.ndarray, "*K 4"]) -> Float[np.ndarray, "*K 2"]:
    return 0.5 * (boxes[..., :2] + boxes[..., 2:])


def _unit(vectors: Float[np.ndarray, "*K 2"]) -> Float[np.ndarray, "*K 2"]:
    """Directions; nothing stays nothing."""
    return vectors / (np.linalg.norm(vectors, axis=-1, keepdims=True) + _TINY)
