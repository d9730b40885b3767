"""Base class of the multi-object box trackers: the clock, the table of tracks and the life cycle that they share.

A track is tentative until its tracker reports it for the first time, which gives it its id; from then on it is
confirmed, or lost while nothing is seen of it. Ids count from 1 without gaps and are never used again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int64

from handeye.vision.errors import TrackingError
from handeye.vision.runtime.detections import Detections
from handeye.vision.tracking.box_kalman import BoxModel, BoxMotion, Rows
from handeye.vision.tracking.camera_motion import SimilarityMotion

Indices: TypeAlias = Int64[np.ndarray, " _"]
Mask: TypeAlias = Bool[np.ndarray, " _"]

NOMINAL_RATE = 30.0
"""Frames per second that the papers' settings are meant for."""
VOTE_MEMORY = 0.95
"""Factor on the class votes at each detection."""
_CLOCK_DIGITS = 6
"""Frame times are rounded to a millionth of a frame, so that stamps like 3 / 25 s make whole frames."""


@dataclass(frozen=True, slots=True, eq=False)
class BoxTracks:
    """Tracks as arrays in order of their ids: boxes in px of the image, the class by vote, the last detection's score.

    detection_index is the row of the detections that were given in this frame, -1 for a track that was not seen.
    """

    track_ids: Int64[np.ndarray, " N"]
    boxes_xyxy: Float[np.ndarray, "N 4"]
    scores: Float[np.ndarray, " N"]
    class_ids: Int64[np.ndarray, " N"]
    detection_index: Int64[np.ndarray, " N"]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.track_ids)

    @property
    def names(self) -> list[str]:
        """The class name of each track."""
        return [self.class_names[class_id] for class_id in self.class_ids]


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """The usable detections of one frame, best first, with their row among those that were given."""

    boxes: Float[np.ndarray, "M 4"]
    scores: Float[np.ndarray, " M"]
    class_ids: Int64[np.ndarray, " M"]
    index: Int64[np.ndarray, " M"]

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(slots=True, eq=False)
class TrackTable:
    """One row for each living track, oldest first. Times are frames of the nominal rate since the first update."""

    motion: BoxMotion
    track_ids: Int64[np.ndarray, " N"]
    """0 while tentative."""
    born: Float[np.ndarray, " N"]
    last_seen: Float[np.ndarray, " N"]
    streak: Int64[np.ndarray, " N"]
    """Detections in a row after the first one."""
    missed: Int64[np.ndarray, " N"]
    """Updates in a row without a detection."""
    scores: Float[np.ndarray, " N"]
    votes: Float[np.ndarray, "N C"]
    detection_index: Int64[np.ndarray, " N"]

    def __len__(self) -> int:
        return len(self.track_ids)

    def take(self, rows: Rows) -> TrackTable:
        """The chosen tracks."""
        return TrackTable(*(getattr(self, field.name)[rows] for field in fields(self)))

    def joined(self, newer: TrackTable) -> TrackTable:
        """These tracks and then the newer ones."""
        columns = [(getattr(self, field.name), getattr(newer, field.name)) for field in fields(self)[1:]]
        motion = self.motion.followed_by(newer.motion)
        return TrackTable(motion, *(np.concatenate(pair) for pair in columns))


class BoxTracker(ABC):
    """Gives detections identity from frame to frame, at any and varying frame times. See SORT, ByteTrack, OC-SORT."""

    def __init__(self, model: BoxModel, frame_rate: float) -> None:
        """frame_rate (1 / s) turns stamps into frames, in which the papers measure noise and age."""
        self._model = model
        self._frame_rate = frame_rate
        self._table = self._born(Seen(np.zeros((0, 4)), np.zeros(0), *np.zeros((2, 0), dtype=np.int64)), num_classes=1)
        self._class_names: tuple[str, ...] = ()
        self._stamp_s: float | None = None
        self._clock = 0.0
        self._num_updates = 0
        self._last_id = 0

    def update(
        self, detections: Detections, stamp_s: float, *, camera_motion: SimilarityMotion | None = None
    ) -> BoxTracks:
        """Take in the detections of the frame taken at stamp_s and return the confirmed tracks that were seen in it.

        camera_motion is how the image moved since the last frame. Boxes without area are left out. Raises
        TrackingError, and changes nothing, when stamp_s lies before the last one or a box is not finite.
        """
        seen = _usable(detections)
        dt_frames = self._elapsed_frames(stamp_s)
        self._stamp_s = stamp_s
        self._clock += dt_frames
        self._num_updates += 1
        self._class_names = detections.class_names
        self._table.detection_index[:] = -1
        reported = self._step(seen, dt_frames, camera_motion)
        return self._report(reported)

    def lost(self) -> BoxTracks:
        """The confirmed tracks that were not seen in the last frame, where they are expected to be."""
        return self._as_tracks(((self._table.track_ids > 0) & (self._table.missed > 0)).nonzero()[0])

    @abstractmethod
    def _step(self, seen: Seen, dt_frames: float, camera_motion: SimilarityMotion | None) -> Indices:
        """Predict, associate, correct, end and begin tracks; returns the rows of the table to report."""

    def _boxes(self, rows: Indices) -> Float[np.ndarray, "M 4"]:
        """What is reported as the place of these tracks."""
        return self._model.boxes(self._table.motion[rows])

    def _keep(self, rows: Mask) -> None:
        """Let all other tracks end."""
        if not rows.all():
            self._table = self._table.take(rows)

    def _elapsed_frames(self, stamp_s: float) -> float:
        if not np.isfinite(stamp_s):
            raise TrackingError(f"expected a finite time stamp, got {stamp_s}")
        dt_s = 0.0 if self._stamp_s is None else stamp_s - self._stamp_s
        if dt_s < 0.0:
            raise TrackingError(
                f"time runs backwards: frame at {stamp_s:.4f} s after one at {self._stamp_s:.4f} s; "
                "frames must come in order of their stamps"
            )
        return round(dt_s * self._frame_rate, _CLOCK_DIGITS)

    def _move(self, motion: BoxMotion, camera_motion: SimilarityMotion | None) -> Float[np.ndarray, "N 4"]:
        """Take over predicted states, carried along with the camera; returns where the tracks then are (px).

        Tracks that are no longer boxes end.
        """
        if camera_motion is not None:
            motion = self._model.carried(motion, camera_motion)
        self._table.motion = motion
        boxes = self._model.boxes(motion)
        is_box = ~np.isnan(boxes[:, 0])
        self._keep(is_box)
        return boxes[is_box]

    def _hit(self, rows: Indices, seen: Seen, detections: Indices) -> None:
        """These tracks were seen at these detections, all others were not seen."""
        table = self._table
        states = self._model.update(table.motion[rows], seen.boxes[detections])
        table.motion = table.motion.replaced(rows, states)
        table.last_seen[rows] = self._clock
        table.missed += 1
        table.missed[rows] = 0
        table.streak = np.where(table.missed > 0, 0, table.streak + 1)
        table.scores[rows] = seen.scores[detections]
        table.detection_index[rows] = seen.index[detections]
        self._vote(rows, seen.class_ids[detections], seen.scores[detections])

    def _begin(self, seen: Seen, detections: Indices) -> None:
        """A tentative track for each of these detections."""
        if not len(detections):
            return
        chosen = Seen(*(getattr(seen, field.name)[detections] for field in fields(seen)))
        self._table = self._table.joined(self._born(chosen, self._table.votes.shape[1]))
        rows = np.arange(len(self._table) - len(chosen), len(self._table))
        self._vote(rows, chosen.class_ids, chosen.scores)

    def _born(self, seen: Seen, num_classes: int) -> TrackTable:
        num = len(seen)
        now = np.full(num, self._clock) if num else np.zeros(0)
        return TrackTable(
            motion=self._model.start(seen.boxes),
            track_ids=np.zeros(num, dtype=np.int64),
            born=now,
            last_seen=now.copy(),
            streak=np.zeros(num, dtype=np.int64),
            missed=np.zeros(num, dtype=np.int64),
            scores=seen.scores,
            votes=np.zeros((num, num_classes)),
            detection_index=seen.index,
        )

    def _vote(self, rows: Indices, class_ids: Indices, scores: Float[np.ndarray, " M"]) -> None:
        """Each detection votes for its class by its score; older votes fade."""
        table = self._table
        missing = int(class_ids.max(initial=0)) + 1 - table.votes.shape[1]
        if missing > 0:
            table.votes = np.pad(table.votes, ((0, 0), (0, missing)))
        table.votes[rows] *= VOTE_MEMORY
        table.votes[rows, class_ids] += np.maximum(scores, 1e-6)

    def _report(self, rows: Indices) -> BoxTracks:
        ids = self._table.track_ids
        fresh = rows[ids[rows] == 0]
        ids[fresh] = np.arange(self._last_id + 1, self._last_id + 1 + len(fresh))
        self._last_id += len(fresh)
        return self._as_tracks(rows)

    def _as_tracks(self, rows: Indices) -> BoxTracks:
        table = self._table
        rows = rows[np.argsort(table.track_ids[rows])]
        return BoxTracks(
            track_ids=table.track_ids[rows],
            boxes_xyxy=self._boxes(rows),
            scores=table.scores[rows],
            class_ids=table.votes[rows].argmax(axis=1),
            detection_index=table.detection_index[rows],
            class_names=self._class_names,
        )


def as_score(threshold: float) -> float:
    """A threshold in the precision of scores, float32: a score of 0.6 is not above a threshold of 0.6."""
    return float(np.float32(threshold))


def _usable(detections: Detections) -> Seen:
    """Detections with area in a canonical order: by score, then by place.

    Raises TrackingError where a number is not finite or a box has x1 > x2 or y1 > y2.
    """
    boxes = detections.boxes_xyxy.astype(np.float64)
    scores = detections.scores.astype(np.float64)
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise TrackingError("expected finite boxes and scores, got NaN or infinity")
    size = boxes[:, 2:] - boxes[:, :2]
    if (size < 0.0).any():
        raise TrackingError("expected boxes x1 y1 x2 y2 with x1 <= x2 and y1 <= y2, got one turned inside out")
    order = (-scores).argsort(kind="stable")
    if (np.diff(scores[order]) == 0.0).any():
        order = np.lexsort([*boxes.T, -scores])
    has_area = (size[:, 0] > 0.0) & (size[:, 1] > 0.0)
    order = order[has_area[order]]
    return Seen(boxes[order], scores[order], detections.class_ids[order], order)
