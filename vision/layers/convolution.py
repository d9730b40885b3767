"""Convolution, batch norm and activation as one block, and its depthwise-separable form.

The constants of batch norm differ between published networks (YOLOX: eps 1e-3, momentum 0.03) and are not in their
checkpoints; the wrong ones would cost accuracy silently.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import assert_never

from handeye.vision.layers.frozen_norm import FrozenBatchNorm2d

Activation = Literal["silu", "relu", "gelu", "leaky_relu", "mish", "none"]


class BatchNormConstants(NamedTuple):
    """Added to the variance, and the weight of a new batch in the running statistics.

    Without a momentum the norm is frozen: statistics, scale and shift stay as they were loaded.
    """

    eps: float
    momentum: float | None


YOLOX_NORM = BatchNormConstants(eps=1e-3, momentum=0.03)
TORCH_NORM = BatchNormConstants(eps=1e-5, momentum=0.1)
"""torch's own, which ResNet and the DETR family have."""
FROZEN_NORM = BatchNormConstants(eps=1e-5, momentum=None)
"""Of the published DETR and the larger RT-DETR: batches of few images would spoil pretrained statistics."""


class ConvNormAct(nn.Module):
    """Convolution without bias, batch norm, activation; padded so that stride 1 keeps the size and 2 halves it."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        groups: int = 1,
        activation: Activation = "silu",
        norm: BatchNormConstants = YOLOX_NORM,
    ) -> None:
        super().__init__()
        padding = (kernel_size - 1) // 2
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
        self.norm = build_batch_norm(out_channels, norm)
        self.activation = build_activation(activation)

    def forward(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """(B, in_channels, H, W) -> (B, out_channels, H / stride, W / stride)."""
        if isinstance(self.norm, FrozenBatchNorm2d):
            return self.activation(_convolve_with_frozen_norm(self.conv, self.norm, features))
        return self.activation(self.norm(self.conv(features)))


def _convolve_with_frozen_norm(
    conv: nn.Conv2d, norm: FrozenBatchNorm2d, features: Float[Tensor, "B C H W"]
) -> Float[Tensor, "B D h w"]:
    """norm(conv(features)), the scale multiplied into the kernel: the kernel is smaller than the features it saves."""
    weight, bias, mean, variance = (norm.get_buffer(name) for name in ("weight", "bias", "running_mean", "running_var"))
    scale = weight * (variance + norm.eps).rsqrt()
    shift = bias - mean * scale
    kernel = conv.weight * scale[:, None, None, None]
    return functional.conv2d(features, kernel, shift, conv.stride, conv.padding, conv.dilation, conv.groups)


def build_batch_norm(channels: int, constants: BatchNormConstants) -> nn.BatchNorm2d | FrozenBatchNorm2d:
    """A batch norm over that many channels, live or frozen."""
    if constants.momentum is None:
        return FrozenBatchNorm2d(channels, eps=constants.eps)
    return nn.BatchNorm2d(channels, eps=constants.eps, momentum=constants.momentum)


def build_activation(name: Activation) -> nn.Module:
    """The function of that name as a module; "none" changes nothing."""
    match name:
        case "silu":
            return nn.SiLU()
        case "relu":
            return nn.ReLU()
        case "gelu":
            return nn.GELU()
        case "leaky_relu":
            return nn.LeakyReLU(0.1)
        case "mish":
            return nn.Mish()
        case "none":
            return nn.Identity()
        case _:
            assert_never(name)


class DepthwiseSeparable(nn.Module):
    """A k x k convolution of each channel by itself, then a 1 x 1 across channels, both with norm and activation.

    Howard et al. 2017 (arXiv:1704.04861).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1) -> None:
        super().__init__()
        self.depthwise = ConvNormAct(in_channels, in_channels, kernel_size, stride=stride, groups=in_channels)
        self.pointwise = ConvNormAct(in_channels, out_channels, 1)

    def forward(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """(B, in_channels, H, W) -> (B, out_channels, H / stride, W / stride)."""
        return self.pointwise(self.depthwise(features))


def spatial_convolution(
    in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, depthwise: bool
) -> ConvNormAct | DepthwiseSeparable:
    """The k x k convolution of a network that is either plain or depthwise-separable throughout."""
    if depthwise:
        return DepthwiseSeparable(in_channels, out_channels, kernel_size, stride=stride)
    return ConvNormAct(in_channels, out_channels, kernel_size, stride=stride)
