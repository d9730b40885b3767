"""Against torch's own convolution and cross entropy; training in two processes: test_distributed."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from handeye.vision.losses.loss_terms import binary_cross_entropy
from handeye.vision.training.bit_equality import PerImageConv2d, deterministic_gradients


@pytest.mark.parametrize("options", [{}, {"groups": 2, "stride": 2, "padding": 1, "bias": False}, {"dilation": 2}])
def test_it_is_torchs_convolution(options):
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, **options).double().to(memory_format=torch.channels_last)
    ours = PerImageConv2d.of(copy.deepcopy(conv))
    images = torch.randn(3, 4, 9, 8, dtype=torch.float64, requires_grad=True)
    expected, found = conv(images), ours(images)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(found)
    for values in zip(
        torch.autograd.grad((found * weights).sum(), [images, *ours.parameters()]),
        torch.autograd.grad((expected * weights).sum(), [images, *conv.parameters()]),
        strict=True,
    ):
        torch.testing.assert_close(*values)


def test_gradients_of_a_batch_are_the_exact_sum_of_those_of_its_images():
    """In any order, which torch's own are not."""
    torch.manual_seed(0)
    conv = PerImageConv2d(3, 8, 3)
    images = torch.randn(8, 3, 20, 20)

    def gradient(batch: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(conv(batch).square().sum(), conv.weight)[0]

    whole = gradient(images)
    assert torch.equal(whole, gradient(images.flip(0)))
    parts = torch.stack([gradient(image[None]).double() for image in images])
    assert torch.equal(whole, parts.sum(dim=0).float())


@pytest.mark.parametrize("place", [0, 1, 7])
def test_slopes_of_a_loss_do_not_depend_on_the_place_in_memory(place):
    torch.manual_seed(0)
    logits, targets = 4 * torch.randn(20000), torch.rand(20000)

    def slope(chosen: slice) -> torch.Tensor:
        answers = logits[chosen].clone().requires_grad_()
        loss = deterministic_gradients(binary_cross_entropy)(answers, targets[chosen])
        torch.testing.assert_close(
            loss, functional.binary_cross_entropy_with_logits(answers, targets[chosen], reduction="none")
        )
        return torch.autograd.grad(loss.sum(), answers)[0]

    whole = slope(slice(None))
    torch.testing.assert_close(whole, logits.double().sigmoid().float() - targets, rtol=1e-5, atol=1e-7)
    for first in range(place, 700, 7):
        assert torch.equal(slope(slice(first, first + 7)), whole[first : first + 7])
