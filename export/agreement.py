"""How far two detectors are apart in what they finally say of an image. Needs numpy only: devices use it, too."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vision.boxes.overlap import pairwise_iou
from vision.runtime.detections import Detections

SAME_OBJECT_IOU = 0.5


@dataclass(frozen=True, slots=True)
class Agreement:
    """Worst distance of corners in pixels of the image, worst difference of scores, detections that only one has."""

    boxes_px: float = 0.0
    scores: float = 0.0
    unmatched: int = 0
    matched: int = 0

    def __add__(self, other: Agreement) -> Agreement:
        """Two images together: the worse of the distances, the sums of the counts."""
        return Agreement(
            max(self.boxes_px, other.boxes_px),
            max(self.scores, other.scores),
            self.unmatched + other.unmatched,
            self.matched + other.matched,
        )


def compare_detections(expected: Detections, got: Detections, sure_score: float) -> Agreement:
    """Pair detections of one class by overlap, the largest first, each once, and measure the pairs.

    Among equal overlaps the closest scores go first, then the closest corners, so that the order of the detections does
    not matter. A detection without a partner counts only when its score is above `sure_score`: near the threshold
    rounding decides which side has it.
    """
    overlap = np.minimum(pairwise_iou(expected.boxes_xyxy, got.boxes_xyxy), 1.0)
    overlap[expected.class_ids[:, None] != got.class_ids[None]] = 0
    score_gaps = np.abs(expected.scores[:, None] - got.scores[None])
    corner_gaps = np.abs(expected.boxes_xyxy[:, None] - got.boxes_xyxy[None]).max(axis=-1)
    candidates = np.nonzero(overlap > SAME_OBJECT_IOU)
    order = np.lexsort((corner_gaps[candidates], score_gaps[candidates], -overlap[candidates]))
    pairs: dict[int, int] = {}
    for row, column in np.argwhere(overlap > SAME_OBJECT_IOU)[order].tolist():
        if row not in pairs and column not in pairs.values():
            pairs[row] = column
    rows, columns = np.array(list(pairs), np.int64), np.array(list(pairs.values()), np.int64)
    sides = ((expected, rows), (got, columns))
    lonely = sum(int((np.delete(found.scores, taken) > sure_score).sum()) for found, taken in sides)
    boxes_px = np.abs(expected.boxes_xyxy[rows] - got.boxes_xyxy[columns]).max(initial=0.0)
    scores = np.abs(expected.scores[rows] - got.scores[columns]).max(initial=0.0)
    return Agreement(float(boxes_px), float(scores), lonely, len(pairs))
