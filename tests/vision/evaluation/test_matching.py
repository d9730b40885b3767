"""Who answers for whom, in cases written out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from handeye.vision.data.annotations import ImageAnnotations, annotations_from_lists
from handeye.vision.evaluation.matching import match_detections
from handeye.vision.runtime.detections import Detections

A, B, FAR = [10.0, 10.0, 30.0, 30.0], [50.0, 50.0, 80.0, 80.0], [0.0, 60.0, 9.0, 90.0]
CLOSE_TO_A = [10.0, 10.0, 30.0, 28.0]


def image(boxes: list[list[float]], class_ids: list[int], is_crowd: list[bool] | None = None) -> ImageAnnotations:
    return annotations_from_lists(1, "a.jpg", (100, 100), boxes, class_ids, is_crowd=is_crowd)


def found(boxes: list[list[float]], scores: list[float], class_ids: list[int]) -> Detections:
    return Detections(
        np.array(boxes, np.float32).reshape(len(scores), 4),
        np.array(scores, np.float32),
        np.array(class_ids, np.int64),
        ("cube", "ball"),
    )


def test_a_better_score_chooses_first_and_the_other_is_wrong():
    matched = match_detections(image([A], [0]), found([A, CLOSE_TO_A], [0.6, 0.9], [0, 0]))
    assert matched.object_of.tolist() == [-1, 0]
    assert (matched.num_hits, matched.num_false, matched.num_missed) == (1, 1, 0)


def test_the_right_class_comes_before_a_better_score():
    matched = match_detections(image([A], [0]), found([A, CLOSE_TO_A], [0.9, 0.2], [1, 0]))
    assert matched.object_of.tolist() == [-1, 0]
    assert matched.is_hit.tolist() == [False, True]


def test_another_class_takes_what_is_left_and_the_object_stays_missed():
    matched = match_detections(image([A, B], [0, 1]), found([B, FAR], [0.9, 0.8], [0, 0]))
    assert matched.object_of.tolist() == [1, -1]
    assert not matched.is_hit.any()
    assert matched.is_missed.tolist() == [True, True]
    assert matched.f1 == 0.0


def test_a_crowd_forgives_its_own_class_only():
    crowd = image([A, [40.0, 40.0, 100.0, 100.0]], [0, 0], [False, True])
    matched = match_detections(crowd, found([B, B, A], [0.9, 0.8, 0.7], [0, 1, 0]))
    assert matched.counts.tolist() == [False, True, True]
    assert matched.object_of.tolist() == [-1, -1, 0]
    assert matched.f1 == pytest.approx(2 / 3)


def test_nothing_to_find_and_nothing_found_is_perfect():
    assert match_detections(image([], []), found([], [], [])).f1 == 1.0
    assert match_detections(image([], []), found([A], [0.5], [0])).f1 == 0.0
    assert match_detections(image([A], [0]), found([], [], [])).f1 == 0.0
