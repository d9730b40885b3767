"""Build a neck from its configuration; the two that only arrange others, `levels` and `chain`, are defined here.

A neck turns the features of a backbone into a pyramid with its `channels` and `strides`, fine to coarse.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn
from typing_extensions import assert_never

from handeye.vision.config import Config
from handeye.vision.necks.feature_pyramid import FeaturePyramid, FeaturePyramidConfig
from handeye.vision.necks.hybrid_encoder import HybridEncoder, HybridEncoderConfig
from handeye.vision.necks.path_aggregation import PathAggregation, PathAggregationConfig
from handeye.vision.necks.simple_pyramid import SimplePyramid, SimplePyramidConfig


class LevelsConfig(Config):
    """The neck without weights, for heads that need no pyramid (DETR, YOLO v1)."""

    kind: Literal["levels"] = "levels"
    num_levels: Annotated[int, Field(gt=0)] = 1
    """How many of the coarsest levels are kept."""


class Levels(nn.Module):
    """Features -> the last `num_levels` of them. Raises ValueError when there are fewer."""

    size_multiple = 1
    """Any height and width will do."""

    def __init__(self, config: LevelsConfig, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        if config.num_levels > len(channels):
            raise ValueError(f"neck.num_levels is {config.num_levels}, but the backbone gives {len(channels)} levels")
        self.channels = tuple(channels)[-config.num_levels :]
        self.strides = tuple(strides)[-config.num_levels :]

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """One map for each level that is kept, fine to coarse."""
        return list(features[-len(self.strides) :])


SingleNeckConfig = Annotated[
    PathAggregationConfig | FeaturePyramidConfig | LevelsConfig | HybridEncoderConfig | SimplePyramidConfig,
    Field(discriminator="kind"),
]
"""A neck of one kind, told apart by `kind`."""


class ChainConfig(Config):
    """Necks one after another: the simple pyramid of a ViT, say, and then path aggregation over it."""

    kind: Literal["chain"] = "chain"
    necks: Annotated[tuple[SingleNeckConfig, ...], Field(min_length=1)]
    """From the backbone to the head."""


class Chain(nn.Module):
    """Each neck works on the pyramid of the one before."""

    def __init__(self, config: ChainConfig, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.necks = nn.ModuleList()
        for step in config.necks:
            neck = build_neck(step, channels, strides)
            channels, strides = neck.channels, neck.strides
            self.necks.append(neck)
        self.channels, self.strides = tuple(channels), tuple(strides)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Features -> the pyramid of the last neck."""
        pyramid = list(features)
        for neck in self.necks:
            pyramid = neck(pyramid)
        return pyramid


NeckConfig = Annotated[
    PathAggregationConfig
    | FeaturePyramidConfig
    | LevelsConfig
    | HybridEncoderConfig
    | SimplePyramidConfig
    | ChainConfig,
    Field(discriminator="kind"),
]
"""A neck, or several in a row."""
Neck = PathAggregation | FeaturePyramid | Levels | HybridEncoder | SimplePyramid | Chain


def build_neck(config: NeckConfig, channels: Sequence[int], strides: Sequence[int]) -> Neck:
    """The neck of that configuration for features of these widths and strides, with fresh weights."""
    match config:
        case PathAggregationConfig():
            return PathAggregation(config, channels, strides)
        case FeaturePyramidConfig():
            return FeaturePyramid(config, channels, strides)
        case LevelsConfig():
            return Levels(config, channels, strides)
        case HybridEncoderConfig():
            return HybridEncoder(config, channels, strides)
        case SimplePyramidConfig():
            return SimplePyramid(config, channels, strides)
        case ChainConfig():
            return Chain(config, channels, strides)
        case _:
            assert_never(config)
