"""Rows to boxes: the formula by hand and in double precision, filtering, limits, and the official post-processing."""

from __future__ import annotations

import numpy as np
import pytest

from vision.boxes.suppression import suppress
from vision.runtime.decode import decode_boxes, grid_cells, read_yolox_rows
from vision.runtime.manifest import YoloxRows

RAW, DECODED = YoloxRows(decoded=False), YoloxRows(decoded=True)


def random_rows(size_hw: tuple[int, int], num_classes: int = 5, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows = rng.normal(0, 1, (len(grid_cells(size_hw, (8, 16, 32))[0]), 5 + num_classes))
    rows[:, 4:] = rng.random(rows[:, 4:].shape)
    return rows.astype(np.float32)


def test_cells_are_ordered_by_stride_then_row_by_row():
    cells, strides = grid_cells((64, 96), (8, 16, 32))
    assert len(cells) == 8 * 12 + 4 * 6 + 2 * 3
    assert cells[:2].tolist() == [[0, 0], [1, 0]]
    assert cells[12].tolist() == [0, 1]
    assert cells[96 + 24 - 1].tolist() == [5, 3]
    assert strides[[0, 95, 96, 119, 120, -1], 0].tolist() == [8, 8, 16, 16, 32, 32]
    assert len(grid_cells((416, 416), (8, 16, 32))[0]) == 3549
    assert len(grid_cells((640, 640), (8, 16, 32))[0]) == 8400


def test_one_cell_by_hand():
    boxes = decode_boxes(
        np.array([[0.5, 0.25, np.log(2), 0.0]], np.float32),
        np.array([[3, 1]], np.float32),
        np.array([[16]], np.float32),
    )
    np.testing.assert_allclose(boxes, [[56, 20, 32, 16]], rtol=1e-6)


def test_every_row_follows_the_formula_in_double_precision():
    size = (64, 96)
    rows = random_rows(size)
    boxes, scores, class_ids = read_yolox_rows(rows, size, RAW, score_threshold=0.0)
    exact = rows.astype(np.float64)
    cells, strides = grid_cells(size, (8, 16, 32))
    centres, sides = (exact[:, :2] + cells) * strides, np.exp(exact[:, 2:4]) * strides
    np.testing.assert_allclose(
        boxes, np.concatenate([centres - sides / 2, centres + sides / 2], 1), rtol=1e-5, atol=1e-4
    )
    np.testing.assert_allclose(scores, exact[:, 4] * exact[:, 5:].max(axis=1), rtol=1e-6)
    np.testing.assert_array_equal(class_ids, exact[:, 5:].argmax(axis=1))
    assert boxes.dtype == scores.dtype == np.float32
    assert class_ids.dtype == np.int64


def test_decoded_rows_give_the_same_as_raw_rows():
    size = (64, 96)
    rows = random_rows(size)
    decoded = rows.copy()
    decoded[:, :4] = decode_boxes(rows[:, :4], *grid_cells(size, (8, 16, 32)))
    for from_raw, from_decoded in zip(
        read_yolox_rows(rows, size, RAW, 0.3), read_yolox_rows(decoded, size, DECODED, 0.3), strict=True
    ):
        np.testing.assert_array_equal(from_raw, from_decoded)


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_filtering_first_changes_nothing(threshold: float):
    size = (64, 96)
    rows = random_rows(size, seed=2)
    everything, all_scores, _ = read_yolox_rows(rows, size, RAW, 0.0)
    boxes, scores, _ = read_yolox_rows(rows, size, RAW, threshold)
    np.testing.assert_array_equal(scores, all_scores[all_scores > threshold])
    np.testing.assert_array_equal(boxes, everything[all_scores > threshold])
    if threshold == 1.0:
        assert boxes.shape == (0, 4)


def test_numbers_that_are_not_finite_are_dropped():
    size = (64, 96)
    rows = random_rows(size)
    rows[0, :4], rows[1, 2], rows[2, 4] = np.nan, 1000.0, np.nan
    boxes, scores, _ = read_yolox_rows(rows, size, RAW, 0.0)
    assert np.isfinite(boxes).all()
    assert np.isfinite(scores).all()
    assert len(boxes) == len(rows) - 3


def test_rows_of_another_input_size_are_refused():
    with pytest.raises(ValueError, match="expected 126 rows"):
        read_yolox_rows(random_rows((96, 96)), (64, 96), RAW, 0.1)


@pytest.mark.parametrize("kind", ["eval", "demo", "strict"])
def test_official_postprocessing_is_reproduced(shared, kind: str):
    recorded = np.load(shared("reference/prepost.npz"))
    confidence, iou_threshold, class_agnostic = recorded[f"yolox_nms.{kind}.args"]
    expected = recorded[f"yolox_nms.{kind}"]
    rows = recorded["yolox_nms.pred"][0]
    boxes, scores, class_ids = read_yolox_rows(rows, (640, 640), DECODED, float(confidence))
    kept = suppress(boxes, scores, None if class_agnostic else class_ids, float(iou_threshold))
    np.testing.assert_allclose(boxes[kept], expected[:, :4], atol=1e-4)
    np.testing.assert_allclose(scores[kept], expected[:, 4] * expected[:, 5], rtol=1e-6)
    np.testing.assert_array_equal(class_ids[kept], expected[:, 6])
