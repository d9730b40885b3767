"""Task-aligned assignment against its rules in plain loops, its scaling, and what must not happen."""

from __future__ import annotations

import pytest
import torch

from handeye.vision.assignment.task_aligned import TaskAlignedConfig, assign_task_aligned
from handeye.vision.boxes.iou import pairwise_iou
from handeye.vision.boxes.targets import BoxTargets


def scene(num_boxes: int, seed: int, num_classes: int = 3):
    """Cell centres of two levels of a 64 x 64 input, predictions near random objects, scores, targets."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.tensor(
        [((x + 0.5) * s, (y + 0.5) * s) for s in (8, 16) for y in range(64 // s) for x in range(64 // s)]
    )
    corners = torch.rand(num_boxes, 2, generator=generator) * 36
    boxes = torch.cat((corners, corners + 12 + torch.rand(num_boxes, 2, generator=generator) * 16), dim=1)
    half = 6 + torch.rand(len(centres), 2, generator=generator) * 8
    predicted = torch.cat((centres - half, centres + half), dim=1)
    scores = torch.rand(len(centres), num_classes, generator=generator)
    return centres, predicted, scores, BoxTargets(boxes, torch.randint(num_classes, (num_boxes,), generator=generator))


def assign_by_loops(centres, predicted, scores, targets, config) -> dict[int, tuple[int, float]]:
    """{cell: (box, quality)}."""
    ious = pairwise_iou(targets.boxes_xyxy, predicted)
    alignment, picked = {}, {}
    for box, (left, top, right, bottom) in enumerate(targets.boxes_xyxy.tolist()):
        inside = [c for c, (x, y) in enumerate(centres.tolist()) if left < x < right and top < y < bottom]
        for cell in inside:
            score = scores[cell, targets.class_ids[box]].item()
            alignment[cell, box] = score**config.alpha * ious[box, cell].item() ** config.beta
        for cell in sorted(inside, key=lambda c, b=box: -alignment[c, b])[: config.top_k]:
            picked.setdefault(cell, []).append(box)
    owner = {cell: max(boxes, key=lambda b, c=cell: ious[b, c].item()) for cell, boxes in picked.items()}
    result = {}
    for cell, box in owner.items():
        own = [c for c, b in owner.items() if b == box]
        best = max(alignment[c, box] for c in own)
        result[cell] = box, alignment[cell, box] / best * max(ious[box, c].item() for c in own)
    return result


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("config", [TaskAlignedConfig(), TaskAlignedConfig(alpha=0.5, top_k=4)])
def test_it_agrees_with_plain_loops(seed, config):
    centres, predicted, scores, targets = scene(4, seed)
    match = assign_task_aligned(centres, predicted, scores, targets, config)
    expected = assign_by_loops(centres, predicted, scores, targets, config)
    got = zip(match.cell_index.tolist(), match.box_index.tolist(), match.quality.tolist(), strict=True)
    assert {cell: (box, pytest.approx(quality, rel=1e-4)) for cell, box, quality in got} == expected


def test_no_cell_appears_twice_and_an_object_has_top_k_cells_at_most():
    centres, predicted, scores, targets = scene(8, 20)
    match = assign_task_aligned(centres, predicted, scores, targets, TaskAlignedConfig(top_k=3))
    assert len(match.cell_index.unique()) == len(match.cell_index)
    assert match.box_index.bincount().max() <= 3


def test_the_best_cell_of_an_object_is_to_score_its_best_overlap():
    centres, predicted, scores, targets = scene(1, 3)
    match = assign_task_aligned(centres, predicted, scores, targets, TaskAlignedConfig())
    ious = pairwise_iou(targets.boxes_xyxy, predicted[match.cell_index])[0]
    assert match.quality.max().item() == pytest.approx(ious.max().item())
    alignment = scores[match.cell_index, targets.class_ids[0]] * ious**6
    assert match.quality.argsort().tolist() == alignment.argsort().tolist()


def test_the_better_score_is_taken_among_equal_boxes():
    centres = torch.tensor([[4.0, 4.0], [12.0, 4.0]])
    predicted = torch.tensor([[0.0, 0, 16, 8], [0, 0, 16, 8]])
    targets = BoxTargets(torch.tensor([[0.0, 0, 16, 8]]), torch.tensor([1]))
    match = assign_task_aligned(
        centres, predicted, torch.tensor([[0.9, 0.2], [0.1, 0.3]]), targets, TaskAlignedConfig(top_k=1)
    )
    assert (match.cell_index.tolist(), match.quality.tolist()) == ([1], [1.0])


def test_cells_that_score_nothing_are_wanted_all_the_same_with_quality_0():
    centres, predicted, scores, targets = scene(2, 5)
    match = assign_task_aligned(centres, predicted, torch.zeros_like(scores), targets, TaskAlignedConfig())
    assert len(match.cell_index) > 0
    assert match.quality.eq(0).all()


def test_without_objects_or_with_one_between_the_centres_nothing_is_matched():
    centres, predicted, scores, _ = scene(1, 0)
    between = BoxTargets(torch.tensor([[5.0, 5, 7, 7]]), torch.tensor([0]))
    for targets in (BoxTargets.empty(), between):
        match = assign_task_aligned(centres, predicted, scores, targets, TaskAlignedConfig())
        assert match.cell_index.shape == match.box_index.shape == match.quality.shape == (0,)
