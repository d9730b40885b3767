"""Rows to boxes: the formula by hand and in double precision, filtering, limits, and the official post-processing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from handeye.vision.boxes.nms import nms
from handeye.vision.runtime.decode import (
    DecodedRows,
    decode_boxes,
    decode_query_rows,
    decode_rows,
    decode_yolox_rows,
    grid_cells,
)
from handeye.vision.runtime.manifest import PostprocessedBoxes, QueryRows, YoloxRows

RAW, DECODED = YoloxRows(decoded=False), YoloxRows(decoded=True)


def parts(found: DecodedRows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return found.boxes_xyxy, found.scores, found.class_ids


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
    boxes, scores, class_ids = parts(decode_yolox_rows(rows, size, RAW, score_threshold=0.0))
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
    from_raw, from_decoded = (
        decode_yolox_rows(rows, size, RAW, 0.3),
        decode_yolox_rows(decoded, size, DECODED, 0.3),
    )
    assert_same_boxes(from_raw.boxes_xyxy, from_decoded.boxes_xyxy)
    for name in ("scores", "class_ids", "row_index"):
        np.testing.assert_array_equal(getattr(from_raw, name), getattr(from_decoded, name))


def assert_same_boxes(boxes: np.ndarray, expected: np.ndarray) -> None:
    """To the rounding of numpy's exponential, 4 units in the last place, which how the numbers lie in memory decides.

    Two such sides differ by 8 units; half of that moves a corner, whose own rounding is at most one more.
    """
    one_unit = np.finfo(np.float32).eps * np.abs(expected).max(initial=0)
    np.testing.assert_allclose(boxes, expected, rtol=0, atol=5 * one_unit)


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_filtering_first_changes_nothing(threshold: float):
    size = (64, 96)
    rows = random_rows(size, seed=2)
    everything, all_scores, _ = parts(decode_yolox_rows(rows, size, RAW, 0.0))
    boxes, scores, _ = parts(decode_yolox_rows(rows, size, RAW, threshold))
    np.testing.assert_array_equal(scores, all_scores[all_scores > threshold])
    assert_same_boxes(boxes, everything[all_scores > threshold])
    if threshold == 1.0:
        assert boxes.shape == (0, 4)


def test_numbers_that_are_not_finite_are_dropped():
    size = (64, 96)
    rows = random_rows(size)
    rows[0, :4], rows[1, 2], rows[2, 4] = np.nan, 1000.0, np.nan
    boxes, scores, _ = parts(decode_yolox_rows(rows, size, RAW, 0.0))
    assert np.isfinite(boxes).all()
    assert np.isfinite(scores).all()
    assert len(boxes) == len(rows) - 3


def test_rows_of_another_input_size_are_rejected():
    with pytest.raises(ValueError, match="expected 126 rows"):
        decode_yolox_rows(random_rows((96, 96)), (64, 96), RAW, 0.1)


@pytest.mark.parametrize("kind", ["eval", "demo", "strict"])
def test_official_postprocessing_is_reproduced(reference, kind: str):
    recorded = np.load(reference("prepost.npz"))
    confidence, iou_threshold, class_agnostic = recorded[f"yolox_nms.{kind}.args"]
    expected = recorded[f"yolox_nms.{kind}"]
    rows = recorded["yolox_nms.pred"][0]
    boxes, scores, class_ids = parts(decode_yolox_rows(rows, (640, 640), DECODED, float(confidence)))
    kept = nms(boxes, scores, None if class_agnostic else class_ids, float(iou_threshold))
    np.testing.assert_allclose(boxes[kept], expected[:, :4], atol=1e-4)
    np.testing.assert_allclose(scores[kept], expected[:, 4] * expected[:, 5], rtol=1e-6)
    np.testing.assert_array_equal(class_ids[kept], expected[:, 6])


ANY, ONE = QueryRows(), QueryRows(classes_per_query="one")
QUERIES = np.array(
    [
        [0.5, 0.5, 0.5, 0.5, 0.6, 0.1, 0.9],
        [0.25, 0.5, 0.1, 1.0, 0.2, 0.7, 0.0],
        [0.1, 0.1, 0.2, 0.2, 0.05, 0.3, 0.1],
    ],
    np.float32,
)
"""Three queries of a network with three classes."""


def test_a_query_may_be_several_objects_or_only_its_best():
    boxes, scores, class_ids = parts(decode_query_rows(QUERIES, (100, 200), ANY, 0.25))
    np.testing.assert_allclose(scores, [0.6, 0.9, 0.7, 0.3])
    assert class_ids.tolist() == [0, 2, 1, 1]
    np.testing.assert_allclose(
        boxes, [[50, 25, 150, 75], [50, 25, 150, 75], [40, 0, 60, 100], [0, 0, 40, 20]], atol=1e-5
    )
    boxes, scores, class_ids = parts(decode_query_rows(QUERIES, (100, 200), ONE, 0.5))
    np.testing.assert_allclose(scores, [0.9, 0.7])
    assert class_ids.tolist() == [2, 1]


def test_queries_come_best_first_and_are_not_suppressed():
    same = np.repeat(QUERIES[:1], 5, axis=0)
    boxes, scores, class_ids = parts(
        decode_rows(same, (64, 64), ANY, score_threshold=0.5, iou_threshold=0.1, max_detections=7)
    )
    np.testing.assert_allclose(scores, [0.9] * 5 + [0.6] * 2)
    assert class_ids.tolist() == [2] * 5 + [0] * 2
    assert len(boxes) == 7
    nothing = parts(decode_rows(same, (64, 64), ONE, score_threshold=0.95, iou_threshold=0.1, max_detections=7))
    assert nothing[0].shape == (0, 4)


def test_queries_that_are_not_finite_are_dropped():
    rows = QUERIES.copy()
    rows[0, 0], rows[1, 5] = np.inf, np.nan
    _, scores, _ = parts(decode_query_rows(rows, (64, 64), ANY, 0.15))
    np.testing.assert_allclose(scores, [0.2, 0.3])


def test_boxes_judged_already_are_only_sorted_and_filtered():
    rows = np.array([[1, 2, 3, 4, 0.4, 7], [5, 6, 7, 8, 0.9, 0], [5, 6, 7, 8, 0.2, 0]], np.float32)
    boxes, scores, class_ids = parts(
        decode_rows(rows, (64, 64), PostprocessedBoxes(), score_threshold=0.3, iou_threshold=0.1, max_detections=300)
    )
    assert boxes.tolist() == [[5, 6, 7, 8], [1, 2, 3, 4]]
    assert class_ids.tolist() == [0, 7]
    np.testing.assert_allclose(scores, [0.9, 0.4])


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def softmax_without_last(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return (powers / powers.sum(axis=-1, keepdims=True))[..., :-1]


@pytest.mark.parametrize("variant", ["", "_g"])
@pytest.mark.parametrize("network", ["rtdetr_r18vd", "rtdetr_r50vd", "rtdetrv2_r18vd", "dfine_n", "detr_resnet50"])
def test_official_postprocessing_of_queries_is_reproduced(reference, network: str, variant: str):
    recorded = np.load(reference(f"{network}{variant}.npz"))
    is_detr = network.startswith("detr")
    scores_of = softmax_without_last if is_detr else sigmoid
    rows = np.concatenate([recorded["pred_boxes"][0], scores_of(recorded["pred_logits"][0])], axis=1)
    # The image is 600 wide and 480 high; a network input of that very size leaves nothing to scale.
    boxes, scores, class_ids = parts(
        decode_rows(
            rows.astype(np.float32),
            (480, 600),
            ONE if is_detr else ANY,
            score_threshold=0.0,
            iou_threshold=0.0,
            max_detections=300,
        )
    )
    ours = np.column_stack([boxes, 100 * scores, 1000 * class_ids])
    theirs = np.column_stack(
        [recorded["post.boxes"].reshape(-1, 4), 100 * recorded["post.scores"].ravel()]
        + [1000 * recorded["post.labels"].ravel()]
    )
    assert ours.shape == theirs.shape
    assert (np.diff(scores) <= 0).all()
    distances = cdist(ours, theirs, "chebyshev")  # nearly equal scores may stand in another order
    assert distances[linear_sum_assignment(distances)].max() < 2e-3


def test_every_detection_knows_its_row():
    assert decode_query_rows(QUERIES, (64, 64), ANY, 0.25).row_index.tolist() == [0, 0, 1, 2]
    best_first = decode_rows(QUERIES, (64, 64), ONE, score_threshold=0.25, iou_threshold=0.5, max_detections=2)
    assert best_first.row_index.tolist() == [0, 1]
    rows = random_rows((64, 96), seed=3)
    found = decode_rows(rows, (64, 96), DECODED, score_threshold=0.3, iou_threshold=0.5, max_detections=300)
    np.testing.assert_array_equal(found.scores, rows[found.row_index, 4] * rows[found.row_index, 5:].max(axis=1))
