"""Darknet-19 of YOLO v2 (Redmon and Farhadi 2016, arXiv:1612.08242) and Darknet-53 of YOLO v3 (2018, arXiv:1804.02767).

Convolution, batch norm and leaky ReLU (0.1) throughout. Darknet-19 halves by pooling and has no shortcuts; Darknet-53
halves by convolution and adds every pair of layers to what came in.
"""

from __future__ import annotations

from typing import Annotated, Literal

from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from handeye.vision.config import Config
from handeye.vision.layers.convolution import TORCH_NORM, ConvNormAct

STAGE_STRIDES = (2, 4, 8, 16, 32)
STAGE_WIDTHS = (64, 128, 256, 512, 1024)
"""Channels that the five stages put out; the stem has 32."""
UNITS_PER_STAGE = {19: (0, 1, 1, 2, 2), 53: (1, 2, 8, 8, 4)}
"""Darknet-19: pairs of 1 x 1 and 3 x 3 after a stage's first 3 x 3 (table 6 of its paper). Darknet-53: residual blocks
(table 1). Both without the classifier's last layer."""


class DarknetConfig(Config):
    """Which Darknet, and how wide."""

    kind: Literal["darknet"] = "darknet"
    depth: Literal[19, 53] = 53
    """Convolutions that the published classifier counts."""
    width: Annotated[float, Field(ge=1 / 16)] = 1.0
    """Factor on the channels, published as 1."""
    units_per_stage: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """One number for each of the five stages, to make a network shallower than its depth."""

    @model_validator(mode="after")
    def _check_stages(self) -> DarknetConfig:
        if self.units_per_stage is not None and len(self.units_per_stage) != len(STAGE_STRIDES):
            raise ValueError(f"units_per_stage needs {len(STAGE_STRIDES)} numbers, got {len(self.units_per_stage)}")
        return self


class Darknet(nn.Module):
    """images -> features at strides 8, 16 and 32, fine to coarse."""

    strides = (8, 16, 32)

    def __init__(self, config: DarknetConfig) -> None:
        super().__init__()
        widths = [int(32 * config.width), *(int(width * config.width) for width in STAGE_WIDTHS)]
        units = config.units_per_stage or UNITS_PER_STAGE[config.depth]
        build_stage = pooled_stage if config.depth == 19 else residual_stage
        self.channels = tuple(widths[-3:])
        self.stem = convolution(3, widths[0], 3)
        self.stages = nn.ModuleList(
            build_stage(in_channels, out_channels, num_units)
            for in_channels, out_channels, num_units in zip(widths, widths[1:], units, strict=False)
        )

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        """(B, 3, H, W) -> one (B, channels[i], H / strides[i], W / strides[i]) for each stride."""
        features = [self.stem(images)]
        for stage in self.stages:
            features.append(stage(features[-1]))
        return features[-3:]


def convolution(in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1) -> ConvNormAct:
    """Convolution, batch norm, leaky ReLU."""
    return ConvNormAct(in_channels, out_channels, kernel_size, stride=stride, activation="leaky_relu", norm=TORCH_NORM)


def pooled_stage(in_channels: int, out_channels: int, num_units: int) -> nn.Sequential:
    """Pool 2 x 2, widen, then squeeze to half and widen again `num_units` times."""
    return nn.Sequential(
        nn.MaxPool2d(2, stride=2),
        convolution(in_channels, out_channels, 3),
        *(squeeze_and_widen(out_channels) for _ in range(num_units)),
    )


def residual_stage(in_channels: int, out_channels: int, num_units: int) -> nn.Sequential:
    """Halve the resolution while widening, then `num_units` residual blocks."""
    return nn.Sequential(
        convolution(in_channels, out_channels, 3, stride=2),
        *(ResidualBlock(out_channels) for _ in range(num_units)),
    )


def squeeze_and_widen(channels: int) -> nn.Sequential:
    """1 x 1 to half the channels, 3 x 3 back."""
    return nn.Sequential(convolution(channels, channels // 2, 1), convolution(channels // 2, channels, 3))


class ResidualBlock(nn.Module):
    """x + layers(x), with no activation after the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = squeeze_and_widen(channels)

    def forward(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Keeps the shape."""
        return features + self.layers(features)
