"""SimOTA against its rules written out with plain loops, and in the corners: no object, no cell, contested cells."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from handeye.vision.assignment.simota import assign_simota
from handeye.vision.boxes.targets import BoxTargets

SIZE_HW = (96, 128)


def cells_of(size_hw=SIZE_HW):
    """(cell centres, strides) of an input, fine to coarse."""
    centres, strides = [], []
    for stride in (8, 16, 32):
        for row in range(size_hw[0] // stride):
            for column in range(size_hw[1] // stride):
                centres.append(((column + 0.5) * stride, (row + 0.5) * stride))
                strides.append((float(stride),))
    return torch.tensor(centres), torch.tensor(strides)


def scene(num_boxes: int, seed: int, num_classes: int = 4, sharpness: float = 1.0):
    """Random objects, and predictions that resemble them the more the sharper."""
    generator = torch.Generator().manual_seed(seed)
    centres, strides = cells_of()
    middles = torch.rand(num_boxes, 2, generator=generator) * torch.tensor([SIZE_HW[1], SIZE_HW[0]])
    sizes = torch.rand(num_boxes, 2, generator=generator) * 40 + 6
    targets = BoxTargets(
        torch.cat((middles - sizes / 2, middles + sizes / 2), dim=1),
        torch.randint(num_classes, (num_boxes,), generator=generator),
    )
    guesses = torch.randn(len(centres), 4, generator=generator) * torch.tensor([4.0, 4, 0, 0]) / sharpness
    boxes = torch.cat((centres, strides.repeat(1, 2) * 2), dim=1) + guesses
    if num_boxes:
        nearest = (centres[:, None] - middles).norm(dim=-1).argmin(dim=1)
        boxes[:, 2:] = sizes[nearest] * (1 + 0.2 * torch.rand(len(centres), 2, generator=generator) / sharpness)
        boxes[:, :2] = middles[nearest] + guesses[:, :2]
    objectness = torch.randn(len(centres), 1, generator=generator)
    classes = torch.randn(len(centres), num_classes, generator=generator)
    return centres, strides, boxes, objectness, classes, targets


def iou_of(first, second) -> float:
    left, top = max(first[0], second[0]), max(first[1], second[1])
    right, bottom = min(first[2], second[2]), min(first[3], second[3])
    shared = max(right - left, 0.0) * max(bottom - top, 0.0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return shared / (sum(areas) - shared)


def assign_by_loops(centres, strides, boxes_cxcywh, objectness, classes, targets):
    """The rules, one cell and one box at a time: {cell: (box, iou)}."""
    near = {}
    for cell, (centre, (stride,)) in enumerate(zip(centres.tolist(), strides.tolist(), strict=True)):
        for box, (x1, y1, x2, y2) in enumerate(targets.boxes_xyxy.tolist()):
            middle = (x1 + x2) / 2, (y1 + y2) / 2
            near[cell, box] = all(abs(centre[axis] - middle[axis]) < 1.5 * stride for axis in (0, 1))
    num_boxes = len(targets)
    candidates = [cell for cell in range(len(centres)) if any(near[cell, box] for box in range(num_boxes))]
    iou, cost = {}, {}
    for cell in candidates:
        cx, cy, width, height = boxes_cxcywh[cell].tolist()
        predicted = cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2
        score = (classes[cell].sigmoid() * objectness[cell].sigmoid()).sqrt()
        for box in range(num_boxes):
            wanted = functional.one_hot(targets.class_ids[box], classes.shape[1]).float()
            iou[cell, box] = iou_of(predicted, targets.boxes_xyxy[box].tolist())
            cost[cell, box] = (
                functional.binary_cross_entropy(score, wanted, reduction="sum")
                - 3 * torch.log(torch.tensor(iou[cell, box] + 1e-8))
                + (0 if near[cell, box] else 1e5)
            ).item()
    wishes: dict[int, list[int]] = {}
    for box in range(num_boxes):
        best = sorted((iou[cell, box] for cell in candidates), reverse=True)[:10]
        for cell in sorted(candidates, key=lambda cell: cost[cell, box])[: max(1, int(sum(best)))]:
            wishes.setdefault(cell, []).append(box)
    chosen = {
        cell: boxes[0] if len(boxes) == 1 else min(range(num_boxes), key=lambda box: cost[cell, box])
        for cell, boxes in wishes.items()
    }
    return {cell: (box, iou[cell, box]) for cell, box in chosen.items()}


@pytest.mark.parametrize("num_boxes", [1, 3, 12])
@pytest.mark.parametrize("sharpness", [0.2, 1.0, 20.0])
def test_it_agrees_with_the_rules_written_out(num_boxes, sharpness):
    parts = scene(num_boxes, seed=num_boxes, sharpness=sharpness)
    match = assign_simota(*parts)
    expected = assign_by_loops(*parts)
    got = {
        cell: (box, pytest.approx(iou, abs=1e-5))
        for cell, box, iou in zip(match.cell_index.tolist(), match.box_index.tolist(), match.ious.tolist(), strict=True)
    }
    assert expected == got
    assert len(expected) >= min(num_boxes, 2)


def test_no_cell_serves_two_boxes_and_all_serve_near_ones():
    centres, strides, *predictions, targets = scene(10, seed=5)
    match = assign_simota(centres, strides, *predictions, targets)
    assert len(match.cell_index.unique()) == len(match.cell_index)
    assert match.ious.ge(0).all()
    assert match.ious.le(1).all()


def test_better_predictions_get_more_cells():
    few, many = (len(assign_simota(*scene(1, seed=4, sharpness=sharpness)).cell_index) for sharpness in (0.05, 100.0))
    assert few == 1
    assert 5 <= many <= 10


def test_an_image_without_objects_gives_no_match():
    match = assign_simota(*scene(0, seed=0))
    assert len(match.cell_index) == len(match.box_index) == len(match.ious) == 0


def test_an_object_whose_centre_is_far_outside_gets_no_cell():
    centres, strides, boxes, objectness, classes, _ = scene(1, seed=0)
    outside = BoxTargets(torch.tensor([[500.0, 500, 520, 520]]), torch.tensor([0]))
    assert len(assign_simota(centres, strides, boxes, objectness, classes, outside).cell_index) == 0


def test_a_box_without_area_still_gets_a_cell_and_nothing_breaks():
    centres, strides, boxes, objectness, classes, _ = scene(1, seed=0)
    flat = BoxTargets(torch.tensor([[40.0, 40, 40, 40]]), torch.tensor([1]))
    match = assign_simota(centres, strides, boxes, objectness, classes, flat)
    assert len(match.cell_index) == 1
    assert match.ious.eq(0).all()


def test_of_two_equal_boxes_each_contested_cell_goes_to_one():
    parts = scene(1, seed=3, sharpness=100.0)
    twice = BoxTargets(parts[-1].boxes_xyxy.repeat(2, 1), parts[-1].class_ids.repeat(2))
    match = assign_simota(*parts[:-1], twice)
    assert len(match.cell_index.unique()) == len(match.cell_index) > 0


def test_the_class_decides_who_gets_a_contested_cell():
    centres, strides, boxes, objectness, _, targets = scene(1, seed=2, sharpness=0.05)
    same_place = BoxTargets(targets.boxes_xyxy.repeat(2, 1), torch.tensor([0, 1]))
    # With the same scores everywhere both boxes want the one cell that overlaps them most.
    sure_of_class_1 = torch.tensor([-4.0, 4.0, -4.0, -4.0]).repeat(len(centres), 1)
    match = assign_simota(centres, strides, boxes, torch.zeros_like(objectness), sure_of_class_1, same_place)
    assert match.box_index.tolist() == [1]


def test_saturated_and_half_precision_predictions_keep_the_cost_finite():
    centres, strides, boxes, _, _, targets = scene(3, seed=6)
    extreme = torch.where(torch.arange(len(centres)) % 2 == 0, 1e3, -1e3)[:, None]
    match = assign_simota(centres, strides, boxes, extreme, extreme.repeat(1, 4), targets)
    assert match.ious.isfinite().all()
    half = [part.to(torch.bfloat16) for part in (extreme, extreme.repeat(1, 4))]
    torch.testing.assert_close(assign_simota(centres, strides, boxes, *half, targets).cell_index, match.cell_index)


def test_no_slope_flows_through_the_matching():
    centres, strides, boxes, objectness, classes, targets = scene(2, seed=1)
    match = assign_simota(
        centres, strides, boxes.requires_grad_(), objectness.requires_grad_(), classes.requires_grad_(), targets
    )
    assert not match.ious.requires_grad


def test_without_a_class_cost_only_the_boxes_decide():
    """The classes that cells predict make no difference, though with the published cost they do."""
    centres, strides, boxes, objectness, classes, targets = scene(6, seed=3)
    opposite = (centres, strides, boxes, -objectness, -3 * classes, targets)
    same = (centres, strides, boxes, objectness, classes, targets)

    def pairs(parts, weight):
        match = assign_simota(*parts, class_cost_weight=weight)
        return list(zip(match.cell_index.tolist(), match.box_index.tolist(), strict=True))

    assert pairs(same, 0.0) == pairs(opposite, 0.0)
    assert pairs(same, 1.0) != pairs(opposite, 1.0)
