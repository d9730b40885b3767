"""What the decoder of D-FINE (Peng et al. 2024, arXiv:2410.13842) is made of: its layer, gate, and small predictors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from handeye.vision.layers.attention import MultiHeadAttention
from handeye.vision.layers.deformable import DeformableAttention, Sampling, SamplingPoints
from handeye.vision.layers.distribution import split_edges
from handeye.vision.layers.transformer import FeedForward

LARGEST_HALF = torch.finfo(torch.float16).max
"""A larger sum would become infinite in half precision before its norm."""
SHARPEST = 4
"""So many of an edge's largest probabilities tell how sharp its distribution is."""
QUALITY_DIM = 64
"""Width inside the predictor of the quality."""


class DfineDecoderLayer(nn.Module):
    """Queries look at each other, then at the image around their boxes, then think by themselves.

    The memory is read without projections, and a gate instead of a sum takes in what was found there.
    """

    def __init__(
        self, dim: int, num_heads: int, feed_forward_dim: int, points_per_level: Sequence[int], sampling: Sampling
    ) -> None:
        super().__init__()
        self.self_attention = MultiHeadAttention(dim, num_heads)
        self.self_attention_norm = nn.LayerNorm(dim)
        self.cross_attention = DeformableAttention(
            dim, num_heads, points_per_level, with_projections=False, sampling=sampling
        )
        self.gateway = Gateway(dim)
        self.feed_forward = FeedForward(dim, feed_forward_dim)
        self.feed_forward_norm = nn.LayerNorm(dim)

    def forward(
        self,
        queries: Float[Tensor, "B Q dim"],
        positions: Float[Tensor, "B Q dim"],
        boxes_cxcywh_norm: Float[Tensor, "B Q 4"],
        memory: Float[Tensor, "B N dim"],
        sizes_hw: Sequence[tuple[int, int]],
        is_hidden: Bool[Tensor, "Q Q"] | None = None,
    ) -> Float[Tensor, "B Q dim"]:
        """Keeps the shape of the queries. is_hidden[i, j]: query i must not see query j."""
        queries = self._self_attend(queries, positions, is_hidden)
        found = self.cross_attention(queries + positions, boxes_cxcywh_norm, memory, sizes_hw)
        queries = self.gateway(queries, found)
        thought = queries + self.feed_forward(queries)
        return self.feed_forward_norm(thought.clamp(-LARGEST_HALF, LARGEST_HALF))

    def look(
        self,
        queries: Float[Tensor, "B Q dim"],
        positions: Float[Tensor, "B Q dim"],
        boxes_cxcywh_norm: Float[Tensor, "B Q 4"],
    ) -> SamplingPoints:
        """Where each query, given as to `forward`, looks at the image in this layer."""
        return self.cross_attention.look(self._self_attend(queries, positions) + positions, boxes_cxcywh_norm)

    def _self_attend(self, queries: Tensor, positions: Tensor, is_hidden: Tensor | None = None) -> Tensor:
        placed = queries + positions
        return self.self_attention_norm(queries + self.self_attention(placed, placed, queries, is_hidden=is_hidden))


class Gateway(nn.Module):
    """What a query was and what it found, each let through by a gate of its own for every channel, then a norm."""

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


class LocalisationQuality(nn.Module):
    """Distributions of the edges -> what is added to all class logits: sharp edges make a box trustworthy.

    The idea is that of generalised focal loss v2 (Li et al. 2020, arXiv:2011.12885). Adds nothing at first.
    """

    def __init__(self) -> None:
        super().__init__()
        last = nn.Linear(QUALITY_DIM, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.judge = nn.Sequential(nn.Linear(4 * (SHARPEST + 1), QUALITY_DIM), nn.ReLU(), last)

    def forward(self, edge_logits: Float[Tensor, "B Q edges_bins"]) -> Float[Tensor, "B Q 1"]:
        """The largest probabilities of each edge and their mean, judged together."""
        largest = split_edges(edge_logits).softmax(dim=-1).topk(SHARPEST, dim=-1).values
        return self.judge(torch.cat((largest, largest.mean(dim=-1, keepdim=True)), dim=-1).flatten(-2))


class EdgePredictor(nn.Sequential):
    """Queries -> what is added to the logits of the four edges' bins; nothing at first."""

    def __init__(self, dim: int, num_bins: int) -> None:
        last = nn.Linear(dim, 4 * num_bins)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        super().__init__(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), last)
