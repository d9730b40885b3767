"""Decode a network's output rows to boxes, scores and classes: rows of grid cells, of queries, or finished boxes.

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

CLEAR_FACTOR = 2.0
"""How many times farther from their cells boxes must lie by one reading than by the other."""


@dataclass(frozen=True, slots=True, eq=False)
class DecodedRows:
    """Boxes in pixels of the network input, with their scores and classes, and the row that each came from."""

    boxes_xyxy: Float32[np.ndarray, "N 4"]
    scores: Float32[np.ndarray, " N"]
    class_ids: Int64[np.ndarray, " N"]
    row_index: Int64[np.ndarray, " N"]

    def __getitem__(self, chosen: Bool[np.ndarray, " N"] | Int64[np.ndarray, " M"]) -> DecodedRows:
        """The chosen ones: a mask or indices."""
        return DecodedRows(self.boxes_xyxy[chosen], self.scores[chosen], self.class_ids[chosen], self.row_index[chosen])


def decode_rows(
    rows: Float32[np.ndarray, "rows channels"],
    input_hw: tuple[int, int],
    layout: OutputLayout,
    *,
    score_threshold: float,
    iou_threshold: float,
    max_detections: int,
) -> DecodedRows:
    """Decode, filter by score, run NMS where the layout needs it: at most `max_detections` boxes, the best first.

    NMS with iou_threshold is for the boxes of grid cells; queries and boxes that the file has filtered need none.
    """
    match layout:
        case YoloxRows():
            found = decode_yolox_rows(rows, input_hw, layout, score_threshold)
            return found[nms(found.boxes_xyxy, found.scores, found.class_ids, iou_threshold)[:max_detections]]
        case QueryRows():
            found = decode_query_rows(rows, input_hw, layout, score_threshold)
        case PostprocessedBoxes():
            found = _decode_postprocessed_boxes(rows, score_threshold)
        case _:
            assert_never(layout)
    return found[np.argsort(-found.scores, kind="stable")[:max_detections]]


def decode_query_rows(
    rows: Float32[np.ndarray, "queries channels"],
    input_hw: tuple[int, int],
    layout: QueryRows,
    score_threshold: float,
) -> DecodedRows:
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
    found = DecodedRows(boxes, class_scores[queries, class_ids], class_ids.astype(np.int64), queries.astype(np.int64))
    return found[np.flatnonzero(np.isfinite(boxes).all(axis=1))]


def decode_yolox_rows(
    rows: Float32[np.ndarray, "cells channels"],
    input_hw: tuple[int, int],
    layout: YoloxRows,
    score_threshold: float,
) -> DecodedRows:
    """The detections of cells whose score is above the threshold, in the order of the rows.

    score = objectness * best class score; every row has one class. Raises ValueError when the rows do not belong to
    an input of that size. Rows with a number that is not finite are dropped.
    """
    cells, strides = grid_cells(input_hw, layout.strides)
    if not layout.decoded and len(rows) != len(cells):
        raise ValueError(f"expected {len(cells)} rows for an input of {input_hw} and strides {layout.strides}")
    # A class score is at most 1, so a row cannot pass with an objectness below the threshold.
    candidates = np.flatnonzero(rows[:, 4] > score_threshold)
    class_scores = rows[candidates, 5:]
    class_ids = class_scores.argmax(axis=1)
    scores = rows[candidates, 4] * class_scores[np.arange(len(candidates)), class_ids]
    passed = scores > score_threshold
    chosen = candidates[passed]
    boxes = rows[chosen, :4]
    if not layout.decoded:
        boxes = decode_boxes(boxes, cells[chosen], strides[chosen])
    found = DecodedRows(
        cxcywh_to_xyxy(boxes), scores[passed], class_ids[passed].astype(np.int64), chosen.astype(np.int64)
    )
    return found[np.flatnonzero(np.isfinite(boxes).all(axis=1))]


def decode_boxes(
    raw: Float32[np.ndarray, "N 4"], cells: Float32[np.ndarray, "N 2"], strides: Float32[np.ndarray, "N 1"]
) -> Float32[np.ndarray, "N 4"]:
    """Raw head values tx, ty, tw, th of cells (column, row) -> cx, cy, w, h in pixels of the network input."""
    with np.errstate(over="ignore"):
        return np.concatenate([(raw[:, :2] + cells) * strides, np.exp(raw[:, 2:]) * strides], axis=1)


def boxes_are_decoded(
    rows: Float32[np.ndarray, "cells channels"], input_hw: tuple[int, int], strides: tuple[int, ...]
) -> bool | None:
    """Whether the rows of a YOLOX network hold boxes in pixels, not raw head values; None where they could be either.

    tx and ty of a trained head stay within a few cells of 0. So raw ones lie near 0 whatever their cell, while decoded
    centres lie near their cells, and no decoded size is negative.
    """
    cells, stride = grid_cells(input_hw, strides)
    if len(rows) != len(cells):
        return None
    boxes = rows[:, :4].astype(np.float64)
    finite = np.isfinite(boxes).all(axis=1)
    if not finite.any():
        return None
    boxes, cells, stride = boxes[finite], cells[finite], stride[finite]
    offset_if_raw = np.median(np.abs(boxes[:, :2] - 0.5))
    offset_if_decoded = np.median(np.abs(boxes[:, :2] / stride - cells - 0.5))
    looks_decoded = offset_if_decoded < offset_if_raw
    is_clear = max(offset_if_raw, offset_if_decoded) > CLEAR_FACTOR * min(offset_if_raw, offset_if_decoded)
    return bool(looks_decoded) if is_clear and not (looks_decoded and (boxes[:, 2:] < 0).any()) else None


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


def _decode_postprocessed_boxes(rows: Float32[np.ndarray, "boxes 6"], score_threshold: float) -> DecodedRows:
    passed = np.flatnonzero((rows[:, 4] > score_threshold) & np.isfinite(rows).all(axis=1))
    boxes_xyxy, scores, class_ids = rows[passed, :4], rows[passed, 4], rows[passed, 5]
    return DecodedRows(boxes_xyxy, scores, class_ids.astype(np.int64), passed.astype(np.int64))
