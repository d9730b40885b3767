"""Compare the detections of two detectors: match them by IoU, measure boxes and scores. Needs numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from handeye.vision.boxes.iou import pairwise_iou
from handeye.vision.config import Config
from handeye.vision.runtime.detections import Detections

SAME_OBJECT_IOU = 0.5


class Tolerance(Config):
    """Limits for matched detections: corners in pixels of the image, or least IoU (`overlap`); scores in 0..1. None: no
    limit. outliers: the fraction of detections that may exceed the limits or have no partner."""

    boxes_px: float | None = None
    scores: float
    overlap: float | None = None
    outliers: float = 0.0


@dataclass(frozen=True, slots=True)
class Agreement:
    """Worst corner distance in pixels of the image, worst difference of scores, detections without a partner, number of
    pairs, least IoU (`overlap`) of a pair, and pairs that exceed the limits."""

    boxes_px: float = 0.0
    scores: float = 0.0
    unmatched: int = 0
    matched: int = 0
    overlap: float = 1.0
    far: int = 0

    def __add__(self, other: Agreement) -> Agreement:
        """Combine two images: the worse of the distances, the sums of the counts."""
        return Agreement(
            max(self.boxes_px, other.boxes_px),
            max(self.scores, other.scores),
            self.unmatched + other.unmatched,
            self.matched + other.matched,
            min(self.overlap, other.overlap),
            self.far + other.far,
        )

    def keeps_to(self, limit: Tolerance) -> bool:
        """Whether there are pairs, and no more outliers than the limit allows."""
        return self.matched > 0 and self.far + self.unmatched <= limit.outliers * (self.matched + self.unmatched)


def compare_detections(
    expected: Detections, got: Detections, sure_score: float, limit: Tolerance | None = None
) -> Agreement:
    """Match detections of the same class greedily by IoU and measure the pairs.

    Equal IoU: closest scores first, then closest corners, so that the order of the detections does not matter. A
    detection without a partner counts only if its score is above `sure_score`: near the threshold rounding decides
    which side has it. `limit` defines which pairs are far apart; without it none is.
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
    gaps_px, differences = corner_gaps[rows, columns], score_gaps[rows, columns]
    overlaps = overlap[rows, columns]
    far = int(_is_far(gaps_px, differences, overlaps, limit).sum()) if limit is not None else 0
    worst = [float(gaps.max(initial=0.0)) for gaps in (gaps_px, differences)]
    return Agreement(worst[0], worst[1], lonely, len(pairs), float(overlaps.min(initial=1.0)), far)


def _is_far(
    gaps_px: Float[np.ndarray, " K"],
    score_gaps: Float[np.ndarray, " K"],
    overlaps: Float[np.ndarray, " K"],
    limit: Tolerance,
) -> Bool[np.ndarray, " K"]:
    """Which pairs exceed the limit."""
    far = score_gaps > limit.scores
    if limit.boxes_px is not None:
        far |= gaps_px > limit.boxes_px
    if limit.overlap is not None:
        far |= overlaps < limit.overlap
    return far
