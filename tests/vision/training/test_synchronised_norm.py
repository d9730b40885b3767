"""Of one process: torch's batch norm. Of two: in test_processes, a training."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from handeye.vision.training.bit_equality import SynchronisedNorm2d


@pytest.mark.parametrize("momentum", [0.03, None])
def test_it_is_torchs_batch_norm(momentum: float | None):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3, eps=1e-3, momentum=momentum).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    ours = SynchronisedNorm2d.of(copy.deepcopy(norm))
    for _ in range(2):
        images = (5 + torch.randn(4, 3, 6, 5, dtype=torch.float64)).requires_grad_()
        expected, found = norm(images), ours(images)
        torch.testing.assert_close(found, expected)
        weights = torch.randn_like(found)
        for values in zip(
            torch.autograd.grad((found * weights).sum(), [images, *ours.parameters()]),
            torch.autograd.grad((expected * weights).sum(), [images, *norm.parameters()]),
            strict=True,
        ):
            torch.testing.assert_close(*values)
    torch.testing.assert_close(ours.state_dict(), norm.state_dict())
    torch.testing.assert_close(ours.eval()(images), norm.eval()(images))
