"""Swin Transformer (Liu et al. 2021, arXiv:2103.14030): attention inside small windows that shift between blocks.

The numbers are those of torchvision's swin_t, swin_s and swin_b. Tokens lie channels last, as attention wants them.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from handeye.vision.config import Config
from handeye.vision.layers.attention import grid_size, join_windows, pad_to_windows, partition_windows
from handeye.vision.layers.stochastic_depth import StochasticDepth
from handeye.vision.layers.transformer import FeedForward

Stride = Literal[4, 8, 16, 32]

STAGE_STRIDES: tuple[Stride, ...] = (4, 8, 16, 32)
PATCH = 4
"""Pixels along a side of what becomes one token."""
WINDOW = 7
"""Cells along a side of a window."""
OTHER_REGION = -100.0
"""Added to the score of a cell that only the shift brought into the window; the published weights learnt with it."""


class Plan(NamedTuple):
    """Width of the first stage, which doubles with each; blocks and heads of the four stages."""

    dim: int
    num_blocks: tuple[int, int, int, int]
    num_heads: tuple[int, int, int, int]


PLANS: dict[Literal["t", "s", "b"], Plan] = {
    "t": Plan(96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "s": Plan(96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "b": Plan(128, (2, 2, 18, 2), (4, 8, 16, 32)),
}


class SwinConfig(Config):
    """Size of the Swin, and the strides of its features."""

    kind: Literal["swin"] = "swin"
    size: Literal["t", "s", "b"] = "t"
    """Tiny, small or base."""
    blocks_per_stage: tuple[Annotated[int, Field(gt=0)], ...] | None = None
    """One number for each of the four stages, to make a network shallower than its size."""
    stochastic_depth: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """How often training skips the last block, rising evenly from 0 at the first. Published: t .2, s .3, b .5."""
    strides: Annotated[tuple[Stride, ...], Field(min_length=1)] = (8, 16, 32)
    """Strides of the features, fine to coarse; stages beyond the coarsest are left out of the network."""

    @model_validator(mode="after")
    def _check_stages(self) -> SwinConfig:
        if list(self.strides) != sorted(set(self.strides)):
            raise ValueError(f"strides must ascend, got {self.strides}")
        if self.blocks_per_stage is not None and len(self.blocks_per_stage) != len(STAGE_STRIDES):
            raise ValueError(f"blocks_per_stage needs {len(STAGE_STRIDES)} numbers, got {len(self.blocks_per_stage)}")
        return self


class Swin(nn.Module):
    """images -> features at the configured strides, fine to coarse, each with a separate norm.

    Published classifiers have the norm of stride 32 only.
    """

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        plan = PLANS[config.size]
        depths = config.blocks_per_stage or plan.num_blocks
        rates = torch.linspace(0, config.stochastic_depth, sum(depths), device="cpu").split(list(depths))
        self.strides = tuple(config.strides)
        self.channels = tuple(plan.dim * stride // STAGE_STRIDES[0] for stride in self.strides)
        self.embed = PatchEmbedding(plan.dim)
        self.stages = nn.ModuleList(
            Stage(plan.dim << index, plan.num_heads[index], rates[index].tolist(), merges=index > 0)
            for index, stride in enumerate(STAGE_STRIDES)
            if stride <= self.strides[-1]
        )
        self.norms = nn.ModuleDict(
            {f"stride{stride}": nn.LayerNorm(dim) for stride, dim in zip(self.strides, self.channels, strict=True)}
        )
        self._start_weights()

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        """(B, 3, H, W) of any size -> one (B, channels[i], ceil(H / strides[i]), ceil(W / strides[i])) each."""
        tokens = self.embed(images)
        pyramid = []
        for stride, stage in zip(STAGE_STRIDES, self.stages, strict=False):
            tokens = stage(tokens)
            if stride in self.strides:
                pyramid.append(self.norms[f"stride{stride}"](tokens).permute(0, 3, 1, 2).contiguous())
        return pyramid

    def forward_classification_features(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C"]:
        """The mean of the features at stride 32, on which the published classifiers stand.

        Raises ValueError for a backbone that ends before.
        """
        if self.strides[-1] != STAGE_STRIDES[-1]:
            raise ValueError(f"classification needs the features of stride 32; the coarsest is {self.strides[-1]}")
        return self(images)[-1].mean(dim=(2, 3))

    def _start_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


class PatchEmbedding(nn.Module):
    """Patches of 4 x 4 pixels to tokens."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(3, dim, PATCH, stride=PATCH)
        self.norm = nn.LayerNorm(dim)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B h w dim"]:
        """(B, 3, H, W) -> (B, ceil(H / 4), ceil(W / 4), dim)."""
        height, width = (int(size) for size in images.shape[-2:])
        # Zeros complete the last patches, as in the authors' detector; torchvision would cut the pixels off.
        whole = functional.pad(images, (0, -width % PATCH, 0, -height % PATCH))
        return self.norm(self.project(whole).permute(0, 2, 3, 1))


class PatchMerging(nn.Module):
    """2 x 2 tokens of width d become one: 4 d numbers side by side, a norm, then a projection to 2 d (section 3.1)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduce = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, tokens: Float[Tensor, "B H W dim"]) -> Float[Tensor, "B h w merged"]:
        """(B, H, W, dim) -> (B, ceil(H / 2), ceil(W / 2), 2 dim)."""
        even = pad_to_windows(tokens, 2)
        # Columns before rows: the order of the published weights.
        quarters = [even[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduce(self.norm(torch.cat(quarters, dim=-1)))


class Stage(nn.Module):
    """Blocks of one width, every second one with shifted windows; all stages but the first merge patches before."""

    def __init__(self, dim: int, num_heads: int, skip_rates: list[float], *, merges: bool) -> None:
        super().__init__()
        self.merge = PatchMerging(dim // 2) if merges else nn.Identity()
        self.blocks = nn.ModuleList(Block(dim, num_heads, rate) for rate in skip_rates)

    def forward(self, tokens: Float[Tensor, "B H W C"]) -> Float[Tensor, "B h w dim"]:
        """(B, H, W, dim / 2) -> (B, ceil(H / 2), ceil(W / 2), dim); the first stage keeps the shape."""
        tokens = self.merge(tokens)
        height, width = grid_size(tokens)
        shift_hw = shift_of(height, WINDOW), shift_of(width, WINDOW)
        mask = shift_mask((height, width), shift_hw, WINDOW).to(tokens)
        for index, block in enumerate(self.blocks):
            tokens = block(tokens, shift_hw, mask) if index % 2 and any(shift_hw) else block(tokens)
        return tokens


class Block(nn.Module):
    """Attention in windows, then a network over each token by itself; both see normed tokens and add to what came."""

    def __init__(self, dim: int, num_heads: int, skip_rate: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = WindowAttention(dim, num_heads, WINDOW)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, 4 * dim, activation="gelu")
        self.skip = StochasticDepth(skip_rate)

    def forward(
        self,
        tokens: Float[Tensor, "B H W dim"],
        shift_hw: tuple[int, int] = (0, 0),
        mask: Float[Tensor, "windows 1 cells cells"] | None = None,
    ) -> Float[Tensor, "B H W dim"]:
        """Keeps the shape. shift_hw, mask: see `WindowAttention`."""
        tokens = tokens + self.skip(self.attention(self.attention_norm(tokens), shift_hw, mask))
        return tokens + self.skip(self.feed_forward(self.feed_forward_norm(tokens)))


class WindowAttention(nn.Module):
    """softmax(Q K^T / sqrt(d) + bias) V in each window and head, equation (4); the bias depends on the offset only."""

    offset_index: Tensor

    def __init__(self, dim: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.num_heads, self.window = num_heads, window
        self.project_qkv = nn.Linear(dim, 3 * dim)
        self.project_out = nn.Linear(dim, dim)
        self.offset_bias = nn.Parameter(torch.empty((2 * window - 1) ** 2, num_heads))
        nn.init.trunc_normal_(self.offset_bias, std=0.02)
        self.register_buffer("offset_index", offset_index(window), persistent=False)

    def forward(
        self,
        tokens: Float[Tensor, "B H W dim"],
        shift_hw: tuple[int, int] = (0, 0),
        mask: Float[Tensor, "windows 1 cells cells"] | None = None,
    ) -> Float[Tensor, "B H W dim"]:
        """Keeps the shape. The windows begin shift_hw cells further down and right; what leaves the grid comes back
        at its other end, and mask (of `shift_mask`) keeps it apart there.

        Cells that pad the grid to whole windows are seen as zeros before the projection, as in the published code.
        """
        height, width = grid_size(tokens)
        padded = pad_to_windows(tokens, self.window)
        windows = partition_windows(_rolled(padded, (-shift_hw[0], -shift_hw[1])), self.window)
        attended = self._attend(windows, mask)
        joined = join_windows(attended, grid_size(padded), self.window)
        return _rolled(joined, shift_hw)[:, :height, :width]

    def _attend(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        num_windows, cells, dim = (int(size) for size in windows.shape[1:])
        packed = self.project_qkv(windows).reshape(-1, num_windows, cells, 3, self.num_heads, dim // self.num_heads)
        query, key, value = packed.permute(3, 0, 1, 4, 2, 5).unbind()  # (B, windows, heads, cells, head_dim) each
        bias = self.bias() if mask is None else self.bias() + mask
        scale = (dim // self.num_heads) ** -0.5
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=scale)
        return self.project_out(attended.transpose(2, 3).reshape(-1, num_windows, cells, dim))

    def bias(self) -> Float[Tensor, "heads cells cells"]:
        """What is added to the score of each pair of cells of a window."""
        return self.offset_bias[self.offset_index].permute(2, 0, 1)


def _rolled(tokens: Float[Tensor, "B H W C"], shift_hw: tuple[int, int]) -> Float[Tensor, "B H W C"]:
    return tokens.roll(shift_hw, dims=(1, 2)) if any(shift_hw) else tokens


def offset_index(window: int) -> Int[Tensor, "cells cells"]:
    """For each pair of cells of a window the row of the bias table: (rows apart, columns apart), counted from 0."""
    cells = torch.cartesian_prod(torch.arange(window), torch.arange(window))
    offsets = cells[:, None] - cells[None] + window - 1
    return offsets[..., 0] * (2 * window - 1) + offsets[..., 1]


def shift_of(length: int, window: int) -> int:
    """Half a window, but nothing where a single window holds the whole length."""
    return 0 if length <= window else window // 2


def shift_mask(
    size_hw: tuple[int, int], shift_hw: tuple[int, int], window: int
) -> Float[Tensor, "windows 1 cells cells"]:
    """0 between cells of one region, OTHER_REGION between cells that lie apart but for the shift."""
    rows, columns = (_regions(length, shift, window) for length, shift in zip(size_hw, shift_hw, strict=True))
    regions = partition_windows((3 * rows[:, None] + columns)[None, ..., None], window)[0]  # (windows, cells, 1)
    return (regions != regions.transpose(1, 2))[:, None] * OTHER_REGION


def _regions(length: int, shift: int, window: int) -> Int[Tensor, " padded"]:
    """Along one side: 0 for cells whose window the shift leaves whole, 1 and 2 for the two parts of the last one."""
    padded = length + -length % window
    place = torch.arange(padded)
    if shift == 0:
        return torch.zeros_like(place)
    return (place >= padded - window).long() + (place >= padded - shift).long()
