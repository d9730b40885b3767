"""The confusion matrix in a case written out, and what holds for every one."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from handeye.vision.data.annotations import AnnotationSet, Categories, annotations_from_lists
from handeye.vision.evaluation.plots import confusion_matrix, plot_confusion, precision_recall
from handeye.vision.runtime.detections import Detections

NAMES = ("cube", "ball", "cup")
A, B = [10.0, 10.0, 30.0, 30.0], [50.0, 50.0, 80.0, 80.0]
C, FAR = [60.0, 5.0, 90.0, 25.0], [0.0, 60.0, 9.0, 90.0]


def found(boxes: list, scores: list, class_ids: list) -> Detections:
    boxes_xyxy = np.array(boxes, np.float32).reshape(len(scores), 4)
    return Detections(boxes_xyxy, np.array(scores, np.float32), np.array(class_ids, np.int64), NAMES)


def random_case(seed: int) -> tuple[AnnotationSet, dict[int, Detections]]:
    """Twenty images of up to six objects, some crowds; detections near objects or anywhere, some of a wrong class."""
    rng, images, detections = np.random.default_rng(seed), [], {}
    for image_id in range(20):
        corners = rng.uniform(0, 70, (rng.integers(0, 7), 2))
        boxes = np.hstack([corners, corners + rng.uniform(8, 30, corners.shape)])
        class_ids = rng.integers(0, 3, len(boxes))
        is_crowd = (rng.random(len(boxes)) < 0.15).tolist()
        images.append(
            annotations_from_lists(
                image_id, f"{image_id}.jpg", (100, 100), boxes.tolist(), class_ids.tolist(), is_crowd=is_crowd
            )
        )
        near = np.repeat(boxes, 2, axis=0)
        said = np.where(rng.random(len(near)) < 0.3, rng.integers(0, 3, len(near)), np.repeat(class_ids, 2))
        shifted = (near + rng.normal(0, 2, near.shape)).astype(np.float32)
        shifted[:, 2:] = np.maximum(shifted[:, 2:], shifted[:, :2] + 1)
        detections[image_id] = found(shifted.tolist(), rng.random(len(near)).tolist(), said.tolist())
    return AnnotationSet(tuple(images), Categories((1, 2, 3), NAMES)), detections


def test_a_case_written_out():
    """A hit; a ball taken for a cup; a cup missed, for its detection is too weak; a cube out of nothing."""
    image = annotations_from_lists(1, "a.jpg", (100, 100), [A, B, C], [0, 1, 2])
    annotations = AnnotationSet((image,), Categories((1, 2, 3), NAMES))
    detections = {1: found([A, B, FAR, C], [0.9, 0.8, 0.7, 0.2], [0, 2, 0, 2])}
    matrix = confusion_matrix(annotations, detections, score_threshold=0.5)
    assert matrix.counts.tolist() == [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0]]
    assert matrix.labels == ("cube", "ball", "cup", "background")
    lower = confusion_matrix(annotations, detections, score_threshold=0.1)
    assert lower.counts.tolist() == [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0], [1, 0, 0, 0]]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("threshold", [0.0, 0.4, 1.0])
def test_everything_is_counted_once(seed, threshold):
    annotations, detections = random_case(seed)
    counts = confusion_matrix(annotations, detections, threshold).counts
    objects = np.concatenate([image.boxes.class_ids[~image.boxes.is_crowd] for image in annotations.images])
    assert counts[:3].sum(axis=1).tolist() == np.bincount(objects, minlength=3).tolist()
    curves = precision_recall(annotations, detections)
    assert len(curves) == 3
    for class_id, curve in enumerate(curves):
        kept = int((curve.scores >= threshold).sum())
        assert counts[:, class_id].sum() == kept
        hits = curve.precision[kept - 1] * kept if kept else 0
        assert counts[class_id, class_id] == pytest.approx(hits)
    assert counts[-1, -1] == 0
    assert counts.min() >= 0


def test_the_order_of_detections_does_not_matter():
    annotations, detections = random_case(7)
    reversed_ = {image_id: one[np.arange(len(one))[::-1].copy()] for image_id, one in detections.items()}
    one, other = (confusion_matrix(annotations, each, 0.3).counts for each in (detections, reversed_))
    assert (one == other).all()


def test_images_without_a_result_are_left_out():
    annotations, detections = random_case(1)
    assert confusion_matrix(annotations, {}, 0.3).counts.sum() == 0
    image = max(annotations.images, key=lambda image: (~image.boxes.is_crowd).sum())
    counts = confusion_matrix(annotations, {image.image_id: detections[image.image_id]}, 0.3).counts
    assert counts[:3].sum() == (~image.boxes.is_crowd).sum() > 0


@pytest.mark.parametrize("num_classes", [1, 80])
def test_it_is_an_image_file(tmp_path, num_classes):
    names = tuple(f"thing {number}" for number in range(num_classes))
    image = annotations_from_lists(1, "a.jpg", (100, 100), [A], [0])
    annotations = AnnotationSet((image,), Categories(tuple(range(num_classes)), names))
    hit = Detections(np.array([A], np.float32), np.ones(1, np.float32), np.zeros(1, np.int64), names)
    plot_confusion(tmp_path / "confusion.png", confusion_matrix(annotations, {1: hit}, 0.5))
    picture = cv2.imread(str(tmp_path / "confusion.png"))
    assert picture.shape[0] > 300
    assert picture.std() > 1
