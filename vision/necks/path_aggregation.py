"""Path aggregation network, PANet (Liu et al. 2018, arXiv:1803.01534), of CSP blocks: the neck of YOLOX.

A top-down path from coarse to fine as in FPN, then a bottom-up path from fine to coarse.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from handeye.vision.config import Config
from handeye.vision.layers.convolution import ConvNormAct, spatial_convolution
from handeye.vision.layers.csp_blocks import CrossStagePartial, scaled_depth

BLOCKS_PER_MERGE = 3
"""Bottlenecks of each merging block at depth 1."""


class PathAggregationConfig(Config):
    """Size of the neck; its widths are those of the features it receives."""

    kind: Literal["path_aggregation"] = "path_aggregation"
    depth: Annotated[float, Field(gt=0)] = 0.33
    """Factor on the number of bottlenecks of each merging block."""
    depthwise: bool = False
    """Depthwise-separable 3 x 3 convolutions, as in YOLOX-nano."""


class PathAggregation(nn.Module):
    """Features -> pyramid of the same channels and strides. The first modules of each list are the finest ones."""

    def __init__(self, config: PathAggregationConfig, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.channels, self.strides = tuple(channels), tuple(strides)
        num_blocks = scaled_depth(BLOCKS_PER_MERGE, config.depth)

        def merge(in_channels: int, out_channels: int) -> CrossStagePartial:
            return CrossStagePartial(in_channels, out_channels, num_blocks, shortcut=False, depthwise=config.depthwise)

        steps = list(pairwise(channels))
        self.reduce = nn.ModuleList(ConvNormAct(coarse, fine, 1) for fine, coarse in steps)
        self.merge_down = nn.ModuleList(merge(2 * fine, fine) for fine, _ in steps)
        self.shrink = nn.ModuleList(
            spatial_convolution(fine, fine, 3, stride=2, depthwise=config.depthwise) for fine, _ in steps
        )
        self.merge_up = nn.ModuleList(merge(2 * fine, coarse) for fine, coarse in steps)
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """One (B, C, H, W) for each level, each twice as coarse as the one before, to maps of the same shapes."""
        merged = features[-1]
        reduced = []
        for level in reversed(range(len(self.reduce))):
            reduced.insert(0, self.reduce[level](merged))
            merged = self.merge_down[level](torch.cat((self.upsample(reduced[0]), features[level]), dim=1))
        pyramid = [merged]
        for level, lateral in enumerate(reduced):
            # The way up meets the reduced maps of the way down, not the merged ones: the published weights expect it.
            pyramid.append(self.merge_up[level](torch.cat((self.shrink[level](pyramid[-1]), lateral), dim=1)))
        return pyramid
