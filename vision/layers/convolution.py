"""Convolution, batch norm and activation as one block, and its depthwise-separable form.

The batch norm constants are those of the published YOLOX (eps 1e-3, momentum 0.03); they are not in its
checkpoints, and torch's defaults would cost accuracy silently.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

BATCH_NORM_EPS = 1e-3
BATCH_NORM_MOMENTUM = 0.03


class ConvNormAct(nn.Module):
    """Convolution without bias, batch norm, SiLU; padded so that stride 1 keeps the size and stride 2 halves it."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        padding = (kernel_size - 1) // 2
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out_channels, eps=BATCH_NORM_EPS, momentum=BATCH_NORM_MOMENTUM)
        self.activation = nn.SiLU()

    def forward(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """(B, in_channels, H, W) -> (B, out_channels, H / stride, W / stride)."""
        return self.activation(self.norm(self.conv(features)))


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
