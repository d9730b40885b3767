"""Several processes that train as one (torchrun): what they agree on, and what is told when one of them is lost."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from jaxtyping import Float, Float64
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from handeye.vision.losses.counting import mean_over_processes, num_processes

LOST_WORDS = ("gloo", "nccl", "by peer", "process group", "broken pipe", "socket")
"""Of the errors with which torch tells that another process does not answer; gloo's have no class of their own."""


class TrainingError(Exception):
    """The training itself went wrong (a loss that is not finite); the message says what was kept and what to try."""


def are_many_on_cpus() -> bool:
    """Whether torchrun started several processes without a GPU: accelerate would let each train for itself."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.accelerator.is_available()


def process_state() -> PartialState:
    """Who this process is among those that train together."""
    return PartialState(cpu=are_many_on_cpus())


def training_device() -> torch.device:
    """What this process trains on."""
    device = process_state().device
    assert device is not None
    return device


def is_main_process() -> bool:
    """Whether this process writes the run down and speaks to the user; the only one always does."""
    return process_state().is_main_process


def same_for_all(path: Path) -> Path:
    """The main process's path; the others wait until it is there to tell."""
    if process_state().num_processes == 1:
        return path
    return Path(broadcast_object_list([str(path)])[0])


def any_of_all(flag: bool, device: torch.device) -> bool:  # noqa: FBT001 - the question itself
    """Whether the flag is set in some process: so that all of them stop after the same step."""
    if num_processes() == 1:
        return flag  # without a round trip to the GPU
    return bool(mean_over_processes(torch.tensor(float(flag), device=device)) > 0)


def synchronise_norms(model: nn.Module, device: torch.device) -> None:
    """Make batch norms take their statistics from the images of all processes.

    On CPUs convolutions join them, in a single process too, so that the number of processes changes no bit.
    """
    if device.type != "cpu":
        if num_processes() > 1:
            nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return
    for name, part in list(model.named_modules()):
        if type(part) is nn.BatchNorm2d:
            model.set_submodule(name, SynchronisedNorm2d.of(part))
        elif type(part) is nn.Conv2d:
            model.set_submodule(name, ImagewiseConv2d.of(part))


def agree_on_buffers(model: nn.Module) -> None:
    """Give all processes the main process's buffers: the statistics of batch norms are otherwise each one's own."""
    if num_processes() > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, src=0)


@contextmanager
def telling_lost_processes(run: Path) -> Iterator[None]:
    """Turn torch's error about another process that went away into one that says how to go on."""
    try:
        yield
    except RuntimeError as error:
        if process_state().num_processes == 1 or not _is_about_others(error):
            raise
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise TrainingError(
            f"another process of this training was lost ({first_line}); "
            f"start all of them again from the last saved state with --resume {run}"
        ) from error


def _is_about_others(error: RuntimeError) -> bool:
    if isinstance(error, torch.distributed.DistError):
        return True
    return any(word in str(error).lower() for word in LOST_WORDS)


# Batch norm over the images of all processes on CPUs, where torch's own synchronised norm refuses to run.
#
# Its sums come out the same, to the last bit, however many processes (1, 2, 4, ...) share the images. They have to:
# a
# fresh network multiplies any difference of two trainings a hundredfold at every step. `imagewise` has the rest of
# it.


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


# Training on CPUs that comes out the same, to the last bit, however many processes (1, 2, 4, ...) share the images.
#
# torch adds up the gradients of a batch in an order that depends on its size. With batch norms in a fresh network
# the
# difference, which begins in the last bit, is a hundred times as large after each step. So here every image has its
# own
# gradients of the weights, and their sum is exact.

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


def deterministic_gradients(loss: Callable[P, T]) -> Callable[P, T]:
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
