"""The hybrid encoder of RT-DETR (Zhao et al. 2023, arXiv:2304.08069, section 4.2): attention at the coarsest level.

Self-attention within the coarsest level only (AIFI); cross-level fusion by convolutions, top-down and bottom-up (CCFF).
D-FINE (Peng et al. 2024, arXiv:2410.13842) has other blocks in the same places.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import assert_never

from handeye.vision.config import Config
from handeye.vision.layers.attention import sin_cos_table
from handeye.vision.layers.convolution import TORCH_NORM, ConvNormAct
from handeye.vision.layers.csp_blocks import DecoupledShrink, RepCrossStage, RepElan
from handeye.vision.layers.transformer import EncoderLayer, map_to_tokens

BLOCKS_PER_MERGE = 3
"""RepVGG blocks of each merging block at depth 1."""


class HybridEncoderConfig(Config):
    """Size of the neck; the defaults are those of RT-DETR-R50.

    D-FINE: n has hidden_dim 128, feed_forward_dim 512, expansion 0.34 and depth 0.5, s expansion 0.5 and depth 0.34,
    m depth 0.67, x hidden_dim 384 and feed_forward_dim 2048.
    """

    kind: Literal["hybrid_encoder"] = "hybrid_encoder"
    hidden_dim: Annotated[int, Field(gt=0, multiple_of=4)] = 256
    """Channels of every level. R101: 384."""
    num_encoder_layers: Annotated[int, Field(ge=0)] = 1
    """Layers of attention over the coarsest level."""
    num_heads: Annotated[int, Field(gt=0)] = 8
    feed_forward_dim: Annotated[int, Field(gt=0)] = 1024
    """Width inside the attention layers. R101: 2048."""
    expansion: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Width inside the merging blocks as a share of hidden_dim. R18, R34 and R50-m: 0.5."""
    depth: Annotated[float, Field(gt=0)] = 1.0
    """Factor on the number of blocks in each merging block."""
    blocks: Literal["rtdetr", "dfine"] = "rtdetr"
    """dfine: merging blocks that join more paths, of half the width inside; between the levels no activation."""


class HybridEncoder(nn.Module):
    """Features -> pyramid of the same strides, hidden_dim channels each.

    The modules of each list stand in the order of their use: coarse to fine on the way down, fine to coarse on the
    way up. A single level only has the attention.
    """

    def __init__(self, config: HybridEncoderConfig, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.channels, self.strides = (dim,) * len(channels), tuple(strides)
        self.project = nn.ModuleList(
            ConvNormAct(width, dim, 1, activation="none", norm=TORCH_NORM) for width in channels
        )
        self.attention = nn.ModuleList(
            EncoderLayer(dim, config.num_heads, config.feed_forward_dim, activation="gelu")
            for _ in range(config.num_encoder_layers)
        )
        num_steps = len(channels) - 1
        self.reduce = nn.ModuleList(build_lateral(config) for _ in range(num_steps))
        self.merge_down = nn.ModuleList(build_merge(config) for _ in range(num_steps))
        self.shrink = nn.ModuleList(build_shrink(config) for _ in range(num_steps))
        self.merge_up = nn.ModuleList(build_merge(config) for _ in range(num_steps))
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """One (B, channels, H, W) for each level, each twice as coarse as the one before; keeps the sizes."""
        *finer, coarsest = (project(level) for project, level in zip(self.project, features, strict=True))
        merged = self._self_attend(coarsest)
        reduced = []
        for reduce, merge, level in zip(self.reduce, self.merge_down, reversed(finer), strict=True):
            reduced.append(reduce(merged))
            merged = merge(torch.cat((self.upsample(reduced[-1]), level), dim=1))
        pyramid = [merged]
        for shrink, merge, lateral in zip(self.shrink, self.merge_up, reversed(reduced), strict=True):
            # The way up meets the reduced maps of the way down, not their inputs: the published weights expect it.
            pyramid.append(merge(torch.cat((shrink(pyramid[-1]), lateral), dim=1)))
        return pyramid

    def _self_attend(self, features: Float[Tensor, "B dim h w"]) -> Float[Tensor, "B dim h w"]:
        """Attention between all cells of a level (AIFI)."""
        dim, height, width = (int(side) for side in features.shape[1:])  # constants of an exported graph
        tokens = map_to_tokens(features)
        positions = sin_cos_table(height, width, dim, features.device).to(tokens.dtype)[None]
        for layer in self.attention:
            tokens = layer(tokens, positions)
        return tokens.transpose(1, 2).unflatten(2, (height, width))


def build_lateral(config: HybridEncoderConfig) -> nn.Module:
    """The convolution before a map goes down to the next finer level."""
    activation = "silu" if config.blocks == "rtdetr" else "none"
    return ConvNormAct(config.hidden_dim, config.hidden_dim, 1, activation=activation, norm=TORCH_NORM)


def build_shrink(config: HybridEncoderConfig) -> nn.Module:
    """The convolutions that halve a map on its way up."""
    match config.blocks:
        case "rtdetr":
            return ConvNormAct(config.hidden_dim, config.hidden_dim, 3, stride=2, norm=TORCH_NORM)
        case "dfine":
            return DecoupledShrink(config.hidden_dim)
        case _:
            assert_never(config.blocks)


def build_merge(config: HybridEncoderConfig) -> nn.Module:
    """The block that makes one map of two."""
    dim = config.hidden_dim
    # Half-way cases go to the even number, as published: one and a half blocks (D-FINE-n) are two.
    num_blocks = max(round(BLOCKS_PER_MERGE * config.depth), 1)
    match config.blocks:
        case "rtdetr":
            return RepCrossStage(2 * dim, dim, num_blocks, expansion=config.expansion)
        case "dfine":
            return RepElan(2 * dim, dim, int(config.expansion * dim // 2), num_blocks)
        case _:
            assert_never(config.blocks)
