"""The blocks of D-FINE's neck (Peng et al. 2024, arXiv:2410.13842): short and long paths joined, light shrinking.

ELAN with cross-stage blocks: YOLOv9 (Wang et al. 2024, arXiv:2402.13616), here with RepVGG blocks inside. Shrinking
with channels and space apart: YOLOv10 (Wang et al. 2024, arXiv:2405.14458).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vision.layers.convolution import TORCH_NORM, ConvNormAct
from vision.layers.rep_block import RepCrossStage


class RepElan(nn.Module):
    """One half of the channels goes through two stages in a row; both halves and both stages are joined."""

    def __init__(self, in_channels: int, out_channels: int, hidden_channels: int, num_blocks: int) -> None:
        super().__init__()
        self.split = ConvNormAct(in_channels, in_channels, 1, norm=TORCH_NORM)
        self.stages = nn.ModuleList(
            ElanStage(width, hidden_channels, num_blocks) for width in (in_channels // 2, hidden_channels)
        )
        self.join = ConvNormAct(in_channels + 2 * hidden_channels, out_channels, 1, norm=TORCH_NORM)

    def forward(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """(B, in_channels, H, W) -> (B, out_channels, H, W); in_channels must be even."""
        paths = list(self.split(features).chunk(2, dim=1))
        for stage in self.stages:
            paths.append(stage(paths[-1]))
        return self.join(torch.cat(paths, dim=1))


class ElanStage(nn.Module):
    """A cross-stage block of RepVGG blocks, then a 3 x 3 convolution."""

    def __init__(self, in_channels: int, out_channels: int, num_blocks: int) -> None:
        super().__init__()
        self.block = RepCrossStage(in_channels, out_channels, num_blocks)
        self.spatial = ConvNormAct(out_channels, out_channels, 3, norm=TORCH_NORM)

    def forward(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        return self.spatial(self.block(features))


class DecoupledShrink(nn.Module):
    """Across channels first, then half the resolution of each channel by itself; no activation in between or after."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = ConvNormAct(channels, channels, 1, activation="none", norm=TORCH_NORM)
        self.spatial = ConvNormAct(channels, channels, 3, stride=2, groups=channels, activation="none", norm=TORCH_NORM)

    def forward(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C h w"]:
        """(B, channels, H, W) -> (B, channels, ceil(H / 2), ceil(W / 2))."""
        return self.spatial(self.mix(features))
