"""Square windows of a grid of tokens, for attention that looks no further (Liu et al. 2021, arXiv:2103.14030).

Sizes are plain numbers here: an exported graph then has constants where it would compute with shapes.
"""

from __future__ import annotations

from jaxtyping import Shaped
from torch import Tensor
from torch.nn import functional


def grid_size(tokens: Shaped[Tensor, "B H W C"]) -> tuple[int, int]:
    """Rows and columns of a grid of tokens."""
    return int(tokens.shape[1]), int(tokens.shape[2])


def pad_to_windows(tokens: Shaped[Tensor, "B H W C"], window: int) -> Shaped[Tensor, "B h w C"]:
    """Zeros below and to the right, until windows of `window` x `window` cells fit."""
    height, width = grid_size(tokens)
    if height % window == 0 and width % window == 0:
        return tokens
    return functional.pad(tokens, (0, 0, 0, -width % window, 0, -height % window))


def partition_windows(tokens: Shaped[Tensor, "B H W C"], window: int) -> Shaped[Tensor, "B windows cells C"]:
    """Each window as one row of tokens; windows and the cells in them run row by row. `window` divides H and W."""
    rows, columns = (size // window for size in grid_size(tokens))
    dim = int(tokens.shape[3])
    tiles = tokens.reshape(-1, rows, window, columns, window, dim).transpose(2, 3)
    return tiles.reshape(-1, rows * columns, window * window, dim)


def join_windows(
    windows: Shaped[Tensor, "B windows cells C"], size_hw: tuple[int, int], window: int
) -> Shaped[Tensor, "B H W C"]:
    """The inverse of `partition_windows` for a grid of that size."""
    rows, columns = (size // window for size in size_hw)
    dim = int(windows.shape[3])
    tiles = windows.reshape(-1, rows, columns, window, window, dim).transpose(2, 3)
    return tiles.reshape(-1, *size_hw, dim)
