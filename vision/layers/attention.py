"""Multi-head attention (Vaswani et al. 2017, arXiv:1706.03762, section 3.2), position embeddings, windows.

Query, key and value have separate projections: published weights pack them into one, and the key maps of
`checkpoints` take them apart. Masks add a large finite number, not infinity: half precision, quantization and rows
that are masked altogether stay finite with it.

Sine position embeddings have two published forms: DETR's (arXiv:2005.12872, appendix A.4) measures the image without
its padding and interleaves sine and cosine; RT-DETR's (arXiv:2304.08069) counts cells and keeps the four parts apart.
Windows of a token grid are those of Swin (Liu et al. 2021, arXiv:2103.14030); their sizes are plain numbers, so that
an exported graph has constants where it would compute with shapes.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

HIDDEN = -1e4
"""Added to the score of a masked key: exp of it is 0 in single precision, and half precision can hold it."""
TEMPERATURE = 10_000.0
"""Ratio of the highest to the lowest frequency of the sine position embeddings."""


class MultiHeadAttention(nn.Module):
    """softmax(Q K^T / sqrt(dim / num_heads)) V in each head, then a projection of all heads together.

    Raises ValueError when num_heads does not divide dim.
    """

    def __init__(self, dim: int, num_heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"expected a width that {num_heads} heads divide, got {dim}")
        self.num_heads = num_heads
        self.dropout = dropout
        self.scale = 1.0 / math.sqrt(dim // num_heads)
        self.project_query = nn.Linear(dim, dim)
        self.project_key = nn.Linear(dim, dim)
        self.project_value = nn.Linear(dim, dim)
        self.project_out = nn.Linear(dim, dim)
        for projection in (self.project_query, self.project_key, self.project_value):
            # As for one matrix of three times the height, which is what the published code initialises.
            nn.init.xavier_uniform_(projection.weight, gain=math.sqrt(0.5))
            nn.init.zeros_(projection.bias)
        nn.init.xavier_uniform_(self.project_out.weight)
        nn.init.zeros_(self.project_out.bias)

    def forward(
        self,
        query: Float[Tensor, "B Q dim"],
        key: Float[Tensor, "B K dim"],
        value: Float[Tensor, "B K dim"],
        *,
        is_pad: Bool[Tensor, "B K"] | None = None,
        is_hidden: Bool[Tensor, "Q K"] | None = None,
    ) -> Float[Tensor, "B Q dim"]:
        """The attended values. is_pad masks keys that are padding; is_hidden[q, k] masks key k for query q."""
        attended = functional.scaled_dot_product_attention(
            self._split(self.project_query(query)),
            self._split(self.project_key(key)),
            self._split(self.project_value(value)),
            attn_mask=finite_mask(is_pad, is_hidden, query.dtype),
            dropout_p=self.dropout if self.training else 0.0,
            scale=self.scale,
        )
        return self.project_out(attended.transpose(1, 2).flatten(2))

    def weights(
        self,
        query: Float[Tensor, "B Q dim"],
        key: Float[Tensor, "B K dim"],
        *,
        is_pad: Bool[Tensor, "B K"] | None = None,
        is_hidden: Bool[Tensor, "Q K"] | None = None,
    ) -> Float[Tensor, "B heads Q K"]:
        """Attention weights of each head, for plots. Rows sum to 1."""
        queries, keys = self._split(self.project_query(query)), self._split(self.project_key(key))
        scores = self.scale * (queries @ keys.transpose(-2, -1))
        mask = finite_mask(is_pad, is_hidden, query.dtype)
        return (scores if mask is None else scores + mask).softmax(dim=-1)

    @torch.no_grad()
    def fold_scale(self) -> None:
        """Fold the scale into the query's projection before an export, where it costs nothing. Cannot be undone."""
        self.project_query.weight.mul_(self.scale)
        self.project_query.bias.mul_(self.scale)
        self.scale = 1.0

    def _split(self, tokens: Float[Tensor, "B N dim"]) -> Float[Tensor, "B heads N head_dim"]:
        return tokens.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def finite_mask(
    is_pad: Bool[Tensor, "B K"] | None, is_hidden: Bool[Tensor, "Q K"] | None, dtype: torch.dtype
) -> Float[Tensor, "#B 1 #Q K"] | None:
    """The additive mask: 0 where a key is visible, HIDDEN where not; None when all are."""
    hidden = None if is_pad is None else is_pad[:, None, None]
    if is_hidden is not None:
        hidden = is_hidden[None, None] if hidden is None else hidden | is_hidden
    return None if hidden is None else hidden.to(dtype) * HIDDEN


def sine_positions(is_pad: Bool[Tensor, "B H W"], dim: int) -> Float[Tensor, "B dim H W"]:
    """DETR's: the fraction of the image above and left of a cell's end, times 2 pi, at dim / 4 frequencies.

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
