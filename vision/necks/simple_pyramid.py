"""ViTDet's simple feature pyramid (Li et al. 2022, arXiv:2203.16527, section 3): every level from the one map of a ViT.

There are no connections between the levels: each is made from the same map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from handeye.vision.config import Config
from handeye.vision.errors import ConfigError

NORM_EPS = 1e-6
Stride = Literal[4, 8, 16, 32]


class SimplePyramidConfig(Config):
    """Width and levels of the pyramid."""

    kind: Literal["simple_pyramid"] = "simple_pyramid"
    out_dim: Annotated[int, Field(gt=0)] = 256
    """Channels of every level."""
    strides: Annotated[tuple[Stride, ...], Field(min_length=1)] = (8, 16, 32)
    """Strides of the levels, fine to coarse."""

    @model_validator(mode="after")
    def _check_strides(self) -> SimplePyramidConfig:
        if list(self.strides) != sorted(set(self.strides)):
            raise ValueError(f"strides must ascend, got {self.strides}")
        return self


class SimplePyramid(nn.Module):
    """One map of stride 16 -> a map for each stride. Raises ConfigError for features that are not one such map."""

    def __init__(self, config: SimplePyramidConfig, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        if tuple(strides) != (16,):
            raise ConfigError(
                f"neck.kind: simple_pyramid expects one map of stride 16, as a ViT gives; got strides {tuple(strides)}"
            )
        self.strides = tuple(config.strides)
        self.channels = (config.out_dim,) * len(self.strides)
        self.levels = nn.ModuleList(build_level(channels[0], config.out_dim, stride) for stride in self.strides)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """[(B, C, h, w)] -> one (B, out_dim, 16 h / stride, 16 w / stride) for each stride, a half rounded up."""
        return [level(features[0]) for level in self.levels]


def build_level(in_dim: int, out_dim: int, stride: Stride) -> nn.Sequential:
    """Resize the map of stride 16 to that stride, then bring it to out_dim channels."""
    steps, dim = build_resize(in_dim, stride)
    return nn.Sequential(
        *steps,
        nn.Conv2d(dim, out_dim, 1, bias=False),
        ChannelNorm(out_dim, eps=NORM_EPS),
        nn.Conv2d(out_dim, out_dim, 3, padding=1, bias=False),
        ChannelNorm(out_dim, eps=NORM_EPS),
    )


def build_resize(dim: int, stride: Stride) -> tuple[list[nn.Module], int]:
    """The modules that resize, and the width behind them: transposed convolutions halve it."""
    match stride:
        case 4:
            finer = [nn.ConvTranspose2d(dim, dim // 2, 2, stride=2), ChannelNorm(dim // 2, eps=NORM_EPS), nn.GELU()]
            return [*finer, nn.ConvTranspose2d(dim // 2, dim // 4, 2, stride=2)], dim // 4
        case 8:
            return [nn.ConvTranspose2d(dim, dim // 2, 2, stride=2)], dim // 2
        case 16:
            return [], dim
        case 32:
            return [nn.MaxPool2d(2, stride=2, ceil_mode=True)], dim


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each cell of a map."""

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Keeps the shape."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
