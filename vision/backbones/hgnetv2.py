"""HGNetv2 B0 to B5, PaddleClas's backbone as D-FINE (Peng et al. 2024, arXiv:2410.13842) uses it.

A block keeps what each of its convolutions gives and mixes all of it at the end: many views for few operations.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from handeye.vision.config import Config
from handeye.vision.layers.convolution import FROZEN_NORM, TORCH_NORM, BatchNormConstants, ConvNormAct

HGNetv2Size = Literal["b0", "b1", "b2", "b3", "b4", "b5"]
Stride = Literal[4, 8, 16, 32]

STAGE_STRIDES: tuple[Stride, ...] = (4, 8, 16, 32)


class Plan(NamedTuple):
    """Widths and depths of one size: the stem, then one number for each stage, then the layers of every block."""

    stem_channels: tuple[int, int]
    hidden_channels: tuple[int, int, int, int]
    out_channels: tuple[int, int, int, int]
    num_blocks: tuple[int, int, int, int]
    num_layers: int


PLANS: dict[HGNetv2Size, Plan] = {
    "b0": Plan((16, 16), (16, 32, 64, 128), (64, 256, 512, 1024), (1, 1, 2, 1), 3),
    "b1": Plan((24, 32), (32, 48, 96, 192), (64, 256, 512, 1024), (1, 1, 2, 1), 3),
    "b2": Plan((24, 32), (32, 64, 128, 256), (96, 384, 768, 1536), (1, 1, 3, 1), 4),
    "b3": Plan((24, 32), (32, 64, 128, 256), (128, 512, 1024, 2048), (1, 1, 3, 1), 5),
    "b4": Plan((32, 48), (48, 96, 192, 384), (128, 512, 1024, 2048), (1, 1, 3, 1), 6),
    "b5": Plan((32, 64), (64, 128, 256, 512), (128, 512, 1024, 2048), (1, 2, 5, 2), 6),
}


class HGNetv2Config(Config):
    """Size of the backbone. D-FINE: n and s have b0, m b2, all with affine blocks; l has b4, x b5, frozen."""

    kind: Literal["hgnetv2"] = "hgnetv2"
    size: HGNetv2Size = "b0"
    """Which of the published plans of widths and depths."""
    affine: bool = False
    """A learnt scale and offset after every ReLU, which the small sizes gain by."""
    batch_norm: Literal["live", "frozen"] = "live"
    """`frozen` keeps statistics, scale and shift as loaded: for pretrained weights and batches of few images."""
    frozen_parts: Annotated[int, Field(ge=0, le=5)] = 0
    """Number of frozen parts from the image on: 1 is the stem (D-FINE l and x)."""
    strides: Annotated[tuple[Stride, ...], Field(min_length=1)] = (8, 16, 32)
    """Strides of the features, fine to coarse; stages beyond the coarsest are left out of the network."""

    @model_validator(mode="after")
    def _check_strides(self) -> HGNetv2Config:
        if list(self.strides) != sorted(set(self.strides)):
            raise ValueError(f"strides must ascend, got {self.strides}")
        return self


class HGNetv2(nn.Module):
    """images -> features at the configured strides, fine to coarse."""

    def __init__(self, config: HGNetv2Config) -> None:
        super().__init__()
        plan = PLANS[config.size]
        norms = [_norm_of(part, config) for part in range(1 + len(STAGE_STRIDES))]
        self.strides = tuple(config.strides)
        self.channels = tuple(plan.out_channels[STAGE_STRIDES.index(stride)] for stride in self.strides)
        self.stem = Stem(plan.stem_channels, affine=config.affine, norm=norms[0])
        self.stages = nn.ModuleList(
            Stage(plan, index, affine=config.affine, norm=norms[1 + index])
            for index, stride in enumerate(STAGE_STRIDES)
            if stride <= self.strides[-1]
        )
        for part in (self.stem, *self.stages)[: config.frozen_parts]:
            part.requires_grad_(requires_grad=False)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        """(B, 3, H, W) of any size -> one (B, channels[i], ceil(H / strides[i]), ceil(W / strides[i])) each."""
        features = self.stem(images)
        pyramid = []
        for stride, stage in zip(STAGE_STRIDES, self.stages, strict=False):
            features = stage(features)
            if stride in self.strides:
                pyramid.append(features)
        return pyramid


def _norm_of(part: int, config: HGNetv2Config) -> BatchNormConstants:
    """A part that does not learn must not follow the batches' statistics either."""
    return FROZEN_NORM if config.batch_norm == "frozen" or part < config.frozen_parts else TORCH_NORM


class Stem(nn.Module):
    """Images to a quarter of their resolution, by way of a max pool beside two small convolutions."""

    def __init__(self, channels: tuple[int, int], *, affine: bool, norm: BatchNormConstants) -> None:
        super().__init__()
        inner, outer = channels
        self.shrink = ConvReluAffine(3, inner, 3, stride=2, affine=affine, norm=norm)
        self.narrow = ConvReluAffine(inner, inner // 2, 2, affine=affine, norm=norm)
        self.widen = ConvReluAffine(inner // 2, inner, 2, affine=affine, norm=norm)
        self.pool = nn.MaxPool2d(2, stride=1)
        self.shrink_again = ConvReluAffine(2 * inner, inner, 3, stride=2, affine=affine, norm=norm)
        self.mix = ConvReluAffine(inner, outer, 1, affine=affine, norm=norm)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        """(B, 3, H, W) -> (B, channels[1], ceil(H / 4), ceil(W / 4))."""
        padded = _pad_end(self.shrink(images))
        convolved = self.widen(_pad_end(self.narrow(padded)))
        # The zeros of the padding take part in the maximum: with affine blocks features may be negative.
        return self.mix(self.shrink_again(torch.cat((self.pool(padded), convolved), dim=1)))


def _pad_end(features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C h w"]:
    """A column of zeros on the right and a row below, so that a window of 2 x 2 keeps the size."""
    return functional.pad(features, (0, 1, 0, 1))


class Stage(nn.Module):
    """Halve the resolution (but for the first stage), then refine in blocks; all but the first have a shortcut.

    The two coarse stages are wide: their layers are light and see 5 x 5 cells instead of 3 x 3.
    """

    def __init__(self, plan: Plan, index: int, *, affine: bool, norm: BatchNormConstants) -> None:
        super().__init__()
        in_channels = plan.stem_channels[1] if index == 0 else plan.out_channels[index - 1]
        out_channels = plan.out_channels[index]
        self.down = (
            nn.Identity()
            if index == 0
            else ConvNormAct(in_channels, in_channels, 3, stride=2, groups=in_channels, activation="none", norm=norm)
        )
        self.blocks = nn.Sequential(
            *(
                Block(
                    in_channels if block == 0 else out_channels,
                    plan.hidden_channels[index],
                    out_channels,
                    plan.num_layers,
                    light=index >= 2,
                    shortcut=block > 0,
                    affine=affine,
                    norm=norm,
                )
                for block in range(plan.num_blocks[index])
            )
        )

    def forward(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """(B, in_channels, H, W) -> (B, out_channels, ceil(H / 2), ceil(W / 2)); the first stage keeps the size."""
        return self.blocks(self.down(features))


class Block(nn.Module):
    """Layers in a row; the input and what each of them gives are squeezed together and expanded again."""

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int,
        *,
        light: bool,
        shortcut: bool,
        affine: bool,
        norm: BatchNormConstants,
    ) -> None:
        super().__init__()
        self.shortcut = shortcut
        inputs = (in_channels, *(num_layers - 1) * (hidden_channels,))
        self.layers = nn.ModuleList(
            LightLayer(channels, hidden_channels, 5, affine=affine, norm=norm)
            if light
            else ConvReluAffine(channels, hidden_channels, 3, affine=affine, norm=norm)
            for channels in inputs
        )
        gathered = in_channels + num_layers * hidden_channels
        self.squeeze = ConvReluAffine(gathered, out_channels // 2, 1, affine=affine, norm=norm)
        self.expand = ConvReluAffine(out_channels // 2, out_channels, 1, affine=affine, norm=norm)

    def forward(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        views = [features]
        for layer in self.layers:
            views.append(layer(views[-1]))
        mixed = self.expand(self.squeeze(torch.cat(views, dim=1)))
        return mixed + features if self.shortcut else mixed


class LightLayer(nn.Module):
    """A 1 x 1 convolution across channels without activation, then a wider one of each channel by itself."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, affine: bool, norm: BatchNormConstants
    ) -> None:
        super().__init__()
        self.pointwise = ConvNormAct(in_channels, out_channels, 1, activation="none", norm=norm)
        self.depthwise = ConvReluAffine(
            out_channels, out_channels, kernel_size, groups=out_channels, affine=affine, norm=norm
        )

    def forward(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        return self.depthwise(self.pointwise(features))


class ConvReluAffine(ConvNormAct):
    """Convolution, batch norm, ReLU and, where wanted, the affine block. A 2 x 2 kernel is not padded."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        groups: int = 1,
        affine: bool,
        norm: BatchNormConstants,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride=stride, groups=groups, activation="relu", norm=norm
        )
        self.affine = LearnableAffine() if affine else nn.Identity()

    def forward(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """(B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))."""
        return self.affine(super().forward(features))


class LearnableAffine(nn.Module):
    """One scale and one offset for all channels."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Keeps the shape."""
        return self.scale * features + self.bias
