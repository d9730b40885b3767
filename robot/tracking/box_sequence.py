"""A whole sequence of detections through a tracker, frame by frame as if it came from a camera."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from vision.tracking.box_tracker import NOMINAL_RATE, BoxTracker
from vision.tracking.mot_files import MotBoxes
from vision.runtime.detections import Detections

CLASS_NAMES = ("object",)
"""MOT files know no classes."""


@dataclass(frozen=True, slots=True, eq=False)
class TrackedSequence:
    """Confirmed tracks of every frame, and what each update took."""

    tracks: MotBoxes
    update_s: Float[np.ndarray, " F"]


def track_sequence(
    found: MotBoxes, tracker: BoxTracker, last_frame: int, frame_rate: float = NOMINAL_RATE
) -> TrackedSequence:
    """Track the detections of frames 1 to last_frame, frame_rate of them a second; the tracker must be new."""
    parts, update_s = [], []
    for number, frame in enumerate(found.by_frame(last_frame), start=1):
        with np.errstate(over="ignore"):  # the tracker refuses what becomes infinite
            boxes_xyxy = frame.boxes_xyxy.astype(np.float32)
        detections = Detections(
            boxes_xyxy,
            frame.scores.astype(np.float32),
            np.zeros(len(frame), np.int64),
            CLASS_NAMES,
        )
        started = time.perf_counter()
        tracks = tracker.update(detections, number / frame_rate)
        update_s.append(time.perf_counter() - started)
        parts.append(MotBoxes(np.full(len(tracks), number), tracks.track_ids, tracks.boxes_xyxy, tracks.scores))
    return TrackedSequence(MotBoxes.joined(parts), np.array(update_s, np.float64))
