"""Non-maximum suppression in numpy, for the run time: of boxes that overlap, only the best stays.

Greedy NMS is algorithm 1 of chapter 23; soft-NMS is Bodla et al. 2017 (arXiv:1704.04503).
OpenCV's NMSBoxesBatched is not used: it counts two boxes without area as one (IoU 1 where 0/0 means no overlap),
drops scores of exactly 0 and rounds the threshold to single precision. Measured at 300 candidates: 0.3 ms here,
0.2 ms there.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64

from handeye.vision.boxes.iou import pairwise_iou

BLOCK = 128
"""Boxes compared with each other at a time: a full matrix of thousands of boxes would be mostly wasted."""


def nms(
    boxes_xyxy: Float32[np.ndarray, "N 4"],
    scores: Float32[np.ndarray, " N"],
    class_ids: Int64[np.ndarray, " N"] | None,
    iou_threshold: float,
) -> Int64[np.ndarray, " M"]:
    """Indices of the boxes that stay, best score first (of equal scores the earlier box).

    A box goes when it overlaps a better one of its class by more than iou_threshold; class_ids None compares all
    boxes whatever their class.
    """
    remaining = np.argsort(-scores, kind="stable")
    kept = []
    while len(remaining):
        block, remaining = remaining[:BLOCK], remaining[BLOCK:]
        block = block[_greedy(_overlapping(block, block, boxes_xyxy, class_ids, iou_threshold))]
        kept.append(block)
        if len(remaining):
            rivals = _overlapping(block, remaining, boxes_xyxy, class_ids, iou_threshold)
            remaining = remaining[~rivals.any(axis=0)]
    return np.concatenate(kept) if kept else remaining


def soft_nms_linear(
    boxes_xyxy: Float32[np.ndarray, "N 4"],
    scores: Float32[np.ndarray, " N"],
    class_ids: Int64[np.ndarray, " N"] | None,
    iou_threshold: float,
    *,
    score_threshold: float = 0.001,
) -> tuple[Int64[np.ndarray, " M"], Float32[np.ndarray, " M"]]:
    """Soft-NMS: each better box of the class that overlaps by more than iou_threshold lowers a score by 1 - IoU.

    Returns the boxes whose score stays above score_threshold, best first, and these scores (Bodla et al., eq. 2).
    """
    return _soften(
        boxes_xyxy, scores, class_ids, lambda ious: np.where(ious > iou_threshold, 1 - ious, 1.0), score_threshold
    )


def soft_nms_gaussian(
    boxes_xyxy: Float32[np.ndarray, "N 4"],
    scores: Float32[np.ndarray, " N"],
    class_ids: Int64[np.ndarray, " N"] | None,
    sigma: float = 0.5,
    *,
    score_threshold: float = 0.001,
) -> tuple[Int64[np.ndarray, " M"], Float32[np.ndarray, " M"]]:
    """Soft-NMS: each better box of the class lowers a score by exp(-IoU^2 / sigma).

    Returns the boxes whose score stays above score_threshold, best first, and these scores (Bodla et al., eq. 3).
    """
    if sigma <= 0:
        raise ValueError(f"expected a sigma above 0, got {sigma}")
    return _soften(boxes_xyxy, scores, class_ids, lambda ious: np.exp(-(ious**2) / sigma), score_threshold)


def _overlapping(
    rows: Int64[np.ndarray, " R"],
    columns: Int64[np.ndarray, " S"],
    boxes_xyxy: Float32[np.ndarray, "N 4"],
    class_ids: Int64[np.ndarray, " N"] | None,
    iou_threshold: float,
) -> Bool[np.ndarray, "R S"]:
    """Which box of `rows` overlaps which of `columns`, class by class unless class_ids is None."""
    overlapping = pairwise_iou(boxes_xyxy[rows], boxes_xyxy[columns]) > iou_threshold
    if class_ids is None:
        return overlapping
    return overlapping & (class_ids[rows, None] == class_ids[None, columns])


def _greedy(overlapping: Bool[np.ndarray, "R R"]) -> Bool[np.ndarray, " R"]:
    """Which boxes stay, given who overlaps whom in the order of their scores."""
    stays = np.ones(len(overlapping), bool)
    worse = np.triu(overlapping, 1)
    for box in np.flatnonzero(worse.any(axis=1)):
        if stays[box]:
            stays &= ~worse[box]
    return stays


def _soften(
    boxes_xyxy: Float32[np.ndarray, "N 4"],
    scores: Float32[np.ndarray, " N"],
    class_ids: Int64[np.ndarray, " N"] | None,
    decay: Callable[[Float[np.ndarray, " R"]], Float[np.ndarray, " R"]],
    score_threshold: float,
) -> tuple[Int64[np.ndarray, " M"], Float32[np.ndarray, " M"]]:
    remaining, scores = np.arange(len(scores)), scores.copy()
    kept = []
    while len(remaining := remaining[scores[remaining] > score_threshold]):
        best = remaining[np.argmax(scores[remaining])]
        kept.append(best)
        remaining = remaining[remaining != best]
        rivals = remaining if class_ids is None else remaining[class_ids[remaining] == class_ids[best]]
        scores[rivals] *= decay(pairwise_iou(boxes_xyxy[best][None], boxes_xyxy[rivals])[0])
    indices = np.array(kept, dtype=np.int64)
    return indices, scores[indices]
