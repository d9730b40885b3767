"""From the rows of a YOLOX network to boxes, scores and classes.

Rows are filtered by score before anything else is computed: of the 3549 cells at 416 x 416 usually a few dozen
survive, and only these pay for the exponentials.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Float32, Int64

from vision.boxes.formats import cxcywh_to_xyxy
from vision.runtime.manifest import YoloxRows


def read_yolox_rows(
    rows: Float32[np.ndarray, "cells channels"],
    input_hw: tuple[int, int],
    layout: YoloxRows,
    score_threshold: float,
) -> tuple[Float32[np.ndarray, "N 4"], Float32[np.ndarray, " N"], Int64[np.ndarray, " N"]]:
    """Boxes (xyxy, pixels of the network input), scores and classes of the rows above the threshold.

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
    finite = np.isfinite(boxes).all(axis=1)
    return cxcywh_to_xyxy(boxes)[finite], scores[passed][finite], class_ids[passed][finite].astype(np.int64)


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
