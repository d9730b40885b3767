"""Loss terms: zero for the right box, descent finds it; class terms by formula, limits, gradients."""

from __future__ import annotations

import pytest
import torch

from handeye.vision.boxes.iou import aligned_ciou
from handeye.vision.losses.loss_terms import (
    binary_cross_entropy,
    giou_loss,
    l1_loss,
    smooth_labels,
    squared_iou_loss,
    varifocal_loss,
)


def ciou_loss(boxes_xyxy, targets_xyxy):
    """The box loss of YOLO v4 and v5."""
    return 1 - aligned_ciou(boxes_xyxy, targets_xyxy)


OVERLAP_LOSSES = [squared_iou_loss, giou_loss, ciou_loss]
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


LOGITS = torch.linspace(-6, 6, 12, dtype=torch.float64).view(3, 4)
TARGETS = (torch.arange(12, dtype=torch.float64) % 3 / 2).view(3, 4)


def test_cross_entropy_is_the_textbook_formula():
    probability = LOGITS.sigmoid()
    expected = -TARGETS * probability.log() - (1 - TARGETS) * (1 - probability).log()
    torch.testing.assert_close(binary_cross_entropy(LOGITS, TARGETS), expected)


def test_cross_entropy_of_huge_logits_is_finite():
    values = binary_cross_entropy(torch.tensor([1e4, -1e4]), torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(values, torch.tensor([1e4, 1e4]))


def test_slopes_agree_with_finite_differences():
    assert torch.autograd.gradcheck(
        lambda logits: binary_cross_entropy(logits, TARGETS), LOGITS.clone().requires_grad_()
    )


OVERLAPS = torch.tensor([[0.7, 0.0, 0.0], [0.0, 0.0, 0.2]], dtype=torch.float64)
IS_POSITIVE = torch.tensor([[True, False, False], [False, True, True]])
"""The middle of the second row is a positive that does not touch its object."""


def test_varifocal_loss_is_the_papers_formula():
    logits = torch.tensor([[0.3, -1.0, 2.0], [-3.0, 0.5, 1.0]], dtype=torch.float64)
    losses = varifocal_loss(logits, OVERLAPS, IS_POSITIVE)
    for p, q, positive, loss in zip(
        logits.sigmoid().flatten(), OVERLAPS.flatten(), IS_POSITIVE.flatten(), losses.flatten(), strict=True
    ):
        expected = -q * (q * p.log() + (1 - q) * (1 - p).log()) if positive else -0.75 * p**2 * (1 - p).log()
        torch.testing.assert_close(loss, expected)


def test_varifocal_loss_is_least_where_the_score_is_the_overlap():
    for overlap in (0.1, 0.5, 0.9):
        target = torch.tensor([overlap], dtype=torch.float64)
        logits = target.logit().requires_grad_()
        varifocal_loss(logits, target, torch.tensor([True])).sum().backward()
        assert logits.grad is not None
        assert abs(logits.grad.item()) < 1e-12


def test_no_slope_flows_through_the_weights_of_varifocal_loss():
    logits = torch.tensor([[0.3, -1.0, 2.0], [-3.0, 0.5, 1.0]], dtype=torch.float64, requires_grad=True)
    varifocal_loss(logits, OVERLAPS, IS_POSITIVE).sum().backward()
    p = logits.detach().sigmoid()
    weights = torch.where(IS_POSITIVE, OVERLAPS, 0.75 * p**2)
    torch.testing.assert_close(logits.grad, weights * (p - OVERLAPS))


def test_smooth_labels_lie_between_the_answer_and_perhaps():
    torch.testing.assert_close(smooth_labels(TARGETS, 0.0), TARGETS)
    torch.testing.assert_close(smooth_labels(torch.tensor([0.0, 0.5, 1.0]), 0.2), torch.tensor([0.1, 0.5, 0.9]))


def test_a_logit_cannot_be_too_sure_of_a_smooth_label():
    """The best answer to a yes of 0.9 is the logit of 0.9: beyond it the loss grows again."""
    logit = torch.tensor(0.9).logit().requires_grad_()
    binary_cross_entropy(logit, smooth_labels(torch.tensor(1.0), 0.2)).backward()
    assert abs(logit.grad.item()) < 1e-6
