"""The value that a detector returns: it checks itself and is chosen from like an array."""

from __future__ import annotations

import numpy as np
import pytest

from handeye.vision.runtime.detections import Detections

NAMES = ("cube", "ball")


def three() -> Detections:
    boxes = np.arange(12, dtype=np.float32).reshape(3, 4)
    return Detections(boxes, np.array([0.9, 0.5, 0.1], np.float32), np.array([0, 1, 0]), NAMES)


def test_choosing_by_mask_indices_and_slice():
    found = three()
    assert found[found.scores > 0.3].names == ["cube", "ball"]
    assert found[np.array([2, 0])].scores.tolist() == pytest.approx([0.1, 0.9])
    assert len(found[:0]) == 0
    assert len(Detections.empty(NAMES)) == 0


def test_lengths_and_classes_that_disagree_are_rejected():
    found = three()
    with pytest.raises((ValueError, TypeError), match="class_ids"):  # TypeError where the shape hook is on
        Detections(found.boxes_xyxy[:2], found.scores[:2], found.class_ids[:1], NAMES)
    with pytest.raises(ValueError, match=r"0\.\.1, got 0\.\.2"):
        Detections(found.boxes_xyxy, found.scores, np.array([0, 2, 1]), NAMES)
