"""The blocks of CSPDarknet: focus, cross-stage partial blocks and spatial pyramid pooling.

CSP: Wang et al. 2019 (arXiv:1911.11929). SPP: He et al. 2014 (arXiv:1406.4729). The form is YOLOX's
(Ge et al. 2021, arXiv:2107.08430).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vision.layers.convolution import ConvNormAct, spatial_convolution


class Focus(nn.Module):
    """Every 2 x 2 pixels become one with four times the channels, then a 3 x 3 convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = ConvNormAct(4 * in_channels, out_channels, 3)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """(B, in_channels, H, W) -> (B, out_channels, H/2, W/2)."""
        top_left, top_right = images[..., ::2, ::2], images[..., ::2, 1::2]
        bottom_left, bottom_right = images[..., 1::2, ::2], images[..., 1::2, 1::2]
        # Columns before rows: the order of the published weights.
        return self.conv(torch.cat((top_left, bottom_left, top_right, bottom_right), dim=1))


class Bottleneck(nn.Module):
    """A 1 x 1 and a 3 x 3 convolution of the same width, added to their input when there is a shortcut."""

    def __init__(self, channels: int, *, shortcut: bool, depthwise: bool) -> None:
        super().__init__()
        self.mix = ConvNormAct(channels, channels, 1)
        self.spatial = spatial_convolution(channels, channels, 3, depthwise=depthwise)
        self.shortcut = shortcut

    def forward(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """Keeps the shape; only pruning can make input and output of a block without shortcut differ in width."""
        refined = self.spatial(self.mix(features))
        return features + refined if self.shortcut else refined


class CrossStagePartial(nn.Module):
    """Half of the channels pass through bottlenecks, half go past them, a 1 x 1 convolution joins both."""

    def __init__(
        self, in_channels: int, out_channels: int, num_blocks: int, *, shortcut: bool, depthwise: bool
    ) -> None:
        super().__init__()
        hidden = out_channels // 2
        self.main = ConvNormAct(in_channels, hidden, 1)
        self.bypass = ConvNormAct(in_channels, hidden, 1)
        self.blocks = nn.Sequential(
            *(Bottleneck(hidden, shortcut=shortcut, depthwise=depthwise) for _ in range(num_blocks))
        )
        self.join = ConvNormAct(2 * hidden, out_channels, 1)

    def forward(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        refined = self.blocks(self.main(features))
        return self.join(torch.cat((refined, self.bypass(features)), dim=1))


class SpatialPyramidPooling(nn.Module):
    """Max-pooling at several sizes beside the input, joined by a 1 x 1 convolution: a wide view for few operations."""

    def __init__(self, in_channels: int, out_channels: int, kernel_sizes: Sequence[int] = (5, 9, 13)) -> None:
        super().__init__()
        hidden = in_channels // 2
        self.reduce = ConvNormAct(in_channels, hidden, 1)
        self.pools = nn.ModuleList(nn.MaxPool2d(size, stride=1, padding=size // 2) for size in kernel_sizes)
        self.join = ConvNormAct(hidden * (1 + len(kernel_sizes)), out_channels, 1)

    def forward(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        reduced = self.reduce(features)
        return self.join(torch.cat((reduced, *(pool(reduced) for pool in self.pools)), dim=1))


def scaled_depth(num_blocks: int, depth: float) -> int:
    """The number of blocks at a depth factor: rounded, at least one."""
    return max(round(num_blocks * depth), 1)
