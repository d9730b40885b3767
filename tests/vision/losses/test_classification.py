"""Classification losses: limits, torch as second opinion, slopes."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from handeye.vision.losses.classification import binary_cross_entropy, focal_loss, smooth_labels, varifocal_loss

LOGITS = torch.linspace(-6, 6, 12, dtype=torch.float64).view(3, 4)
TARGETS = (torch.arange(12, dtype=torch.float64) % 3 / 2).view(3, 4)
YES_OR_NO = (torch.arange(12, dtype=torch.float64) % 2).view(3, 4)


def test_cross_entropy_is_the_textbook_formula():
    probability = LOGITS.sigmoid()
    expected = -TARGETS * probability.log() - (1 - TARGETS) * (1 - probability).log()
    torch.testing.assert_close(binary_cross_entropy(LOGITS, TARGETS), expected)


def test_cross_entropy_of_huge_logits_is_finite():
    values = binary_cross_entropy(torch.tensor([1e4, -1e4]), torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(values, torch.tensor([1e4, 1e4]))


def test_focal_loss_agrees_with_torchvision():
    expected = sigmoid_focal_loss(LOGITS, YES_OR_NO, alpha=0.25, gamma=2)
    torch.testing.assert_close(focal_loss(LOGITS, YES_OR_NO), expected)


def test_focal_loss_without_focus_is_half_the_cross_entropy():
    expected = functional.binary_cross_entropy_with_logits(LOGITS, TARGETS, reduction="none") / 2
    torch.testing.assert_close(focal_loss(LOGITS, TARGETS, alpha=0.5, gamma=0.0), expected)


def test_focal_loss_of_the_undecided_by_hand():
    # p = 1/2: alpha * (1/2)^2 * log 2.
    value = focal_loss(torch.tensor([0.0]), torch.tensor([1.0]))
    assert value.item() == pytest.approx(0.25 * 0.25 * math.log(2))


def test_easy_answers_weigh_less_the_stronger_the_focus():
    easy, right = torch.tensor([4.0]), torch.tensor([1.0])
    values = [focal_loss(easy, right, gamma=gamma).item() for gamma in (0.0, 1.0, 2.0, 5.0)]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("loss", [binary_cross_entropy, focal_loss])
def test_slopes_agree_with_finite_differences(loss):
    assert torch.autograd.gradcheck(lambda logits: loss(logits, TARGETS), LOGITS.clone().requires_grad_())


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
