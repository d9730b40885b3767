"""Vision Transformer (Dosovitskiy et al. 2020, arXiv:2010.11929) with the numbers of torchvision's vit_b_16, vit_l_16.

For detection it gives one map of stride 16, and most blocks may attend within windows only, as in ViTDet (Li et
al. 2022, arXiv:2203.16527, section 3): attention over a large image costs the square of its area.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from handeye.vision.config import Config
from handeye.vision.errors import UserError
from handeye.vision.layers.attention import (
    MultiHeadAttention,
    grid_size,
    join_windows,
    pad_to_windows,
    partition_windows,
)
from handeye.vision.layers.transformer import FeedForward

PATCH = 16
"""Pixels along a side of what becomes one token."""
NORM_EPS = 1e-6
"""Of the published networks; torch's default is ten times larger."""


class Plan(NamedTuple):
    """Width, blocks and heads of one size."""

    dim: int
    depth: int
    num_heads: int


PLANS: dict[Literal["b", "l"], Plan] = {"b": Plan(768, 12, 12), "l": Plan(1024, 24, 16)}


class ViTConfig(Config):
    """Size of the ViT, its attention windows and the image size of its position embeddings."""

    kind: Literal["vit"] = "vit"
    size: Literal["b", "l"] = "b"
    """Base or large, both with patches of 16 x 16 pixels."""
    depth: Annotated[int, Field(gt=0)] | None = None
    """Number of blocks, instead of that of the size."""
    window: Annotated[int, Field(gt=0)] | None = None
    """Cells along a side of the attention windows (ViTDet: 14); without it all blocks have global attention."""
    global_blocks: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """Blocks with global attention in spite of the window, counted from 0; without it the last of each quarter."""
    trained_size_px: Annotated[int, Field(gt=0, multiple_of=PATCH)] = 224
    """Side of the square images that the positions are for; for other sizes they are interpolated."""

    @model_validator(mode="after")
    def _check_blocks(self) -> ViTConfig:
        depth = self.depth or PLANS[self.size].depth
        if self.global_blocks is not None and self.window is None:
            raise ValueError("global_blocks needs a window: without one all blocks have global attention")
        if self.global_blocks and max(self.global_blocks) >= depth:
            raise ValueError(f"global_blocks are counted from 0 to {depth - 1}, got {self.global_blocks}")
        return self


class ViT(nn.Module):
    """images -> one map of stride 16."""

    strides = (PATCH,)

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        plan = PLANS[config.size]
        depth = config.depth or plan.depth
        trained_cells = config.trained_size_px // PATCH
        self.channels = (plan.dim,)
        self.windows = windows_of_blocks(config, depth)
        self.embed = nn.Conv2d(3, plan.dim, PATCH, stride=PATCH)
        self.class_token = nn.Parameter(torch.zeros(1, 1, plan.dim))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 1 + trained_cells**2, plan.dim))
        self.blocks = nn.ModuleList(Block(plan.dim, plan.num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(plan.dim, eps=NORM_EPS)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        """(B, 3, H, W) -> [(B, dim, H / 16, W / 16)]. Raises UserError for sizes that 16 does not divide.

        The final norm belongs to the classifier and is kept here: heads without a norm need tamed features. ViTDet
        leaves it out, since its pyramid norms anyway.
        """
        grid_hw = int(images.shape[2]) // PATCH, int(images.shape[3]) // PATCH
        return [self._encode(images)[:, 1:].transpose(1, 2).unflatten(2, grid_hw)]

    def forward_classification_features(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B dim"]:
        """The class token, on which the published classifiers stand. Raises UserError as `forward`."""
        return self._encode(images)[:, 0]

    def _encode(self, images: Tensor) -> Float[Tensor, "B tokens dim"]:
        """The class token, then the cells row by row."""
        height, width = (int(size) for size in images.shape[-2:])
        if height % PATCH or width % PATCH:
            raise UserError(f"expected a height and width that are multiples of {PATCH}, got {height} x {width}")
        grid_hw = height // PATCH, width // PATCH
        cells = self.embed(images).flatten(2).transpose(1, 2)
        tokens = torch.cat((self.class_token.expand(cells.shape[0], -1, -1), cells), dim=1)
        tokens = tokens + interpolate_positions(self.positions, grid_hw)
        for block, window in zip(self.blocks, self.windows, strict=True):
            tokens = block(tokens) if window is None else refine_in_windows(block, tokens, grid_hw, window)
        return self.norm(tokens)


def windows_of_blocks(config: ViTConfig, depth: int) -> tuple[int | None, ...]:
    """The window of each block, or None for global attention."""
    last_of_quarters = tuple(-(-depth * quarter // 4) - 1 for quarter in (1, 2, 3, 4))
    everywhere = last_of_quarters if config.global_blocks is None else config.global_blocks
    return tuple(None if block in everywhere else config.window for block in range(depth))


def interpolate_positions(
    positions: Float[Tensor, "1 trained dim"], grid_hw: tuple[int, int]
) -> Float[Tensor, "1 tokens dim"]:
    """Positions of a class token and a square grid for another grid: bicubic, so that the edges of both meet."""
    side = math.isqrt(int(positions.shape[1]) - 1)
    if grid_hw == (side, side):
        return positions
    grid = positions[:, 1:].transpose(1, 2).unflatten(2, (side, side))
    resized = functional.interpolate(grid, grid_hw, mode="bicubic", align_corners=False)
    return torch.cat((positions[:, :1], resized.flatten(2).transpose(1, 2)), dim=1)


class Block(nn.Module):
    """Attention, then a network over each token by itself; both see normed tokens and add to what came."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attention = MultiHeadAttention(dim, num_heads)
        self.feed_forward_norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.feed_forward = FeedForward(dim, 4 * dim, activation="gelu")

    def forward(
        self, tokens: Float[Tensor, "B N dim"], is_pad: Bool[Tensor, "B N"] | None = None
    ) -> Float[Tensor, "B N dim"]:
        """Keeps the shape; keys where is_pad are masked."""
        normed = self.attention_norm(tokens)
        tokens = tokens + self.attention(normed, normed, normed, is_pad=is_pad)
        return tokens + self.feed_forward(self.feed_forward_norm(tokens))


def refine_in_windows(
    block: nn.Module, tokens: Float[Tensor, "B tokens dim"], grid_hw: tuple[int, int], window: int
) -> Float[Tensor, "B tokens dim"]:
    """A `Block` over each window by itself. The class token, which is in no window, stays as it is.

    Cells that pad the grid to whole windows are masked; ViTDet's code lets them be seen as zeros.
    """
    class_token, cells = tokens[:, :1], tokens[:, 1:].unflatten(1, grid_hw)
    padded = pad_to_windows(cells, window)
    windows = partition_windows(padded, window)
    is_pad = padding_in_windows(grid_hw, window, tokens.device)
    if is_pad is not None:
        is_pad = is_pad.expand(tokens.shape[0], -1, -1).flatten(0, 1)
    refined = block(windows.flatten(0, 1), is_pad).unflatten(0, windows.shape[:2])
    joined = join_windows(refined, grid_size(padded), window)
    return torch.cat((class_token, joined[:, : grid_hw[0], : grid_hw[1]].flatten(1, 2)), dim=1)


def padding_in_windows(
    grid_hw: tuple[int, int], window: int, device: torch.device
) -> Bool[Tensor, "1 windows cells"] | None:
    """Which cells of each window lie beyond the grid; None when the windows divide it."""
    if grid_hw[0] % window == 0 and grid_hw[1] % window == 0:
        return None
    is_cell = torch.ones(1, *grid_hw, 1, dtype=torch.int64, device=device)
    return partition_windows(pad_to_windows(is_cell, window), window)[..., 0] == 0
