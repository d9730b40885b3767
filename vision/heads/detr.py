"""DETR (Carion et al. 2020, arXiv:2005.12872): a transformer that predicts a fixed number of objects as a set.

The coarsest features become tokens, an encoder relates them by self-attention, and a decoder turns learnt queries
into one box each. No anchors, no NMS: bipartite matching in the loss allows each object one query only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from handeye.vision.boxes.targets import BoxTargets
from handeye.vision.config import Config
from handeye.vision.heads.outputs import QueryOutput, QueryPredictions
from handeye.vision.layers.attention import sine_positions
from handeye.vision.layers.transformer import DecoderLayer, EncoderLayer, map_to_tokens

PositiveInt = Annotated[int, Field(gt=0)]
BOX_LAYERS = 3
"""Linear layers that predict the box of a query."""


class DetrHeadConfig(Config):
    """Size of the transformer; the defaults are the published ones."""

    kind: Literal["detr"] = "detr"
    num_queries: PositiveInt = 100
    """The most objects that can be found in one image."""
    hidden_dim: Annotated[int, Field(gt=0, multiple_of=4)] = 256
    """Width of a token."""
    num_heads: PositiveInt = 8
    num_encoder_layers: PositiveInt = 6
    num_decoder_layers: PositiveInt = 6
    feed_forward_dim: PositiveInt = 2048
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1

    @model_validator(mode="after")
    def _check_heads(self) -> DetrHeadConfig:
        if self.hidden_dim % self.num_heads:
            raise ValueError(f"hidden_dim must be a multiple of num_heads, got {self.hidden_dim} and {self.num_heads}")
        return self


class DetrHead(nn.Module):
    """Pyramid -> QueryOutput with scoring "softmax"; only the coarsest level is used."""

    size_multiple = 1
    """Any height and width will do."""

    def __init__(
        self, config: DetrHeadConfig, channels: Sequence[int], strides: Sequence[int], num_classes: int
    ) -> None:
        super().__init__()
        self.stride = strides[-1]
        dim, dropout = config.hidden_dim, config.dropout
        size = (dim, config.num_heads, config.feed_forward_dim)
        self.project = nn.Conv2d(channels[-1], dim, 1)
        self.encoder = nn.ModuleList(EncoderLayer(*size, dropout=dropout) for _ in range(config.num_encoder_layers))
        self.queries = nn.Embedding(config.num_queries, dim)
        self.decoder = nn.ModuleList(DecoderLayer(*size, dropout=dropout) for _ in range(config.num_decoder_layers))
        self.decoder_norm = nn.LayerNorm(dim)
        self.predict_class = nn.Linear(dim, num_classes + 1)
        self.predict_box = BoxPredictor(dim)

    def forward(
        self,
        pyramid: Sequence[Tensor],
        targets: Sequence[BoxTargets] | None = None,
        is_pad: Bool[Tensor, "B H W"] | None = None,
    ) -> QueryOutput:
        """With targets, the output has the predictions of every decoder layer (`layers`), for the auxiliary losses.

        is_pad marks padding, whose tokens are masked in the attention. Its size is that of the network input; without
        it the features are taken to cover the input exactly.
        """
        input_hw = _input_hw(pyramid[-1], self.stride) if is_pad is None else (is_pad.shape[-2], is_pad.shape[-1])
        memory, placed_memory, is_pad_token = self._encode(pyramid[-1], is_pad)
        layers = self._decode(memory, placed_memory, is_pad_token)
        last = self._predict(layers[-1])
        before = () if targets is None else tuple(self._predict(layer) for layer in layers[:-1])
        return QueryOutput(last.logits, last.boxes_cxcywh_norm, "softmax", input_hw, before)

    def attention_maps(
        self, pyramid: Sequence[Tensor], is_pad: Bool[Tensor, "B H W"] | None = None
    ) -> Float[Tensor, "B Q h w"]:
        """Cross-attention of each query in the last decoder layer, mean over the heads, for plots.

        The map of a query belongs to its row of the output of the same pyramid.
        """
        _, _, height, width = pyramid[-1].shape
        memory, placed_memory, is_pad_token = self._encode(pyramid[-1], is_pad)
        queries, last = self._no_content(memory), self.decoder[-1]
        assert isinstance(last, DecoderLayer)
        for layer in self.decoder[:-1]:
            queries = layer(queries, self.queries.weight[None], memory, placed_memory, is_pad=is_pad_token)
        weights = last.memory_weights(queries, self.queries.weight[None], placed_memory, is_pad=is_pad_token)
        return weights.mean(dim=1).unflatten(-1, (height, width))

    def _encode(
        self, features: Float[Tensor, "B C h w"], is_pad: Bool[Tensor, "B H W"] | None
    ) -> tuple[Float[Tensor, "B N dim"], Float[Tensor, "B N dim"], Bool[Tensor, "B N"] | None]:
        """Memory, memory with positions, and which of its tokens are padding; row by row."""
        if is_pad is None:
            is_pad_cell, is_pad_token = torch.zeros_like(features[:1, 0], dtype=torch.bool), None
        else:
            is_pad_cell = functional.interpolate(is_pad[:, None].float(), features.shape[-2:], mode="nearest")[:, 0] > 0
            is_pad_token = is_pad_cell.flatten(1)
        tokens = map_to_tokens(self.project(features))
        positions = sine_positions(is_pad_cell, self.project.out_channels).flatten(2).transpose(1, 2).to(tokens.dtype)
        for layer in self.encoder:
            tokens = layer(tokens, positions, is_pad=is_pad_token)
        return tokens, tokens + positions, is_pad_token

    def _decode(
        self, memory: Tensor, placed_memory: Tensor, is_pad_token: Tensor | None
    ) -> list[Float[Tensor, "B Q dim"]]:
        """The queries after each layer, before the norm that all layers share."""
        queries, layers = self._no_content(memory), []
        for layer in self.decoder:
            queries = layer(queries, self.queries.weight[None], memory, placed_memory, is_pad=is_pad_token)
            layers.append(queries)
        return layers

    def _no_content(self, memory: Tensor) -> Float[Tensor, "B Q dim"]:
        """What queries start with: zeros, their positions come with every layer."""
        return memory.new_zeros(len(memory), *self.queries.weight.shape)

    def _predict(self, queries: Float[Tensor, "B Q dim"]) -> QueryPredictions:
        normed = self.decoder_norm(queries)
        return QueryPredictions(self.predict_class(normed), self.predict_box(normed).sigmoid())


class BoxPredictor(nn.Sequential):
    """Queries -> four logits of a box, cx, cy, w, h: linear layers with ReLU between."""

    def __init__(self, dim: int) -> None:
        layers: list[nn.Module] = []
        for _ in range(BOX_LAYERS - 1):
            layers += [nn.Linear(dim, dim), nn.ReLU()]
        super().__init__(*layers, nn.Linear(dim, 4))


def _input_hw(features: Float[Tensor, "B C h w"], stride: int) -> tuple[int, int]:
    height, width = features.shape[-2:]
    return int(height) * stride, int(width) * stride  # tracing for an export would hand on tensors
