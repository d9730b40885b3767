"""Feature pyramid network, FPN (Lin et al. 2016, arXiv:1612.03144): a top-down path with lateral connections.

M_i = upsample(M_i+1) + lateral_i(C_i), then a 3 x 3 convolution on each sum
against the aliasing of the upsampling (section 3 of the paper). No norms and no activations, as in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from handeye.vision.config import Config


class FeaturePyramidConfig(Config):
    """Width of the pyramid, and how many levels it has beyond those of the backbone."""

    kind: Literal["feature_pyramid"] = "feature_pyramid"
    hidden_dim: Annotated[int, Field(gt=0)] = 256
    """Channels of every level."""
    num_extra_levels: Annotated[int, Field(ge=0)] = 1
    """Levels made of the coarsest one, each at half the resolution: one makes M6 of M5."""
    extra_by: Literal["subsampling", "convolution"] = "subsampling"
    """`subsampling` keeps every second cell (a max pool of 1 x 1, as in the paper's footnote); `convolution` is a
    3 x 3 convolution of stride 2 (RetinaNet), with a ReLU between two of them."""


class FeaturePyramid(nn.Module):
    """Features -> pyramid of one width, the same strides and the extra ones; fine to coarse."""

    size_multiple = 1
    """Any height and width will do."""

    def __init__(self, config: FeaturePyramidConfig, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        dim, num_extra = config.hidden_dim, config.num_extra_levels
        self.strides = (*strides, *(strides[-1] * 2 ** (level + 1) for level in range(num_extra)))
        self.channels = (dim,) * len(self.strides)
        self.laterals = nn.ModuleList(nn.Conv2d(width, dim, 1) for width in channels)
        self.smooth = nn.ModuleList(nn.Conv2d(dim, dim, 3, padding=1) for _ in channels)
        self.extra = nn.ModuleList(_halving(config, level) for level in range(num_extra))
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.kaiming_uniform_(module.weight, a=1)  # keeps the variance where no activation follows
                nn.init.zeros_(module.bias)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """One (B, C, H, W) for each level, of any sizes that shrink, to (B, hidden_dim, H, W) and the extra levels."""
        merged = [self.laterals[-1](features[-1])]
        for lateral, finer in zip(list(self.laterals)[-2::-1], features[-2::-1], strict=True):
            merged.insert(0, lateral(finer) + _upsampled(merged[0], finer))
        pyramid = [smooth(level) for smooth, level in zip(self.smooth, merged, strict=True)]
        for halve in self.extra:
            pyramid.append(halve(pyramid[-1]))
        return pyramid


def _upsampled(coarse: Float[Tensor, "B C h w"], finer: Float[Tensor, "B D H W"]) -> Float[Tensor, "B C H W"]:
    """Nearest neighbours, to the size of the finer level: twice as large, one less where that size is odd."""
    return functional.interpolate(coarse, size=finer.shape[-2:], mode="nearest")


def _halving(config: FeaturePyramidConfig, level: int) -> nn.Module:
    if config.extra_by == "subsampling":
        return nn.MaxPool2d(1, stride=2)
    convolution = nn.Conv2d(config.hidden_dim, config.hidden_dim, 3, stride=2, padding=1)
    return convolution if level == 0 else nn.Sequential(nn.ReLU(), convolution)
