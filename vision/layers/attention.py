"""Attention with several heads (Vaswani et al. 2017, arXiv:1706.03762, section 3.2).

Query, key and value have projections of their own: published weights pack them into one, and the key maps of
`checkpoints` take them apart. What is hidden gets a large finite number, not infinity: half precision, quantisation
and a row that is hidden altogether stay finite with it.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

HIDDEN = -1e4
"""Added to the score of a key that is not to be looked at: exp of it is 0 in single precision; half can hold it."""


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
        """What each query finds. is_pad: keys that are no data; is_hidden[q, k]: query q must not see key k."""
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
        """How much each query looks at each key, head by head: the softmax itself, for pictures. Rows sum to 1."""
        queries, keys = self._split(self.project_query(query)), self._split(self.project_key(key))
        scores = self.scale * (queries @ keys.transpose(-2, -1))
        mask = finite_mask(is_pad, is_hidden, query.dtype)
        return (scores if mask is None else scores + mask).softmax(dim=-1)

    @torch.no_grad()
    def fold_scale(self) -> None:
        """Put the scale into the query's projection, before an export: there it costs nothing. Not to be undone."""
        self.project_query.weight.mul_(self.scale)
        self.project_query.bias.mul_(self.scale)
        self.scale = 1.0

    def _split(self, tokens: Float[Tensor, "B N dim"]) -> Float[Tensor, "B heads N head_dim"]:
        return tokens.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def finite_mask(
    is_pad: Bool[Tensor, "B K"] | None, is_hidden: Bool[Tensor, "Q K"] | None, dtype: torch.dtype
) -> Float[Tensor, "#B 1 #Q K"] | None:
    """What is added to the scores: 0 where a key may be seen, HIDDEN where not; None when all may be."""
    hidden = None if is_pad is None else is_pad[:, None, None]
    if is_hidden is not None:
        hidden = is_hidden[None, None] if hidden is None else hidden | is_hidden
    return None if hidden is None else hidden.to(dtype) * HIDDEN
