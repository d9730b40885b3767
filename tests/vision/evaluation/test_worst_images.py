"""The order of the worst images, and what is drawn of them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from handeye.vision.data.annotations import AnnotationSet, Categories, annotations_from_lists
from handeye.vision.errors import SourceError
from handeye.vision.evaluation.matching import (
    GAP_PX,
    MISSED_COLOUR,
    RIGHT_COLOUR,
    SIDE_PX,
    WRONG_COLOUR,
    draw_matched_image,
    worst_images,
)
from handeye.vision.runtime.detections import Detections

A, B, FAR = [10.0, 10.0, 30.0, 30.0], [50.0, 50.0, 80.0, 80.0], [0.0, 60.0, 9.0, 90.0]


def found(boxes: list[list[float]], scores: list[float]) -> Detections:
    boxes_xyxy = np.array(boxes, np.float32).reshape(len(scores), 4)
    return Detections(boxes_xyxy, np.array(scores, np.float32), np.zeros(len(scores), np.int64), ("cube",))


@pytest.fixture
def judged_set() -> tuple[AnnotationSet, dict[int, Detections]]:
    """Image 1 is perfect, 2 half right, 3 misses one of one, 4 misses two, 5 has no result."""
    boxes = {1: [A], 2: [A, B], 3: [A], 4: [A, B], 5: [A]}
    images = tuple(
        annotations_from_lists(number, f"{number}.png", (100, 120), each, [0] * len(each))
        for number, each in boxes.items()
    )
    detections = {
        1: found([A], [0.9]),
        2: found([A, FAR], [0.9, 0.8]),
        3: found([A], [0.1]),
        4: found([], []),
    }
    return AnnotationSet(images, Categories((1,), ("cube",))), detections


def test_the_lowest_f1_comes_first_then_the_most_mistakes(judged_set):
    worst = worst_images(*judged_set, score_threshold=0.5, most=10)
    assert [one.image.image_id for one in worst] == [4, 3, 2]
    assert [one.num_mistakes for one in worst] == [2, 1, 2]
    assert [one.match.f1 for one in worst] == [0.0, 0.0, 0.5]
    assert [one.image.image_id for one in worst_images(*judged_set, score_threshold=0.05, most=1)] == [4]


def test_truth_and_detections_stand_side_by_side(judged_set, tmp_path):
    (tmp_path / "2.png").write_bytes(cv2.imencode(".png", np.full((100, 120, 3), 60, np.uint8))[1].tobytes())
    half_right = worst_images(*judged_set, score_threshold=0.5, most=10)[2]
    draw_matched_image(tmp_path / "drawn.png", half_right, tmp_path)
    picture = cv2.cvtColor(cv2.imread(str(tmp_path / "drawn.png")), cv2.COLOR_BGR2RGB)
    assert picture.shape == (350, 2 * SIDE_PX + GAP_PX, 3)
    left, right = picture[:, :SIDE_PX].reshape(-1, 3), picture[:, -SIDE_PX:].reshape(-1, 3)
    shown = {
        name: [bool((side == colour).all(axis=1).any()) for side in (left, right)]
        for name, colour in (("missed", MISSED_COLOUR), ("right", RIGHT_COLOUR), ("wrong", WRONG_COLOUR))
    }
    assert shown == {"missed": [True, False], "right": [False, True], "wrong": [False, True]}


def test_a_lost_image_is_named(judged_set, tmp_path):
    with pytest.raises(SourceError, match=r"4\.png"):
        draw_matched_image(tmp_path / "drawn.png", worst_images(*judged_set, 0.5, 1)[0], tmp_path)
    assert list(tmp_path.iterdir()) == []
