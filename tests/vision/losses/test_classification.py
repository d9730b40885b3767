"""Classification losses: limits, torch as second opinion, slopes."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from vision.losses.classification import binary_cross_entropy, focal_loss

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
