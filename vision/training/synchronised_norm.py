"""Batch norm over the images of all processes on CPUs, where torch's own synchronised norm refuses to run."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vision.losses.counting import mean_over_processes, num_processes


class SynchronisedNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d whose statistics are those of all processes, which must have pictures of one number and size.

    Ioffe and Szegedy 2015 (arXiv:1502.03167), algorithm 1; the gradients reach the pictures of the other processes.
    """

    @classmethod
    def of(cls, norm: nn.BatchNorm2d) -> SynchronisedNorm2d:
        """The same norm, its parameters and statistics shared."""
        synchronised = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, device="meta")
        synchronised.weight, synchronised.bias = norm.weight, norm.bias
        synchronised.running_mean, synchronised.running_var = norm.running_mean, norm.running_var
        synchronised.num_batches_tracked = norm.num_batches_tracked
        return synchronised.train(norm.training)

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:  # noqa: A002 - torch's name
        """Keeps the shape. In eval mode an ordinary batch norm."""
        if not self.training:
            return super().forward(input)
        mean = _MeanOfAll.apply(input.mean(dim=(0, 2, 3)))
        centred = input - mean[:, None, None]
        variance = _MeanOfAll.apply(centred.square().mean(dim=(0, 2, 3)))
        self._follow(mean, variance, num_processes() * input.numel() // self.num_features)
        scale = self.weight * (variance + self.eps).rsqrt()
        return centred * scale[:, None, None] + self.bias[:, None, None]

    @torch.no_grad()
    def _follow(self, mean: Float[Tensor, " C"], variance: Float[Tensor, " C"], count: int) -> None:
        """Let the running statistics follow those of a batch; theirs is the variance without bias."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * (count / max(count - 1, 1)), share)


class _MeanOfAll(torch.autograd.Function):
    """The mean over processes of what each holds; each passes back its part of all their gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        del ctx
        return mean_over_processes(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        del ctx
        return mean_over_processes(gradients[0].contiguous())
