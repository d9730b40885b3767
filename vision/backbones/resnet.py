"""ResNet (He et al. 2015, arXiv:1512.03385) in the two forms that published weights have.

`plain` is torchvision's "v1.5", with the stride on the 3 x 3 convolution of a bottleneck. `vd` is RT-DETR's
(He et al. 2018, arXiv:1812.01187): a stem of three 3 x 3 convolutions, and shortcuts that average before they project.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from handeye.vision.config import Config
from handeye.vision.layers.convolution import FROZEN_NORM, TORCH_NORM, BatchNormConstants, ConvNormAct

Stride = Literal[4, 8, 16, 32]
Variant = Literal["plain", "vd"]

STAGE_STRIDES: tuple[Stride, ...] = (4, 8, 16, 32)
STAGE_WIDTHS = (64, 128, 256, 512)
"""Channels inside the blocks of the four stages; bottlenecks put out four times as many."""
BLOCKS_PER_STAGE = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
"""Of the published depths; from 50 on the blocks are bottlenecks."""


class ResNetConfig(Config):
    """Depth and variant of the ResNet, its batch norms, and the strides of its features."""

    kind: Literal["resnet"] = "resnet"
    depth: Literal[18, 34, 50, 101] = 50
    """18 and 34 have basic blocks, 50 and 101 bottlenecks."""
    variant: Variant = "plain"
    """`plain` as in torchvision and DETR, `vd` as in RT-DETR; the weights of one do not fit the other."""
    batch_norm: Literal["live", "frozen"] = "live"
    """`frozen` keeps statistics, scale and shift as loaded: for pretrained weights and batches of few images."""
    frozen_parts: Annotated[int, Field(ge=0, le=5)] = 0
    """Number of frozen parts from the image on: 1 is the stem (RT-DETR), 2 the first stage too (DETR)."""
    blocks_per_stage: tuple[Annotated[int, Field(gt=0)], ...] | None = None
    """One number for each of the four stages, to make a network shallower than its depth."""
    width: Annotated[float, Field(ge=0.25, multiple_of=0.25)] = 1.0
    """Factor on the channels of every layer; published weights have 1."""
    strides: Annotated[tuple[Stride, ...], Field(min_length=1)] = (8, 16, 32)
    """Strides of the features, fine to coarse; stages beyond the coarsest are left out of the network."""

    @model_validator(mode="after")
    def _check_stages(self) -> ResNetConfig:
        if list(self.strides) != sorted(set(self.strides)):
            raise ValueError(f"strides must ascend, got {self.strides}")
        if self.blocks_per_stage is not None and len(self.blocks_per_stage) != len(STAGE_STRIDES):
            raise ValueError(f"blocks_per_stage needs {len(STAGE_STRIDES)} numbers, got {len(self.blocks_per_stage)}")
        return self


class ResNet(nn.Module):
    """images -> features at the configured strides, fine to coarse."""

    size_multiple = 1
    """Any height and width will do: an odd number of cells is halved upwards."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        depths = config.blocks_per_stage or BLOCKS_PER_STAGE[config.depth]
        norms = [_norm_of(part, config) for part in range(1 + len(STAGE_STRIDES))]
        self.strides = tuple(config.strides)
        widths = [round(width * config.width) for width in STAGE_WIDTHS]
        self.stem = build_stem(config.variant, widths[0], norms[0])
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.stages = nn.ModuleList()
        in_channels, channels = widths[0], []
        for stride, width, num_blocks, norm in zip(STAGE_STRIDES, widths, depths, norms[1:], strict=True):
            if stride <= self.strides[-1]:
                self.stages.append(build_stage(config, in_channels, width, num_blocks, norm, first=stride == 4))
                in_channels = width if config.depth < 50 else 4 * width
                channels += [in_channels] if stride in self.strides else []
        self.channels = tuple(channels)
        self._start_weights()
        for part in (self.stem, *self.stages)[: config.frozen_parts]:
            part.requires_grad_(requires_grad=False)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        """(B, 3, H, W) of any size -> one (B, channels[i], ceil(H / strides[i]), ceil(W / strides[i])) each."""
        # Channels beside each other suit the convolutions of processors and of tensor cores alike.
        features = self.pool(self.stem(images.contiguous(memory_format=torch.channels_last)))
        pyramid = []
        for stride, stage in zip(STAGE_STRIDES, self.stages, strict=False):
            features = stage(features)
            if stride in self.strides:
                pyramid.append(features)
        return pyramid

    def forward_classification_features(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """(B, 3, H, W) -> (B, channels[-1]): the coarsest features, averaged over the image."""
        return self(images)[-1].mean(dim=(2, 3))

    def _start_weights(self) -> None:
        """Normal weights that keep the size of the gradients through ReLU (He et al. 2015, arXiv:1502.01852)."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _norm_of(part: int, config: ResNetConfig) -> BatchNormConstants:
    """A part that does not learn must not follow the batches' statistics either."""
    return FROZEN_NORM if config.batch_norm == "frozen" or part < config.frozen_parts else TORCH_NORM


def build_stem(variant: Variant, width: int, norm: BatchNormConstants) -> nn.Sequential:
    """3 -> `width` channels at half the resolution."""
    half = width // 2
    plan = ((3, width, 7, 2),) if variant == "plain" else ((3, half, 3, 2), (half, half, 3, 1), (half, width, 3, 1))
    return nn.Sequential(
        *(
            ConvNormAct(in_channels, out_channels, kernel_size, stride=stride, activation="relu", norm=norm)
            for in_channels, out_channels, kernel_size, stride in plan
        )
    )


def build_stage(
    config: ResNetConfig, in_channels: int, width: int, num_blocks: int, norm: BatchNormConstants, *, first: bool
) -> nn.Sequential:
    """Blocks of one width; the first of them halves the resolution, but not in the first stage, after the pool."""
    blocks: list[nn.Module] = []
    for index in range(num_blocks):
        stride = 2 if index == 0 and not first else 1
        main = basic_layers if config.depth < 50 else bottleneck_layers
        layers = main(in_channels, width, stride, norm)
        out_channels = layers[-1].conv.out_channels
        # torchvision projects only where shapes change; RT-DETR projects in the first block of every stage.
        projects = stride == 2 or in_channels != out_channels or (config.variant == "vd" and index == 0)
        shortcut = build_shortcut(in_channels, out_channels, stride, config.variant, norm) if projects else None
        blocks.append(ResidualBlock(layers, shortcut))
        in_channels = out_channels
    return nn.Sequential(*blocks)


def basic_layers(in_channels: int, width: int, stride: int, norm: BatchNormConstants) -> list[ConvNormAct]:
    """Two 3 x 3 convolutions, the stride on the first."""
    return [
        ConvNormAct(in_channels, width, 3, stride=stride, activation="relu", norm=norm),
        ConvNormAct(width, width, 3, activation="none", norm=norm),
    ]


def bottleneck_layers(in_channels: int, width: int, stride: int, norm: BatchNormConstants) -> list[ConvNormAct]:
    """1 x 1 down to the width, 3 x 3 with the stride, 1 x 1 up to four times the width."""
    return [
        ConvNormAct(in_channels, width, 1, activation="relu", norm=norm),
        ConvNormAct(width, width, 3, stride=stride, activation="relu", norm=norm),
        ConvNormAct(width, 4 * width, 1, activation="none", norm=norm),
    ]


def build_shortcut(
    in_channels: int, out_channels: int, stride: int, variant: Variant, norm: BatchNormConstants
) -> nn.Sequential:
    """A 1 x 1 projection; in `vd` the mean of 2 x 2 cells replaces its stride, which would skip three cells of four."""
    if variant == "plain" or stride == 1:
        return nn.Sequential(ConvNormAct(in_channels, out_channels, 1, stride=stride, activation="none", norm=norm))
    return nn.Sequential(
        nn.AvgPool2d(2, stride=2, ceil_mode=True),
        ConvNormAct(in_channels, out_channels, 1, activation="none", norm=norm),
    )


class ResidualBlock(nn.Module):
    """relu(layers(x) + shortcut(x)), equation (1) of the paper; without a shortcut x itself is added."""

    def __init__(self, layers: Sequence[ConvNormAct], shortcut: nn.Sequential | None) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.shortcut = nn.Identity() if shortcut is None else shortcut
        self.activation = nn.ReLU()

    def forward(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """(B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))."""
        return self.activation(self.layers(features) + self.shortcut(features))
