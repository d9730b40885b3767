"""Bit-equal training on CPUs: batch norm, convolution and cross entropy whose sums ignore the number of processes.

torch sums the gradients of a batch in an order that depends on its size, and a fresh network with batch norms
amplifies any difference a hundredfold at every step. Here sums over images are exact, so 1, 2, 4, ... processes that
share a batch train alike to the last bit. `distributed.synchronise_processes` puts these operators into a network.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from handeye.vision.losses.counting import mean_over_processes, num_processes

P = ParamSpec("P")
T = TypeVar("T")


class SynchronisedNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d whose statistics are those of all processes, each with the same number and size of images.

    Ioffe and Szegedy 2015 (arXiv:1502.03167), algorithm 1; the gradients reach the images of the other processes.
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
        self._update_statistics(mean, variance, num_processes() * input.numel() // self.num_features)
        return output

    @torch.no_grad()
    def _update_statistics(self, mean: Float64[Tensor, " C"], variance: Float64[Tensor, " C"], count: int) -> None:
        """Move the running statistics towards those of a batch; theirs is the unbiased variance."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        unbiased = variance * (count / max(count - 1, 1))
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)


class PerImageConv2d(nn.Conv2d):
    """nn.Conv2d that convolves one image after the other; the gradients are those of all processes together."""

    @classmethod
    def of(cls, conv: nn.Conv2d) -> PerImageConv2d:
        """The same convolution, its parameters shared."""
        shape = (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation)
        has_bias = conv.bias is not None
        per_image = cls(*shape, conv.groups, has_bias, conv.padding_mode, device="meta")  # pyright: ignore[reportArgumentType] - what a Conv2d holds is what it takes
        per_image.weight, per_image.bias = conv.weight, conv.bias
        return per_image.train(conv.training)

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:  # noqa: A002 - torch's name
        """As torch's own."""
        number = len(input)
        weights = _ForEachImage.apply(self.weight, number).unbind()
        biases = [None] * number if self.bias is None else _ForEachImage.apply(self.bias, number).unbind()
        parts = zip(input.split(1), weights, biases, strict=True)
        return torch.cat([self._conv_forward(image, weight, bias) for image, weight, bias in parts])


def deterministic_gradients(loss: Callable[P, T]) -> Callable[P, T]:
    """The same loss, whose binary cross entropies have gradients that do not depend on where in memory a logit lies.

    torch computes the last few of a tensor by another exponential function than the rest.
    """

    @functools.wraps(loss)
    def deterministic(*args: P.args, **kwargs: P.kwargs) -> T:
        with _DeterministicGradients():
            return loss(*args, **kwargs)

    return deterministic


class _Normalise(torch.autograd.Function):
    """(images - mean) / sqrt(variance + eps) * weight + bias; and that mean and variance, over all processes.

    Computes in single precision or better, and keeps only the images for the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        precise = _precise(images)
        (mean,) = _mean_of_all(precise)
        centred = precise - _planes(mean, precise)
        (variance,) = _mean_of_all(centred.square())
        precision = (variance + eps).rsqrt()
        ctx.save_for_backward(images, mean, precision, weight)
        ctx.mark_non_differentiable(mean, variance)
        output = torch.addcmul(_planes(bias, centred), centred, _planes(precision * weight, centred))
        return output.to(images.dtype), mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        images, mean, precision, weight = ctx.saved_tensors
        precise = _precise(images)
        centred, gradient = precise - _planes(mean, precise), gradients[0].to(precise.dtype)
        shift, slope = _mean_of_all(gradient, gradient * centred)
        # A pixel moves the mean and the variance, and these move all pixels.
        moved = gradient - _planes(shift, centred) - centred * _planes(slope * precision.square(), centred)
        moved = (moved * _planes(precision * weight, centred)).to(images.dtype)
        # All processes pass on the same gradients of the parameters: the mean of what each of them found.
        num_pixels = images.numel() // len(mean)
        of_weight, of_bias = (num_pixels * each for each in (slope * precision, shift))
        return moved, of_weight.to(weight.dtype), of_bias.to(weight.dtype), None


def _precise(images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    return images.to(torch.promote_types(images.dtype, torch.float32))


def _mean_of_all(*values: Float[Tensor, "B C H W"]) -> Float64[Tensor, "n C"]:
    """The mean of each channel over the pixels of all processes, for several values at once.

    An image's sums are rounded to the precision of its values: in double precision they then add up without an error,
    in whatever order, and the only division comes last.
    """
    of_images = (value.sum(dim=(2, 3), dtype=torch.float64).to(value.dtype) for value in values)
    sums = torch.stack([each.sum(dim=0, dtype=torch.float64) for each in of_images])
    return mean_over_processes(sums) / (values[0].numel() // values[0].shape[1])


def _planes(values: Float[Tensor, " C"], like: Float[Tensor, "B C H W"]) -> Float[Tensor, "C 1 1"]:
    """A number for each channel, broadcastable to images and in their precision."""
    return values.to(like.dtype)[:, None, None]


class _DeterministicGradients(TorchFunctionMode):
    def __torch_function__(  # noqa: D105
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        if func is functional.binary_cross_entropy_with_logits and kwargs["reduction"] == "none":
            return _CrossEntropy.apply(*args)
        return func(*args, **kwargs)


class _ForEachImage(torch.autograd.Function):
    """Copies of a parameter, whose gradients are added up without an error and averaged over the processes."""

    @staticmethod
    def forward(ctx: Any, parameter: Tensor, number: int) -> Tensor:
        ctx.save_for_backward(parameter)
        return parameter.expand(number, *parameter.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (parameter,) = ctx.saved_tensors
        total = mean_over_processes(gradients[0].sum(dim=0, dtype=torch.float64))
        # In the memory layout of the parameter, which processes that exchange gradients expect.
        return torch.empty_like(parameter).copy_(total), None


class _CrossEntropy(torch.autograd.Function):
    """Binary cross entropy of logits, element by element, whose gradient uses only exponentials and divisions."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        ctx.save_for_backward(logits, targets)
        return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        logits, targets = ctx.saved_tensors
        return (1 / (1 + (-logits).exp()) - targets) * gradients[0], None
