"""Transformer layers of DETR (Carion et al. 2020, arXiv:2005.12872, appendix A.4), the norm after each sum.

Positions are added to queries and keys in every layer and never to values: what is carried away has no place in it.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from handeye.vision.layers.attention import MultiHeadAttention
from handeye.vision.layers.convolution import Activation, build_activation


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
    """Every token looks at all tokens, then thinks by itself."""

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
        """Keeps the shape; tokens where is_pad are not looked at."""
        placed = tokens + positions
        attended = self.attention(placed, placed, tokens, is_pad=is_pad)
        tokens = self.attention_norm(tokens + self.dropout(attended))
        return self.feed_forward_norm(tokens + self.dropout(self.feed_forward(tokens)))


class DecoderLayer(nn.Module):
    """Queries look at each other, then at the image (`memory`), then think by themselves."""

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
        """How much each query, given as to `forward`, looks at each place of the image in this layer."""
        queries = self._self_attend(queries, query_positions)
        return self.cross_attention.weights(queries + query_positions, placed_memory, is_pad=is_pad)

    def _self_attend(self, queries: Tensor, query_positions: Tensor) -> Tensor:
        placed = queries + query_positions
        return self.self_attention_norm(queries + self.dropout(self.self_attention(placed, placed, queries)))
