"""Batch norm over the images of all processes on CPUs, where torch's own synchronised norm refuses to run.

Its sums come out the same, to the last bit, however many processes (1, 2, 4, ...) share the images. They have to: a
fresh network multiplies any difference of two trainings a hundredfold at every step. `imagewise` has the rest of it.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Float64
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
        output, mean, variance = _Normalise.apply(input, self.weight, self.bias, self.eps)
        self._follow(mean, variance, num_processes() * input.numel() // self.num_features)
        return output

    @torch.no_grad()
    def _follow(self, mean: Float64[Tensor, " C"], variance: Float64[Tensor, " C"], count: int) -> None:
        """Let the running statistics follow those of a batch; theirs is the variance without bias."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        unbiased = variance * (count / max(count - 1, 1))
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)


class _Normalise(torch.autograd.Function):
    """(pictures - mean) / sqrt(variance + eps) * weight + bias; and that mean and variance, over all processes.

    Computes in single precision or better, and keeps the pictures alone for the way back.
    """

    @staticmethod
    def forward(ctx: Any, pictures: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        precise = _precise(pictures)
        (mean,) = _mean_of_all(precise)
        centred = precise - _planes(mean, precise)
        (variance,) = _mean_of_all(centred.square())
        precision = (variance + eps).rsqrt()
        ctx.save_for_backward(pictures, mean, precision, weight)
        ctx.mark_non_differentiable(mean, variance)
        output = torch.addcmul(_planes(bias, centred), centred, _planes(precision * weight, centred))
        return output.to(pictures.dtype), mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        pictures, mean, precision, weight = ctx.saved_tensors
        precise = _precise(pictures)
        centred, gradient = precise - _planes(mean, precise), gradients[0].to(precise.dtype)
        shift, slope = _mean_of_all(gradient, gradient * centred)
        # A pixel moves the mean and the variance, and these move all pixels.
        moved = gradient - _planes(shift, centred) - centred * _planes(slope * precision.square(), centred)
        moved = (moved * _planes(precision * weight, centred)).to(pictures.dtype)
        # All processes pass on the same gradients of the parameters: the mean of what each of them found.
        num_pixels = pictures.numel() // len(mean)
        of_weight, of_bias = (num_pixels * each for each in (slope * precision, shift))
        return moved, of_weight.to(weight.dtype), of_bias.to(weight.dtype), None


def _precise(pictures: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    return pictures.to(torch.promote_types(pictures.dtype, torch.float32))


def _mean_of_all(*values: Float[Tensor, "B C H W"]) -> Float64[Tensor, "n C"]:
    """The mean of each channel over the pixels of all processes, for several values at once.

    A picture's sums are rounded to the precision of its values: in double precision they then add up without an error,
    in whatever order, and the only division comes last.
    """
    of_pictures = (value.sum(dim=(2, 3), dtype=torch.float64).to(value.dtype) for value in values)
    sums = torch.stack([each.sum(dim=0, dtype=torch.float64) for each in of_pictures])
    return mean_over_processes(sums) / (values[0].numel() // values[0].shape[1])


def _planes(values: Float[Tensor, " C"], like: Float[Tensor, "B C H W"]) -> Float[Tensor, "C 1 1"]:
    """A number for each channel, ready to meet pictures and in their precision."""
    return values.to(like.dtype)[:, None, None]
