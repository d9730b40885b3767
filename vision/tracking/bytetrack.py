"""The tracker ByteTrack (Zhang et al. 2022, arXiv:2110.06864): high scores match first, low ones keep tracks alive.

A weak detection beside a known track is an occluded object more often than background. Section 3, algorithm 1.

Where the paper is silent the rules are those of the authors' program, whose tracks these are. Three of them are not
obvious: boxes overlap as sets of whole pixels, a lost track can be found for a frame longer than the buffer, and one
that was found so late ends when it is lost again.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float
from pydantic import Field

from handeye.vision.config import Config
from handeye.vision.tracking.box_association import Matches, most_gain, overlapping_pairs, split_matched
from handeye.vision.tracking.box_kalman import HeightModel
from handeye.vision.tracking.box_tracker import NOMINAL_RATE, BoxTracker, Indices, Mask, Seen, as_score
from handeye.vision.tracking.camera_motion import SimilarityMotion


class ByteTrackConfig(Config):
    """The paper's settings (section 4.1), and those of the authors' program for what it leaves open.

    The program differs from the paper in its evaluation of MOT17, where match_threshold is 0.9.
    """

    kind: Literal["bytetrack"] = "bytetrack"
    track_threshold: float = Field(default=0.6, ge=0, le=1)
    """Detections with a higher score are good (the paper's tau), those with a lower one weak."""
    low_threshold: float = Field(default=0.1, ge=0, le=1)
    """Weak detections with no higher score than this are ignored (program)."""
    birth_margin: float = Field(default=0.1, ge=0, le=1)
    """A new track needs a score of at least track_threshold + birth_margin: 0.7 in the paper."""
    match_threshold: float = Field(default=0.8, gt=0, le=1)
    """Largest cost, 1 - IoU * score, at which a good detection joins a track: IoU of at least 0.2 in the paper."""
    low_match_threshold: float = Field(default=0.5, gt=0, le=1)
    """Largest cost, 1 - IoU, at which a weak detection joins a track (program)."""
    tentative_match_threshold: float = Field(default=0.7, gt=0, le=1)
    """Largest cost, 1 - IoU * score, at which a second detection confirms a track (program)."""
    fuse_scores: bool = True
    """Multiply the IoU of good detections by their score (program, but not for MOT20)."""
    duplicate_iou: float = Field(default=0.85, gt=0, le=1)
    """Of a track in sight and a lost one that overlap more, the younger ends (program)."""
    whole_pixels: bool = True
    """Boxes end with their last pixel: each side is a pixel longer in an IoU (program). Matters for small boxes; false
    for boxes that are not in pixels."""
    track_buffer: float = Field(default=30.0, ge=0)
    """Frames at 30 a second that a lost track lives (paper); at other rates the same time."""


class ByteTracker(BoxTracker):
    """ByteTrack: two rounds of association, by high and by low scores."""

    def __init__(self, config: ByteTrackConfig, frame_rate: float) -> None:
        super().__init__(HeightModel(), frame_rate)
        self._config = config
        self._buffer = float(int(frame_rate / NOMINAL_RATE * config.track_buffer))
        self._high, self._low = as_score(config.track_threshold), as_score(config.low_threshold)
        self._birth = as_score(config.track_threshold + config.birth_margin)
        self._last_pixel = np.array([0.0, 0.0, 1.0, 1.0]) * config.whole_pixels
        self._found_late = np.zeros(0, dtype=bool)

    def _step(self, seen: Seen, dt_frames: float, camera_motion: SimilarityMotion | None) -> Indices:
        config = self._config
        boxes = self._predict(dt_frames, camera_motion)
        good = (seen.scores > self._high).nonzero()[0]
        weak = ((seen.scores < self._high) & (seen.scores > self._low)).nonzero()[0]
        confirmed, tentative = (self._table.track_ids > 0).nonzero()[0], (self._table.track_ids == 0).nonzero()[0]
        first = self._match(boxes, confirmed, seen, good, config.match_threshold, self._weights(seen, good))
        in_sight = first.unmatched_tracks[self._table.missed[first.unmatched_tracks] == 0]
        second = self._match(boxes, in_sight, seen, weak, config.low_match_threshold, np.ones(len(weak)))
        left = first.unmatched_detections
        third = self._match(boxes, tentative, seen, left, config.tentative_match_threshold, self._weights(seen, left))
        hit = np.concatenate([first.tracks, second.tracks, third.tracks])
        self._found_late[hit] |= self._clock - self._table.last_seen[hit] > self._buffer + 1.0
        self._hit(hit, seen, np.concatenate([first.detections, second.detections, third.detections]))
        self._end()
        born = third.unmatched_detections
        self._begin(seen, born[seen.scores[born] >= self._birth])
        self._found_late = np.pad(self._found_late, (0, len(self._table) - len(self._found_late)))
        self._end_duplicates()
        # Seen twice, or there from the first frame on.
        table = self._table
        return np.flatnonzero((table.missed == 0) & ((table.streak > 0) | (self._num_updates == 1)))

    def _keep(self, rows: Mask) -> None:
        super()._keep(rows)
        self._found_late = self._found_late[rows]

    def _predict(self, dt_frames: float, camera_motion: SimilarityMotion | None) -> Float[np.ndarray, "N 4"]:
        """A lost track keeps its height; a tentative one stays where it was seen."""
        confirmed = np.flatnonzero(self._table.track_ids > 0)
        motion = self._table.motion[confirmed]
        motion.rates[self._table.missed[confirmed] > 0, 3] = 0.0
        moved = self._table.motion.replaced(confirmed, self._model.predict(motion, dt_frames))
        return self._move(moved, camera_motion)

    def _weights(self, seen: Seen, detections: Indices) -> Float[np.ndarray, " K"]:
        return seen.scores[detections] if self._config.fuse_scores else np.ones(len(detections))

    def _match(
        self,
        boxes: Float[np.ndarray, "N 4"],
        tracks: Indices,
        seen: Seen,
        detections: Indices,
        max_cost: float,
        weights: Float[np.ndarray, " K"],
    ) -> Matches:
        """The assignment of least cost 1 - IoU * weight, where leaving a pair unmatched costs max_cost."""
        if not len(tracks) or not len(detections):
            return Matches(tracks[:0], detections[:0], tracks, detections)
        pairs = overlapping_pairs(boxes[tracks] + self._last_pixel, seen.boxes[detections] + self._last_pixel)
        gains = pairs.ious * weights[pairs.detections] - (1.0 - max_cost)
        best = pairs[most_gain(pairs.tracks, pairs.detections, gains)]
        among = split_matched(best.tracks, best.detections, len(tracks), len(detections))
        return Matches(
            tracks[among.tracks],
            detections[among.detections],
            tracks[among.unmatched_tracks],
            detections[among.unmatched_detections],
        )

    def _end(self) -> None:
        """Tentative tracks end when they are not seen, lost ones a frame after the buffer."""
        table = self._table
        is_remembered = (table.track_ids > 0) & (self._clock - table.last_seen <= self._buffer + 1.0)
        self._keep((table.missed == 0) | (is_remembered & ~self._found_late))

    def _end_duplicates(self) -> None:
        """A lost track and one in sight at the same place are one object; the one that was followed longer stays."""
        table = self._table
        visible, lost = np.flatnonzero(table.missed == 0), np.flatnonzero(table.missed > 0)
        if not len(lost):
            return
        boxes = self._model.boxes(table.motion) + self._last_pixel
        pairs = overlapping_pairs(boxes[visible], boxes[lost])
        pairs = pairs[pairs.ious > self._config.duplicate_iou]
        if not len(pairs.tracks):
            return
        followed = table.last_seen - table.born
        visible, lost = visible[pairs.tracks], lost[pairs.detections]
        is_older = followed[visible] > followed[lost]
        alive = np.ones(len(table), dtype=bool)
        alive[np.where(is_older, lost, visible)] = False
        self._keep(alive)
