"""Box losses: zero for the right box, bounded, with slopes that lead there."""

from __future__ import annotations

import math

import pytest
import torch

from handeye.vision.losses.box_regression import (
    ciou_loss,
    diou_loss,
    distribution_focal_loss,
    giou_loss,
    l1_loss,
    squared_iou_loss,
)

OVERLAP_LOSSES = [squared_iou_loss, giou_loss, diou_loss, ciou_loss]
TARGET = torch.tensor([[10.0, 20.0, 50.0, 60.0]], dtype=torch.float64)


@pytest.mark.parametrize("loss", [*OVERLAP_LOSSES, l1_loss])
def test_the_right_box_costs_nothing_and_others_something(loss):
    assert loss(TARGET, TARGET).item() == pytest.approx(0, abs=1e-9)
    assert loss(TARGET + 3, TARGET).item() > 0.01


def test_squared_iou_by_hand():
    # Half of the box: IoU 1/2, loss 3/4.
    half = torch.tensor([[10.0, 20.0, 30.0, 60.0]], dtype=torch.float64)
    assert squared_iou_loss(half, TARGET).item() == pytest.approx(0.75)


def test_l1_sums_the_four_differences():
    assert l1_loss(TARGET + torch.tensor([1.0, -2.0, 3.0, -4.0]), TARGET).item() == pytest.approx(10)


@pytest.mark.parametrize("loss", OVERLAP_LOSSES)
def test_descent_finds_the_box(loss):
    box = torch.tensor([[14.0, 12.0, 42.0, 70.0]], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([box], lr=0.5)
    for _ in range(300):
        optimizer.zero_grad()
        loss(box, TARGET).sum().backward()
        optimizer.step()
    torch.testing.assert_close(box.detach(), TARGET, rtol=0, atol=1.0)


@pytest.mark.parametrize("loss", [*OVERLAP_LOSSES, l1_loss])
def test_no_boxes_give_no_losses(loss):
    nothing = torch.zeros(0, 4)
    assert loss(nothing, nothing).shape == (0,)


def test_distribution_focal_loss_by_hand():
    logits = torch.tensor([[0.1, 0.2, 0.3, 0.4]] * 4, dtype=torch.float64).log()
    targets = torch.tensor([1.25, 0.0, 3.0, 7.0], dtype=torch.float64)
    expected = torch.tensor([0.75 * math.log(5) - 0.25 * math.log(0.3), *(-math.log(p) for p in (0.1, 0.4, 0.4))])
    torch.testing.assert_close(distribution_focal_loss(logits, targets), expected.double())


def test_distribution_focal_loss_is_least_where_the_expectation_is_the_target():
    logits = torch.zeros(1, 6, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.2)
    for _ in range(300):
        optimizer.zero_grad()
        distribution_focal_loss(logits, torch.tensor([2.7], dtype=torch.float64)).sum().backward()
        optimizer.step()
    probabilities = logits.detach().softmax(dim=1)[0]
    torch.testing.assert_close(probabilities[[2, 3]], torch.tensor([0.3, 0.7]).double(), atol=0.01, rtol=0)
    assert (probabilities * torch.arange(6)).sum().item() == pytest.approx(2.7, abs=0.02)
