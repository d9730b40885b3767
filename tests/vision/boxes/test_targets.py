"""Targets: shapes that disagree are refused, nothing is a target too."""

from __future__ import annotations

import pytest
import torch

from handeye.vision.boxes.targets import BoxTargets


def test_an_image_without_objects_has_no_rows():
    assert len(BoxTargets.empty()) == 0


def test_targets_move_to_a_device():
    targets = BoxTargets(torch.rand(3, 4), torch.tensor([0, 1, 2]))
    moved = targets.to("meta")
    assert (moved.boxes_xyxy.device.type, moved.class_ids.device.type, len(moved)) == ("meta", "meta", 3)


@pytest.mark.parametrize(("num_boxes", "num_classes"), [(2, 3), (0, 1)])
def test_as_many_classes_as_boxes(num_boxes, num_classes):
    with pytest.raises((ValueError, TypeError)):
        BoxTargets(torch.zeros(num_boxes, 4), torch.zeros(num_classes, dtype=torch.int64))
