"""Training on CPUs that comes out the same, to the last bit, however many processes (1, 2, 4, ...) share the images.

torch adds up the gradients of a batch in an order that depends on its size. With batch norms in a fresh network the
difference, which begins in the last bit, is a hundred times as large after each step. So here every image has its own
gradients of the weights, and their sum is exact.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from vision.losses.counting import mean_over_processes

P = ParamSpec("P")
T = TypeVar("T")


class ImagewiseConv2d(nn.Conv2d):
    """nn.Conv2d that convolves one image after the other; the gradients are those of all processes together."""

    @classmethod
    def of(cls, conv: nn.Conv2d) -> ImagewiseConv2d:
        """The same convolution, its parameters shared."""
        shape = (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation)
        has_bias = conv.bias is not None
        imagewise = cls(*shape, conv.groups, has_bias, conv.padding_mode, device="meta")  # pyright: ignore[reportArgumentType] - what a Conv2d holds is what it takes
        imagewise.weight, imagewise.bias = conv.weight, conv.bias
        return imagewise.train(conv.training)

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:  # noqa: A002 - torch's name
        """As torch's own."""
        number = len(input)
        weights = _ForEachImage.apply(self.weight, number).unbind()
        biases = [None] * number if self.bias is None else _ForEachImage.apply(self.bias, number).unbind()
        parts = zip(input.split(1), weights, biases, strict=True)
        return torch.cat([self._conv_forward(image, weight, bias) for image, weight, bias in parts])


def with_steady_slopes(loss: Callable[P, T]) -> Callable[P, T]:
    """The same loss, whose binary cross entropies have slopes that do not depend on where in memory an answer lies.

    torch computes the last few of a tensor by another exponential function than the rest.
    """

    @functools.wraps(loss)
    def steady(*args: P.args, **kwargs: P.kwargs) -> T:
        with _SteadySlopes():
            return loss(*args, **kwargs)

    return steady


class _SteadySlopes(TorchFunctionMode):
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
    """torch's binary cross entropy of logits, element by element, with a slope of exponentials and divisions alone."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        ctx.save_for_backward(logits, targets)
        return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        logits, targets = ctx.saved_tensors
        return (1 / (1 + (-logits).exp()) - targets) * gradients[0], None
