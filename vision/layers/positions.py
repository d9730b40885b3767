"""Where a token comes from, as sines and cosines: attention alone knows no places.

Two published forms that differ in all but the idea: DETR's (arXiv:2005.12872, appendix A.4) measures the image without
its padding and interleaves sine and cosine; RT-DETR's (arXiv:2304.08069) counts cells and keeps the four parts apart.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

TEMPERATURE = 10_000.0
"""The slowest wave is this much slower than the fastest."""


def sine_positions(is_pad: Bool[Tensor, "B H W"], dim: int) -> Float[Tensor, "B dim H W"]:
    """DETR's: the share of the image above and left of a cell's end, times 2 pi, in waves of dim / 4 lengths.

    The first half of the channels is y, the second x; sine and cosine alternate. Raises ValueError for a dim that
    4 does not divide.
    """
    _check_dim(dim)
    is_image = (~is_pad).to(torch.float32)
    frequencies = _frequencies(dim // 4, is_pad.device)
    halves = []
    for axis in (1, 2):
        count = is_image.cumsum(dim=axis)
        # The end of a column that is all padding is 0: the small number keeps it finite.
        share = count / (is_image.sum(dim=axis, keepdim=True) + 1e-6)
        angles = 2 * math.pi * share[..., None] * frequencies
        halves.append(torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2))
    return torch.cat(halves, dim=-1).permute(0, 3, 1, 2)


def sin_cos_table(height: int, width: int, dim: int, device: torch.device | None = None) -> Float[Tensor, "HW dim"]:
    """RT-DETR's: sines of the row, cosines of the row, sines of the column, cosines of the column, dim / 4 each.

    Cells row by row, as features are flattened. The published code flattens its table column by column: the same for
    a square (its "w" is then our row), scrambled for any other map. Ours is right for every shape, as is that of the
    transformers library. Raises ValueError for a dim that 4 does not divide.
    """
    _check_dim(dim)
    frequencies = _frequencies(dim // 4, device)
    rows = torch.arange(height, device=device)[:, None] * frequencies
    columns = torch.arange(width, device=device)[:, None] * frequencies
    of_row = torch.cat((rows.sin(), rows.cos()), dim=-1)[:, None].expand(height, width, dim // 2)
    of_column = torch.cat((columns.sin(), columns.cos()), dim=-1).expand(height, width, dim // 2)
    return torch.cat((of_row, of_column), dim=-1).flatten(0, 1)


def _frequencies(num: int, device: torch.device | None) -> Float[Tensor, " num"]:
    """1, ..., almost 1 / TEMPERATURE, evenly in the logarithm."""
    return TEMPERATURE ** -(torch.arange(num, device=device, dtype=torch.float32) / num)


def _check_dim(dim: int) -> None:
    if dim % 4:
        raise ValueError(f"expected a width that 4 divides (sine and cosine of y and of x), got {dim}")
