"""Transformer encoder and decoder layers of the DETR family, with the norm after each residual sum (post-norm).

DETR: Carion et al. 2020 (arXiv:2005.12872, appendix A.4). Decoder layers with deformable cross-attention: RT-DETR
(Zhao et al. 2023, arXiv:2304.08069) and D-FINE (Peng et al. 2024, arXiv:2410.13842). Position embeddings are added to
queries and keys in every layer, never to values.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from handeye.vision.layers.attention import MultiHeadAttention
from handeye.vision.layers.convolution import Activation, build_activation
from handeye.vision.layers.deformable import DeformableAttention, Sampling, SamplingPoints

LARGEST_HALF = torch.finfo(torch.float16).max
"""A larger sum would become infinite in half precision before its norm."""


def map_to_tokens(features: Float[Tensor, "B C h w"]) -> Float[Tensor, "B h*w C"]:
    """The cells of a map in a row, row by row.

    The gradient of a single map goes back as the map itself lies in memory, channel by channel: on CPUs torch (2.15)
    takes one that lies cell by cell for something else, and a batch norm before gives wrong gradients.
    """
    is_traced = torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage] - documented
    is_drawn = is_traced or torch.compiler.is_compiling()  # a graph has no hooks and no such gradients
    if not is_drawn and features.requires_grad and len(features) == 1 and features.is_contiguous():
        features.register_hook(torch.Tensor.contiguous)
    return features.flatten(2).transpose(1, 2)


class FeedForward(nn.Module):
    """Two linear layers with an activation between, each token by itself."""

    def __init__(self, dim: int, hidden_dim: int, *, activation: Activation = "relu", dropout: float = 0.0) -> None:
        super().__init__()
        self.expand = nn.Linear(dim, hidden_dim)
        self.activation = build_activation(activation)
        self.dropout = nn.Dropout(dropout)
        self.contract = nn.Linear(hidden_dim, dim)
        for linear in (self.expand, self.contract):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, tokens: Float[Tensor, "*shape dim"]) -> Float[Tensor, "*shape dim"]:
        """Keeps the shape."""
        return self.contract(self.dropout(self.activation(self.expand(tokens))))


class EncoderLayer(nn.Module):
    """Self-attention over all tokens, then a feed-forward network for each."""

    def __init__(
        self, dim: int, num_heads: int, feed_forward_dim: int, *, activation: Activation = "relu", dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(dim, num_heads, dropout=dropout)
        self.attention_norm = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, feed_forward_dim, activation=activation, dropout=dropout)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        tokens: Float[Tensor, "B N dim"],
        positions: Float[Tensor, "#B N dim"],
        *,
        is_pad: Bool[Tensor, "B N"] | None = None,
    ) -> Float[Tensor, "B N dim"]:
        """Keeps the shape; keys where is_pad are masked."""
        placed = tokens + positions
        attended = self.attention(placed, placed, tokens, is_pad=is_pad)
        tokens = self.attention_norm(tokens + self.dropout(attended))
        return self.feed_forward_norm(tokens + self.dropout(self.feed_forward(tokens)))


class DecoderLayer(nn.Module):
    """Self-attention of the queries, cross-attention to the image (`memory`), then a feed-forward network for each."""

    def __init__(
        self, dim: int, num_heads: int, feed_forward_dim: int, *, activation: Activation = "relu", dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.self_attention = MultiHeadAttention(dim, num_heads, dropout=dropout)
        self.self_attention_norm = nn.LayerNorm(dim)
        self.cross_attention = MultiHeadAttention(dim, num_heads, dropout=dropout)
        self.cross_attention_norm = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, feed_forward_dim, activation=activation, dropout=dropout)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        queries: Float[Tensor, "B Q dim"],
        query_positions: Float[Tensor, "#B Q dim"],
        memory: Float[Tensor, "B N dim"],
        placed_memory: Float[Tensor, "B N dim"],
        *,
        is_pad: Bool[Tensor, "B N"] | None = None,
    ) -> Float[Tensor, "B Q dim"]:
        """Keeps the shape of the queries. placed_memory is memory plus its positions, the same for all layers."""
        queries = self._self_attend(queries, query_positions)
        found = self.cross_attention(queries + query_positions, placed_memory, memory, is_pad=is_pad)
        queries = self.cross_attention_norm(queries + self.dropout(found))
        return self.feed_forward_norm(queries + self.dropout(self.feed_forward(queries)))

    def memory_weights(
        self,
        queries: Float[Tensor, "B Q dim"],
        query_positions: Float[Tensor, "#B Q dim"],
        placed_memory: Float[Tensor, "B N dim"],
        *,
        is_pad: Bool[Tensor, "B N"] | None = None,
    ) -> Float[Tensor, "B heads Q N"]:
        """Weights of the cross-attention of each query, given as to `forward`."""
        queries = self._self_attend(queries, query_positions)
        return self.cross_attention.weights(queries + query_positions, placed_memory, is_pad=is_pad)

    def _self_attend(self, queries: Tensor, query_positions: Tensor) -> Tensor:
        placed = queries + query_positions
        return self.self_attention_norm(queries + self.dropout(self.self_attention(placed, placed, queries)))


class DeformableDecoderLayer(nn.Module):
    """Self-attention of the queries, deformable cross-attention around their boxes, then a feed-forward network.

    gated: as in D-FINE, where the cross-attention has no value and output projections and a `Gateway` replaces the
    residual sum. bounded: sums before the last norm are clamped to the range of half precision (RT-DETR version 1
    and D-FINE).
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        feed_forward_dim: int,
        points_per_level: Sequence[int],
        *,
        gated: bool,
        bounded: bool,
        sampling: Sampling = "gather",
    ) -> None:
        super().__init__()
        self.bounded = bounded
        self.self_attention = MultiHeadAttention(dim, num_heads)
        self.self_attention_norm = nn.LayerNorm(dim)
        self.cross_attention = DeformableAttention(
            dim, num_heads, points_per_level, with_projections=not gated, sampling=sampling
        )
        self.gateway = Gateway(dim) if gated else None
        self.cross_attention_norm = None if gated else nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, feed_forward_dim)
        self.feed_forward_norm = nn.LayerNorm(dim)

    def forward(
        self,
        queries: Float[Tensor, "B Q dim"],
        positions: Float[Tensor, "B Q dim"],
        boxes_cxcywh_norm: Float[Tensor, "B Q 4"],
        memory: Float[Tensor, "B N dim"],
        sizes_hw: Sequence[tuple[int, int]],
        *,
        is_hidden: Bool[Tensor, "Q Q"] | None = None,
    ) -> Float[Tensor, "B Q dim"]:
        """Keeps the shape of the queries. memory and sizes_hw as in `DeformableAttention`.

        is_hidden[i, j] masks query j in the self-attention of query i.
        """
        queries = self._self_attend(queries, positions, is_hidden)
        found = self.cross_attention(queries + positions, boxes_cxcywh_norm, memory, sizes_hw)
        if self.gateway is not None:
            queries = self.gateway(queries, found)
        elif self.cross_attention_norm is not None:
            queries = self.cross_attention_norm(queries + found)
        queries = queries + self.feed_forward(queries)
        if self.bounded:
            queries = queries.clamp(-LARGEST_HALF, LARGEST_HALF)
        return self.feed_forward_norm(queries)

    def sampling_points(
        self,
        queries: Float[Tensor, "B Q dim"],
        positions: Float[Tensor, "B Q dim"],
        boxes_cxcywh_norm: Float[Tensor, "B Q 4"],
    ) -> SamplingPoints:
        """Where the cross-attention of each query, given as to `forward`, samples the image."""
        queries = self._self_attend(queries, positions)
        return self.cross_attention.sampling_points(queries + positions, boxes_cxcywh_norm)

    def _self_attend(self, queries: Tensor, positions: Tensor, is_hidden: Tensor | None = None) -> Tensor:
        placed = queries + positions
        return self.self_attention_norm(queries + self.self_attention(placed, placed, queries, is_hidden=is_hidden))


class Gateway(nn.Module):
    """Gated sum of a query and its cross-attention, one sigmoid gate for each channel of both, then a norm (D-FINE)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gate = nn.Linear(2 * dim, 2 * dim)
        self.norm = nn.LayerNorm(dim)
        nn.init.zeros_(self.gate.weight)  # both half open at first
        nn.init.zeros_(self.gate.bias)

    def forward(self, queries: Float[Tensor, "B Q dim"], found: Float[Tensor, "B Q dim"]) -> Float[Tensor, "B Q dim"]:
        """Keeps the shape."""
        of_queries, of_found = self.gate(torch.cat((queries, found), dim=-1)).sigmoid().chunk(2, dim=-1)
        return self.norm(of_queries * queries + of_found * found)
