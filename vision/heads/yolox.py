"""The decoupled head of YOLOX (Ge et al. 2021, arXiv:2107.08430): separate branches for class and box.

Every cell of every level predicts one box: its offset from the cell's corner in cells, the logarithm of its size
in cells, whether there is an object, and of which class.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from handeye.vision.boxes.targets import BoxTargets
from handeye.vision.config import Config
from handeye.vision.heads.outputs import GridOutput
from handeye.vision.layers.convolution import ConvNormAct, spatial_convolution

PRIOR_PROBABILITY = 0.01
"""Initial probability of an object in any cell (focal loss prior, Lin et al. 2017, arXiv:1708.02002, section 4.1).

Without it the many empty cells dominate the first steps of training."""


class YoloxHeadConfig(Config):
    """Size of the head."""

    kind: Literal["yolox"] = "yolox"
    hidden_dim: Annotated[int, Field(gt=0)] = 128
    """Channels of both branches. YOLOX: nano 64, tiny 96, s 128, m 192, l 256, x 320."""
    depthwise: bool = False
    """Depthwise-separable 3 x 3 convolutions, as in YOLOX-nano."""


class YoloxHead(nn.Module):
    """Pyramid -> GridOutput, one branch pair for each level. Weights are not shared between levels."""

    def __init__(
        self, config: YoloxHeadConfig, channels: Sequence[int], strides: Sequence[int], num_classes: int
    ) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.levels = nn.ModuleList(YoloxHeadLevel(config, width, num_classes) for width in channels)

    def forward(
        self,
        pyramid: Sequence[Tensor],
        targets: Sequence[BoxTargets] | None = None,  # noqa: ARG002 - not needed for dense predictions
        is_pad: Bool[Tensor, "B H W"] | None = None,  # noqa: ARG002 - padding is grey, as in the published training
    ) -> GridOutput:
        """One (B, channels[i], H / strides[i], W / strides[i]) for each level."""
        predictions = [level(features) for level, features in zip(self.levels, pyramid, strict=True)]
        boxes, objectness, classes = (torch.cat(parts, dim=1) for parts in zip(*predictions, strict=True))
        cell_xy, strides = _cells(pyramid, self.strides)
        return GridOutput(boxes, objectness, classes, cell_xy, strides)


class YoloxHeadLevel(nn.Module):
    """The branches of one level. Objectness shares the features of the box, whose quality it predicts."""

    def __init__(self, config: YoloxHeadConfig, in_channels: int, num_classes: int) -> None:
        super().__init__()
        hidden = config.hidden_dim

        def branch() -> nn.Sequential:
            return nn.Sequential(
                *(spatial_convolution(hidden, hidden, 3, depthwise=config.depthwise) for _ in range(2))
            )

        self.stem = ConvNormAct(in_channels, hidden, 1)
        self.class_branch = branch()
        self.box_branch = branch()
        self.predict_class = nn.Conv2d(hidden, num_classes, 1)
        self.predict_box = nn.Conv2d(hidden, 4, 1)
        self.predict_objectness = nn.Conv2d(hidden, 1, 1)
        prior_logit = -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY)
        for prediction in (self.predict_class, self.predict_objectness):
            nn.init.constant_(prediction.bias, prior_logit)  # pyright: ignore[reportArgumentType] - bias=True above

    def forward(
        self, features: Float[Tensor, "B C H W"]
    ) -> tuple[Float[Tensor, "B cells 4"], Float[Tensor, "B cells 1"], Float[Tensor, "B cells num_classes"]]:
        """Box predictions, objectness logits and class logits of the H * W cells, row by row."""
        shared = self.stem(features)
        box_features = self.box_branch(shared)
        return (
            _to_cells(self.predict_box(box_features)),
            _to_cells(self.predict_objectness(box_features)),
            _to_cells(self.predict_class(self.class_branch(shared))),
        )


def _to_cells(map_: Float[Tensor, "B C H W"]) -> Float[Tensor, "B cells C"]:
    return map_.flatten(2).transpose(1, 2)


def _cells(
    pyramid: Sequence[Tensor], strides: Sequence[int]
) -> tuple[Float[Tensor, "cells 2"], Float[Tensor, "cells 1"]]:
    """Column and row, and stride, of the cells of all levels; at least single precision, for they count pixels."""
    device, dtype = pyramid[0].device, torch.promote_types(pyramid[0].dtype, torch.float32)
    positions, sides = [], []
    for features, stride in zip(pyramid, strides, strict=True):
        height, width = features.shape[-2:]
        columns = torch.arange(width, device=device, dtype=dtype)
        rows = torch.arange(height, device=device, dtype=dtype)
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        positions.append(torch.stack((x, y), dim=-1).reshape(-1, 2))
        sides.append(torch.full_like(positions[-1][:, :1], stride))
    return torch.cat(positions), torch.cat(sides)
