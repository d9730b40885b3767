"""NMS: a case by hand, plain-loop references, torchvision, and the cases OpenCV gets differently."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision.ops

from handeye.vision.boxes.nms import BLOCK, nms

FIVE_BOXES = np.array(
    [[100, 100, 200, 200], [105, 105, 205, 205], [400, 400, 500, 500], [405, 405, 505, 505], [600, 600, 700, 700]],
    np.float32,
)
FIVE_SCORES = np.array([0.95, 0.90, 0.88, 0.85, 0.75], np.float32)


def crowd(num: int, num_classes: int, seed: int):
    """Boxes in clusters, as detectors give them: (boxes_xyxy, scores, class_ids)."""
    rng = np.random.default_rng(seed)
    cluster = rng.integers(0, max(1, num // 12), num)
    centres = rng.uniform(-200, 600, (num, 2))[cluster] + rng.normal(0, 5, (num, 2))
    sizes = rng.uniform(20, 120, (num, 2))[cluster] * rng.uniform(0.8, 1.2, (num, 2))
    boxes = np.concatenate((centres - sizes / 2, centres + sizes / 2), axis=1).astype(np.float32)
    return boxes, rng.uniform(0, 1, num).astype(np.float32), rng.integers(0, num_classes, num)


def one_iou(box, other) -> float:
    (left, top, right, bottom), (left2, top2, right2, bottom2) = map(float, box), map(float, other)
    width, height = min(right, right2) - max(left, left2), min(bottom, bottom2) - max(top, top2)
    shared = max(width, 0.0) * max(height, 0.0)
    return shared / ((right - left) * (bottom - top) + (right2 - left2) * (bottom2 - top2) - shared)


def suppress_by_loops(boxes, scores, class_ids, threshold):
    kept: list[int] = []
    for index in sorted(range(len(scores)), key=lambda row: -scores[row]):
        rivals = [other for other in kept if class_ids is None or class_ids[other] == class_ids[index]]
        if all(one_iou(boxes[index], boxes[other]) <= threshold for other in rivals):
            kept.append(index)
    return kept


def test_of_two_overlapping_pairs_and_a_single_box_the_best_three_stay():
    classes = np.zeros(5, np.int64)
    np.testing.assert_array_equal(nms(FIVE_BOXES, FIVE_SCORES, classes, 0.5), [0, 2, 4])


def test_input_order_does_not_matter():
    order = np.array([3, 4, 1, 0, 2])
    kept = nms(FIVE_BOXES[order], FIVE_SCORES[order], None, 0.5)
    np.testing.assert_array_equal(order[kept], [0, 2, 4])


@pytest.mark.parametrize("num", [1, 30, BLOCK, 3 * BLOCK + 7])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.65])
def test_it_agrees_with_plain_loops(num, threshold):
    boxes, scores, class_ids = crowd(num, 3, seed=num)
    assert nms(boxes, scores, class_ids, threshold).tolist() == suppress_by_loops(boxes, scores, class_ids, threshold)
    assert nms(boxes, scores, None, threshold).tolist() == suppress_by_loops(boxes, scores, None, threshold)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("num_classes", [1, 4, 80])
def test_torchvision_keeps_the_same_boxes(seed, num_classes):
    boxes, scores, class_ids = crowd(600, num_classes, seed)
    # torchvision separates classes by shifting boxes beyond the largest coordinate, which negative ones would undo.
    tensors = torch.from_numpy(boxes - boxes.min()), torch.from_numpy(scores)
    for classes in (class_ids, None):
        ours = nms(boxes, scores, classes, 0.45)
        if classes is None:
            theirs = torchvision.ops.nms(*tensors, 0.45)
        else:
            theirs = torchvision.ops.batched_nms(*tensors, torch.from_numpy(classes), 0.45)
        np.testing.assert_array_equal(ours, theirs.numpy())


def test_the_official_post_processing_of_yolox_is_reproduced(reference):
    recorded = np.load(reference("prepost.npz"))
    rows = recorded["yolox_nms.pred"][0].astype(np.float32)
    centres, sizes = rows[:, :2], rows[:, 2:4]
    boxes = np.concatenate((centres - sizes / 2, centres + sizes / 2), axis=1)
    class_ids, class_scores = rows[:, 5:].argmax(axis=1), rows[:, 5:].max(axis=1)
    scores = rows[:, 4] * class_scores
    for case in ("eval", "demo", "strict"):
        confidence, threshold, agnostic = recorded[f"yolox_nms.{case}.args"]
        chosen = np.flatnonzero(scores >= confidence)
        classes = None if agnostic else class_ids[chosen]
        kept = chosen[nms(boxes[chosen], scores[chosen], classes, float(threshold))]
        expected = recorded[f"yolox_nms.{case}"]
        assert len(kept) == len(expected) > 0
        np.testing.assert_allclose(boxes[kept], expected[:, :4], atol=1e-3)
        np.testing.assert_array_equal(class_ids[kept], expected[:, 6])


def test_other_classes_do_not_suppress_each_other_even_at_negative_coordinates():
    boxes = np.array([[-100, -100, 0, 0], [-99, -99, 1, 1]], np.float32)
    scores, class_ids = np.array([0.9, 0.8], np.float32), np.array([1, 0])
    assert nms(boxes, scores, class_ids, 0.3).tolist() == [0, 1]
    assert nms(boxes, scores, None, 0.3).tolist() == [0]


def test_an_overlap_of_just_the_threshold_stays():
    boxes = np.array([[0, 0, 3, 1], [1, 0, 4, 1]], np.float32)  # intersection 2, union 4
    scores = np.array([0.9, 0.8], np.float32)
    assert nms(boxes, scores, None, 0.5).tolist() == [0, 1]
    assert nms(boxes, scores, None, 0.4999).tolist() == [0]


def test_boxes_without_area_and_scores_of_zero_stay():
    boxes = np.array([[10, 10, 10, 10], [10, 10, 10, 10], [5, 5, 20, 20]], np.float32)
    scores = np.array([0.9, 0.0, 0.7], np.float32)
    assert nms(boxes, scores, np.zeros(3, np.int64), 0.5).tolist() == [0, 2, 1]


def test_of_equal_scores_the_earlier_box_stays():
    boxes = np.repeat(FIVE_BOXES[:1], 4, axis=0)
    assert nms(boxes, np.full(4, 0.5, np.float32), None, 0.5).tolist() == [0]


def test_no_boxes_give_no_boxes():
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)
    assert nms(*nothing, 0.5).shape == (0,)
