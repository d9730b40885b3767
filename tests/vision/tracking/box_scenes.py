"""What the tests of box trackers share: detections by hand, a walk of many boxes, and a tracker of each kind."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from handeye.vision.runtime.detections import Detections
from handeye.vision.tracking.box_tracker import BoxTracker, BoxTracks
from handeye.vision.tracking.bytetrack import ByteTrackConfig
from handeye.vision.tracking.image_tracker import BoxTrackerConfig, build_box_tracker
from handeye.vision.tracking.sort import OcSortConfig, SortConfig

CONFIGS: tuple[BoxTrackerConfig, ...] = (SortConfig(), ByteTrackConfig(), OcSortConfig())
NAMES = ("cube", "ball", "cup")
FRAME_S = 1.0 / 30.0


def detections(
    *boxes: Iterable[float], scores: Iterable[float] | float = 0.9, classes: int | list[int] = 0
) -> Detections:
    table = np.array(list(boxes), np.float32).reshape(-1, 4)
    return Detections(
        table,
        np.broadcast_to(np.asarray(scores, np.float32), len(table)).copy(),
        np.broadcast_to(np.asarray(classes, np.int64), len(table)).copy(),
        NAMES,
    )


def square(x: float, y: float = 100.0, side: float = 40.0) -> list[float]:
    """A box about (x, y)."""
    return [x - side / 2, y - side / 2, x + side / 2, y + side / 2]


class Scene:
    """Feeds a tracker frame by frame at its nominal rate."""

    def __init__(self, config: BoxTrackerConfig, frame_rate: float = 30.0) -> None:
        self.tracker: BoxTracker = build_box_tracker(config, frame_rate)
        self.stamp_s = 0.0

    def step(self, *boxes: Iterable[float], scores: Iterable[float] | float = 0.9, frames: float = 1.0) -> BoxTracks:
        tracks = self.tracker.update(detections(*boxes, scores=scores), self.stamp_s)
        self.stamp_s += frames * FRAME_S
        return tracks
