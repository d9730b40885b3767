"""Precision-recall curves against faster-coco-eval, and plots that open."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from handeye.vision.data.annotations import AnnotationSet, Categories, annotations_from_lists
from handeye.vision.data.coco import read_coco, write_coco
from handeye.vision.evaluation.average_precision import GroundTruth, evaluate_boxes
from handeye.vision.evaluation.plots import (
    PrecisionRecall,
    best_common_threshold,
    plot_f1,
    plot_losses,
    plot_metrics,
    plot_precision_recall,
    precision_recall,
)
from handeye.vision.runtime.detections import Detections


def one_image(boxes: list[list[float]], is_crowd: list[bool] | None = None) -> AnnotationSet:
    image = annotations_from_lists(1, "a.jpg", (100, 100), boxes, [0] * len(boxes), is_crowd=is_crowd)
    return AnnotationSet((image,), Categories((1,), ("cube",)))


def found(boxes: list[list[float]], scores: list[float]) -> Detections:
    count = len(scores)
    return Detections(
        np.array(boxes, np.float32).reshape(count, 4),
        np.array(scores, np.float32),
        np.zeros(count, np.int64),
        ("cube",),
    )


A, B, FAR = [10.0, 10.0, 30.0, 30.0], [50.0, 50.0, 80.0, 80.0], [0.0, 60.0, 9.0, 90.0]


def test_a_curve_worked_out_by_hand():
    """Hit, miss, hit: precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1."""
    (curve,) = precision_recall(one_image([A, B]), {1: found([A, FAR, B], [0.9, 0.8, 0.7])})
    np.testing.assert_allclose(curve.precision, [1, 1 / 2, 2 / 3])
    np.testing.assert_allclose(curve.recall, [1 / 2, 1 / 2, 1])
    # Recalls 0 to 0.50 are 51 of the 101 points.
    assert curve.average_precision == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)


def test_an_object_is_hit_once():
    (curve,) = precision_recall(one_image([A]), {1: found([A, A], [0.9, 0.8])})
    np.testing.assert_allclose(curve.precision, [1, 1 / 2])


def test_crowds_count_neither_way():
    annotations = one_image([A, [40.0, 40.0, 100.0, 100.0]], is_crowd=[False, True])
    (curve,) = precision_recall(annotations, {1: found([B, A], [0.9, 0.8])})
    np.testing.assert_allclose(curve.precision, [1])
    np.testing.assert_allclose(curve.recall, [1])


def test_f1_worked_out_by_hand():
    """Hit, miss, hit: F1 is 2/3, 1/2 and 4/5 from the three scores on, and 0 above them all."""
    (curve,) = precision_recall(one_image([A, B]), {1: found([A, FAR, B], [0.875, 0.75, 0.5])})
    thresholds = np.array([1.0, 0.875, 0.8, 0.75, 0.6, 0.5, 0.0])
    np.testing.assert_allclose(curve.f1(thresholds), [0, 2 / 3, 2 / 3, 1 / 2, 1 / 2, 4 / 5, 4 / 5])
    assert curve.best_threshold == 0.5
    precision, recall = curve.at(np.array([0.875, 0.75]))
    np.testing.assert_allclose(precision, [1, 1 / 2])
    np.testing.assert_allclose(recall, [1 / 2, 1 / 2])


def test_equal_scores_are_kept_or_dropped_together():
    """From 0.5 on all three are kept: a threshold between the first hit and the misses of its score does not exist."""
    (curve,) = precision_recall(one_image([A]), {1: found([A, FAR, B], [0.5, 0.5, 0.5])})
    assert curve.f1(np.array([0.5]))[0] == pytest.approx(2 * (1 / 3) / (4 / 3))


def test_the_common_threshold_is_that_of_the_mean():
    one = PrecisionRecall("one", np.array([1.0, 0.5]), np.array([1.0, 1.0]), np.array([0.9, 0.2]))
    other = PrecisionRecall("other", np.array([1.0, 1.0]), np.array([0.5, 1.0]), np.array([0.8, 0.4]))
    # One class is perfect above 0.2, the other up to 0.4.
    assert best_common_threshold([one, other]) == pytest.approx(0.201)
    assert best_common_threshold([]) == 0.0


def test_limits():
    annotations = one_image([A])
    (nothing,) = precision_recall(annotations, {1: found([], [])})
    assert nothing.average_precision == 0.0
    (wrong,) = precision_recall(annotations, {1: found([FAR], [0.9])})
    assert wrong.average_precision == 0.0
    assert wrong.best_threshold == nothing.best_threshold == 1.0
    (perfect,) = precision_recall(annotations, {1: found([A], [0.1])})
    assert perfect.average_precision == 1.0
    assert precision_recall(one_image([]), {1: found([FAR], [0.9])}) == []


def test_areas_agree_with_faster_coco_eval_on_real_annotations(coco_val2014):
    """Noisy copies of COCO's boxes, some missing, some of a wrong class, with crowds in the images."""
    path = coco_val2014 / "instances_val2014_100.json"
    annotations, rng = read_coco(path), np.random.default_rng(0)
    num_classes = len(annotations.categories)
    detections = {}
    for image in annotations.images:
        keep = rng.random(len(image.boxes)) < 0.8
        boxes = image.boxes.xyxy[keep]
        sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
        boxes = (boxes + rng.normal(0, 0.12, boxes.shape) * sides).astype(np.float32)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        swapped = rng.random(len(boxes)) < 0.1
        class_ids = np.where(swapped, rng.integers(0, num_classes, len(boxes)), image.boxes.class_ids[keep])
        scores = rng.random(len(boxes)).astype(np.float32)
        order = np.argsort(-scores)
        detections[image.image_id] = Detections(
            boxes[order], scores[order], class_ids[order].astype(np.int64), annotations.categories.names
        )
    expected = evaluate_boxes(GroundTruth.read(path), detections).AP50_of_class
    curves = precision_recall(annotations, detections)
    assert len(curves) > 30
    for curve in curves:
        assert curve.average_precision == pytest.approx(expected[curve.class_name], abs=1e-6), curve.class_name


def test_written_sets_give_the_same_figure(tmp_path):
    annotations = one_image([A, B])
    write_coco(tmp_path / "a.json", annotations)
    detections = {1: found([A, FAR, B], [0.9, 0.8, 0.7])}
    (curve,) = precision_recall(annotations, detections)
    assert pytest.approx(curve.average_precision) == evaluate_boxes(GroundTruth(annotations), detections).AP50


def test_plots_are_image_files(tmp_path):
    steps = [{"step": step, "lr": 0.1, "losses": {"total": 3.0, "box": 2.0}} for step in range(70)]
    steps.append({"step": 70, "lr": 0.1, "losses": {"total": 3.0, "box": 2.0, "l1": 1.0}})
    plot_losses(tmp_path / "losses.png", steps)
    plot_losses(tmp_path / "no_losses.png", [])
    plot_metrics(tmp_path / "metrics.png", [{"epoch": 1, "AP": 0.1, "AP50": 0.3, "AP75": 0.05}])
    curve = PrecisionRecall("cube", np.array([1.0, 0.5]), np.array([0.5, 0.5]), np.array([0.9, 0.8]))
    plot_precision_recall(tmp_path / "curves.png", [curve])
    plot_precision_recall(tmp_path / "no_curves.png", [])
    plot_f1(tmp_path / "f1.png", [curve])
    plot_f1(tmp_path / "no_f1.png", [])
    for path in tmp_path.iterdir():
        picture = cv2.imread(str(path))
        assert picture.shape[0] > 300
        assert picture.std() > 1, path.name
