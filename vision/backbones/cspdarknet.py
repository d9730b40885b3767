"""CSPDarknet, the backbone of YOLOX (Ge et al. 2021, arXiv:2107.08430): depth and width scale one plan.

Stages halve the resolution: stem 1/2, then 1/4, 1/8, 1/16 and 1/32; the last three are the features.
"""

from __future__ import annotations

from typing import Annotated, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from handeye.vision.config import Config
from handeye.vision.layers.convolution import spatial_convolution
from handeye.vision.layers.csp_blocks import CrossStagePartial, Focus, SpatialPyramidPooling, scaled_depth

BLOCKS_PER_STAGE = (3, 9, 9, 3)
"""Bottlenecks of the stages at depth 1."""


class CSPDarknetConfig(Config):
    """Size of the backbone. YOLOX: nano .33/.25 depthwise, tiny .33/.375, s .33/.5, m .67/.75, l 1/1, x 1.33/1.25."""

    kind: Literal["cspdarknet"] = "cspdarknet"
    depth: Annotated[float, Field(gt=0)] = 0.33
    """Factor on the number of bottlenecks of each stage."""
    width: Annotated[float, Field(ge=1 / 32)] = 0.5
    """Factor on the channels: the stem has 64 at width 1, and at least 2."""
    depthwise: bool = False
    """Depthwise-separable 3 x 3 convolutions, as in YOLOX-nano; the stem stays plain."""


class CSPDarknet(nn.Module):
    """images -> features at strides 8, 16 and 32, fine to coarse."""

    strides = (8, 16, 32)

    def __init__(self, config: CSPDarknetConfig) -> None:
        super().__init__()
        stem = int(64 * config.width)
        widths = [stem * 2**power for power in range(1, 5)]
        self.channels = tuple(widths[1:])
        self.stem = Focus(3, stem)
        self.stages = nn.ModuleList(
            CSPStage(
                in_channels,
                out_channels,
                scaled_depth(blocks, config.depth),
                depthwise=config.depthwise,
                coarsest=stride == 32,
            )
            for in_channels, out_channels, blocks, stride in zip(
                (stem, *widths[:-1]), widths, BLOCKS_PER_STAGE, (4, 8, 16, 32), strict=True
            )
        )

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        """(B, 3, H, W) -> one (B, channels[i], H / strides[i], W / strides[i]) for each stride."""
        features = [self.stem(images)]
        for stage in self.stages:
            features.append(stage(features[-1]))
        return features[-3:]


class CSPStage(nn.Module):
    """Halve the resolution, then refine; the coarsest stage pools over a wide view first and has no shortcuts."""

    def __init__(
        self, in_channels: int, out_channels: int, num_blocks: int, *, depthwise: bool, coarsest: bool
    ) -> None:
        super().__init__()
        self.down = spatial_convolution(in_channels, out_channels, 3, stride=2, depthwise=depthwise)
        self.pooling = SpatialPyramidPooling(out_channels, out_channels) if coarsest else nn.Identity()
        self.block = CrossStagePartial(
            out_channels, out_channels, num_blocks, shortcut=not coarsest, depthwise=depthwise
        )

    def forward(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """(B, in_channels, H, W) -> (B, out_channels, H/2, W/2)."""
        return self.block(self.pooling(self.down(features)))
