"""From the rows of a network to boxes, scores and classes: rows of cells, of queries, or boxes judged already.

Rows are filtered by score before anything else is computed: of the 3549 cells at 416 x 416 usually a few dozen
survive, and only these pay for the exponentials.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float32, Int64
from typing_extensions import assert_never

from handeye.vision.boxes.formats import cxcywh_to_xyxy
from handeye.vision.boxes.nms import nms
from handeye.vision.runtime.manifest import OutputLayout, PostprocessedBoxes, QueryRows, YoloxRows


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What rows say: boxes in pixels of the network input, and which row each of them came from."""

    boxes_xyxy: Float32[np.ndarray, "N 4"]
    scores: Float32[np.ndarray, " N"]
    class_ids: Int64[np.ndarray, " N"]
    row_index: Int64[np.ndarray, " N"]

    def __getitem__(self, chosen: Bool[np.ndarray, " N"] | Int64[np.ndarray, " M"]) -> Found:
        """The chosen ones: a mask or indices."""
        return Found(self.boxes_xyxy[chosen], self.scores[chosen], self.class_ids[chosen], self.row_index[chosen])


def read_rows(
    rows: Float32[np.ndarray, "rows channels"],
    input_hw: tuple[int, int],
    layout: OutputLayout,
    *,
    score_threshold: float,
    iou_threshold: float,
    most: int,
) -> Found:
    """What is detected in the end: at most `most` boxes above the score threshold, the best first.

    iou_threshold suppresses repetitions among the boxes of cells; queries and boxes judged already are not suppressed.
    """
    match layout:
        case YoloxRows():
            found = read_yolox_rows(rows, input_hw, layout, score_threshold)
            return found[nms(found.boxes_xyxy, found.scores, found.class_ids, iou_threshold)[:most]]
        case QueryRows():
            found = read_query_rows(rows, input_hw, layout, score_threshold)
        case PostprocessedBoxes():
            found = _read_labelled_boxes(rows, score_threshold)
        case _:
            assert_never(layout)
    return found[np.argsort(-found.scores, kind="stable")[:most]]


def read_query_rows(
    rows: Float32[np.ndarray, "queries channels"],
    input_hw: tuple[int, int],
    layout: QueryRows,
    score_threshold: float,
) -> Found:
    """The detections of queries whose score is above the threshold, in the order of the rows.

    Where a query may be of any number of classes, it appears once for each that passes: the published post-processing
    of RT-DETR takes the 300 best of all pairs of a query and a class. Rows with a number that is not finite are
    dropped.
    """
    class_scores = rows[:, 4:]
    if layout.classes_per_query == "any":
        queries, class_ids = np.nonzero(class_scores > score_threshold)
    else:
        best = class_scores.argmax(axis=1)
        queries = np.flatnonzero(class_scores[np.arange(len(rows)), best] > score_threshold)
        class_ids = best[queries]
    height, width = input_hw
    boxes = cxcywh_to_xyxy(rows[queries, :4]) * np.array([width, height, width, height], np.float32)
    found = Found(boxes, class_scores[queries, class_ids], class_ids.astype(np.int64), queries.astype(np.int64))
    return found[np.flatnonzero(np.isfinite(boxes).all(axis=1))]


def read_yolox_rows(
    rows: Float32[np.ndarray, "cells channels"],
    input_hw: tuple[int, int],
    layout: YoloxRows,
    score_threshold: float,
) -> Found:
    """The detections of cells whose score is above the threshold, in the order of the rows.

    score = objectness * best class score; every row has one class. Raises ValueError when the rows do not belong to
    an input of that size. Rows with a number that is not finite are dropped.
    """
    cells, strides = grid_cells(input_hw, layout.strides)
    if not layout.decoded and len(rows) != len(cells):
        raise ValueError(f"expected {len(cells)} rows for an input of {input_hw} and strides {layout.strides}")
    # A class score is at most 1, so a row can not pass with an objectness below the threshold.
    hopeful = np.flatnonzero(rows[:, 4] > score_threshold)
    class_scores = rows[hopeful, 5:]
    class_ids = class_scores.argmax(axis=1)
    scores = rows[hopeful, 4] * class_scores[np.arange(len(hopeful)), class_ids]
    passed = scores > score_threshold
    chosen = hopeful[passed]
    boxes = rows[chosen, :4]
    if not layout.decoded:
        boxes = decode_boxes(boxes, cells[chosen], strides[chosen])
    found = Found(cxcywh_to_xyxy(boxes), scores[passed], class_ids[passed].astype(np.int64), chosen.astype(np.int64))
    return found[np.flatnonzero(np.isfinite(boxes).all(axis=1))]


def decode_boxes(
    raw: Float32[np.ndarray, "N 4"], cells: Float32[np.ndarray, "N 2"], strides: Float32[np.ndarray, "N 1"]
) -> Float32[np.ndarray, "N 4"]:
    """Raw head values tx, ty, tw, th of cells (column, row) -> cx, cy, w, h in pixels of the network input."""
    with np.errstate(over="ignore"):
        return np.concatenate([(raw[:, :2] + cells) * strides, np.exp(raw[:, 2:]) * strides], axis=1)


@lru_cache(maxsize=8)
def grid_cells(
    input_hw: tuple[int, int], strides: tuple[int, ...]
) -> tuple[Float32[np.ndarray, "cells 2"], Float32[np.ndarray, "cells 1"]]:
    """Column and row of every cell, and its stride, in the order of the rows: by stride, then row by row."""
    cells, sizes = [], []
    for stride in strides:
        height, width = -(-input_hw[0] // stride), -(-input_hw[1] // stride)
        rows, columns = np.mgrid[:height, :width]
        cells.append(np.stack([columns.ravel(), rows.ravel()], axis=1).astype(np.float32))
        sizes.append(np.full((height * width, 1), stride, np.float32))
    return np.concatenate(cells), np.concatenate(sizes)


def _read_labelled_boxes(rows: Float32[np.ndarray, "boxes 6"], score_threshold: float) -> Found:
    passed = np.flatnonzero((rows[:, 4] > score_threshold) & np.isfinite(rows).all(axis=1))
    boxes_xyxy, scores, class_ids = rows[passed, :4], rows[passed, 4], rows[passed, 5]
    return Found(boxes_xyxy, scores, class_ids.astype(np.int64), passed.astype(np.int64))
