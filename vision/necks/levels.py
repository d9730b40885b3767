"""The neck that is none: the coarsest levels as they are, for heads that need no pyramid (DETR, YOLO v1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from handeye.vision.config import Config


class LevelsConfig(Config):
    """How many levels go on."""

    kind: Literal["levels"] = "levels"
    num_levels: Annotated[int, Field(gt=0)] = 1
    """So many of the coarsest levels are kept."""


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
