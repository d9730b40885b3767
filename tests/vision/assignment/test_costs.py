"""The matching cost against its formulas, pair by pair, and the objects of a batch in one row."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision.ops import generalized_box_iou

from handeye.vision.assignment.hungarian import DETR_COST, BatchTargets, MatchingCostConfig, matching_cost
from handeye.vision.boxes.formats import cxcywh_to_xyxy
from handeye.vision.boxes.targets import BoxTargets

INPUT_HW = (64, 128)


def some_targets(*counts: int, num_classes: int = 5) -> list[BoxTargets]:
    generator = torch.Generator().manual_seed(len(counts))
    targets = []
    for count in counts:
        corners = torch.rand(count, 2, generator=generator) * torch.tensor([64.0, 32.0])
        sizes = 4 + torch.rand(count, 2, generator=generator) * torch.tensor([60.0, 28.0])
        class_ids = torch.randint(num_classes, (count,), generator=generator)
        targets.append(BoxTargets(torch.cat((corners, corners + sizes), dim=1), class_ids))
    return targets


def some_predictions(num_layers: int, num_images: int, num_queries: int, num_logits: int) -> tuple:
    generator = torch.Generator().manual_seed(9)
    logits = 3 * torch.randn(num_layers, num_images, num_queries, num_logits, generator=generator)
    return logits, 0.05 + 0.9 * torch.rand(num_layers, num_images, num_queries, 4, generator=generator)


def cost_of_one_pair(logits, box, class_id: int, wanted, config: MatchingCostConfig) -> float:
    """The published formulas in plain numbers, with their 1e-8 inside the logarithm."""
    if config.classification == "softmax":
        class_cost = -logits.softmax(dim=0)[class_id].item()
    else:
        p = logits[class_id].double().sigmoid().item()
        of_yes = 0.25 * (1 - p) ** 2 * -math.log(p + 1e-8)
        class_cost = of_yes - 0.75 * p**2 * -math.log(1 - p + 1e-8)
    l1 = sum(abs(a - b) for a, b in zip(box.tolist(), wanted.tolist(), strict=True))
    giou = generalized_box_iou(cxcywh_to_xyxy(box[None]), cxcywh_to_xyxy(wanted[None])).item()
    return config.class_weight * class_cost + config.l1_weight * l1 - config.giou_weight * giou


@pytest.mark.parametrize("config", [DETR_COST, MatchingCostConfig(), MatchingCostConfig(class_weight=7, l1_weight=0)])
def test_every_pair_costs_what_the_formulas_say(config):
    targets = BatchTargets.of(some_targets(2, 0, 3), INPUT_HW)
    logits, boxes = some_predictions(2, 3, 4, 5)
    cost = matching_cost(logits, boxes, targets, config)
    assert cost.shape == (2, 3, 4, 3)
    for row, (image, place) in enumerate(zip(targets.image_index, targets.place, strict=True)):
        wanted, class_id = targets.boxes_cxcywh_norm[row], int(targets.class_ids[row])
        for layer in range(2):
            for query in range(4):
                here = (layer, int(image), query)
                expected = cost_of_one_pair(logits[here], boxes[here], class_id, wanted, config)
                assert cost[(*here, int(place))].item() == pytest.approx(expected, rel=1e-5, abs=2e-5)


def test_half_precision_costs_are_computed_in_single():
    targets = BatchTargets.of(some_targets(3, 1), INPUT_HW)
    logits, boxes = (values.half() for values in some_predictions(1, 2, 6, 5))
    cost = matching_cost(logits, boxes, targets, MatchingCostConfig())
    assert cost.dtype == torch.float32
    torch.testing.assert_close(cost, matching_cost(logits.float(), boxes.float(), targets, MatchingCostConfig()))


def test_very_sure_queries_have_finite_costs():
    targets = BatchTargets.of(some_targets(1, num_classes=1), INPUT_HW)
    logits = torch.tensor([-200.0, 200.0]).view(1, 1, 2, 1)
    cost = matching_cost(logits, torch.full((1, 1, 2, 4), 0.5), targets, MatchingCostConfig(l1_weight=0, giou_weight=0))
    torch.testing.assert_close(cost.flatten(), torch.tensor([2 * 0.25 * 200, -2 * 0.75 * 200]))


def test_the_objects_of_a_batch_in_one_row():
    targets = some_targets(2, 0, 3)
    batch = BatchTargets.of(targets, INPUT_HW)
    assert batch.counts == (2, 0, 3)
    assert batch.image_index.tolist() == [0, 0, 2, 2, 2]
    assert batch.place.tolist() == [0, 1, 0, 1, 2]
    assert batch.starts.tolist() == [0, 2, 2]
    in_pixels = cxcywh_to_xyxy(batch.boxes_cxcywh_norm) * torch.tensor([128, 64, 128, 64])
    torch.testing.assert_close(in_pixels, torch.cat([target.boxes_xyxy for target in targets]))
    padded = batch.padded(batch.class_ids)
    assert padded.shape == (3, 3)
    assert padded[1].tolist() == [0, 0, 0]
    assert padded[2].tolist() == targets[2].class_ids.tolist()


def test_a_batch_without_any_object_has_no_columns():
    batch = BatchTargets.of([BoxTargets.empty()] * 2, INPUT_HW)
    logits, boxes = some_predictions(1, 2, 4, 5)
    assert matching_cost(logits, boxes, batch, DETR_COST).shape == (1, 2, 4, 0)


def test_the_cost_of_a_worked_example():
    """28.2.6: -0.8 + 5 x 0.2 = 0.2. Its box (0.4, 0.4, 0.3, 0.3) can be no xyxy as printed; it is cx, cy, w, h.

    The printed cost takes 1 - GIoU for the loss: the one number more is the same for all queries and moves no match.
    """
    probabilities = torch.tensor([0.1, 0.8, 0.1])
    config = MatchingCostConfig(classification="softmax", class_weight=1, l1_weight=0, giou_weight=5)
    box = torch.tensor([0.4, 0.4, 0.3, 0.3])
    # Cut to 80 % of its height an object has a GIoU of 0.8 with the box that is not cut.
    wanted = box * torch.tensor([1, 1, 1, 0.8])
    batch = BatchTargets(wanted[None], torch.tensor([1]), torch.tensor([0]), (1,))
    cost = matching_cost(probabilities.log().view(1, 1, 1, 3), box.view(1, 1, 1, 4), batch, config)
    assert cost.item() + 5 == pytest.approx(0.2, abs=1e-5)
