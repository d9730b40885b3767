"""The decoder of RT-DETR (Zhao et al. 2023, arXiv:2304.08069) and RT-DETRv2 (Lv et al. 2024, arXiv:2407.17140).

The best cells of the pyramid become queries with a first box. Every decoder layer looks at points around the box and
corrects it. In training disturbed objects are decoded beside them (`denoising.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from handeye.vision.boxes.targets import BoxTargets
from handeye.vision.config import Config
from handeye.vision.errors import ConfigError
from handeye.vision.heads.denoising import ContrastiveDenoising, DenoisingQueries
from handeye.vision.heads.outputs import DenoisingPredictions, QueryOutput, QueryPredictions
from handeye.vision.heads.query_selection import (
    QuerySelection,
    SelectedQueries,
    build_box_refinement,
    build_class_predictor,
    inverse_sigmoid,
)
from handeye.vision.layers.attention import MultiHeadAttention
from handeye.vision.layers.convolution import TORCH_NORM, ConvNormAct
from handeye.vision.layers.deformable import DeformableAttention, Sampling, SamplingPoints, glance_maps
from handeye.vision.layers.transformer import FeedForward, map_to_tokens

PositiveInt = Annotated[int, Field(gt=0)]
LARGEST_HALF = 65504.0
"""The largest number of half precision; a sum beyond it would become infinite before its norm."""


class RtdetrHeadConfig(Config):
    """Size of the decoder; the defaults are those of RT-DETRv2-R50."""

    kind: Literal["rtdetr"] = "rtdetr"
    version: Literal[1, 2] = 2
    """1: RT-DETR, as many points in every level, sums bounded to half precision's range. 2: RT-DETRv2."""
    num_queries: PositiveInt = 300
    """The most objects that can be found in one image."""
    hidden_dim: Annotated[int, Field(gt=0)] = 256
    """Width of a token."""
    num_heads: PositiveInt = 8
    num_decoder_layers: PositiveInt = 6
    """R18: 3, R34: 4."""
    num_layers_in_use: PositiveInt | None = None
    """The result is that of this layer; later ones are only learnt from. None: of the last. R50-m: 3."""
    feed_forward_dim: PositiveInt = 1024
    points_per_level: PositiveInt | tuple[PositiveInt, ...] = 4
    """Points that each head looks at: in every level, or in each by itself (version 2)."""
    sampling: Sampling = "gather"
    """How they are read. `grid_sample` is for engines that compute GridSample correctly and faster."""
    num_denoising: Annotated[int, Field(ge=0)] = 100
    """Disturbed objects decoded beside the queries in training, about; 0 for none."""
    label_noise: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Half of it is the probability that a disturbed object has a random class."""
    box_noise: Annotated[float, Field(ge=0)] = 1.0
    """How far the sides of its box are moved, in halves of its width and height."""

    @model_validator(mode="after")
    def _check(self) -> RtdetrHeadConfig:
        if self.hidden_dim % self.num_heads:
            raise ValueError(f"hidden_dim must be a multiple of num_heads, got {self.hidden_dim} and {self.num_heads}")
        if (self.num_layers_in_use or 0) > self.num_decoder_layers:
            raise ValueError(f"num_layers_in_use is {self.num_layers_in_use} of {self.num_decoder_layers} layers")
        if self.version == 1 and isinstance(self.points_per_level, tuple) and len(set(self.points_per_level)) > 1:
            raise ValueError(f"version 1 has as many points in every level, got {self.points_per_level}")
        return self


class RtdetrHead(nn.Module):
    """Pyramid -> QueryOutput with scoring "sigmoid"; any number of levels of any width."""

    def __init__(
        self, config: RtdetrHeadConfig, channels: Sequence[int], strides: Sequence[int], num_classes: int
    ) -> None:
        super().__init__()
        dim, num_layers = config.hidden_dim, config.num_decoder_layers
        points = _points(config, len(channels))
        self.strides = tuple(strides)
        self.num_layers_in_use = config.num_layers_in_use or num_layers
        self.project = nn.ModuleList(
            ConvNormAct(width, dim, 1, activation="none", norm=TORCH_NORM) for width in channels
        )
        self.selection = QuerySelection(dim, num_classes, config.num_queries)
        self.denoising = None
        if config.num_denoising:
            noise = {"label_noise": config.label_noise, "box_noise": config.box_noise}
            self.denoising = ContrastiveDenoising(dim, num_classes, config.num_denoising, **noise)
        self.query_position = nn.Sequential(nn.Linear(4, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim))
        self.decoder = nn.ModuleList(RtdetrDecoderLayer(config, points) for _ in range(num_layers))
        self.predict_class = nn.ModuleList(build_class_predictor(dim, num_classes) for _ in range(num_layers))
        self.predict_box = nn.ModuleList(build_box_refinement(dim) for _ in range(num_layers))

    def forward(
        self,
        pyramid: Sequence[Tensor],
        targets: Sequence[BoxTargets] | None = None,
        is_pad: Bool[Tensor, "B H W"] | None = None,  # noqa: ARG002 - images are stretched to the input, nothing is padded
    ) -> QueryOutput:
        """One (B, channels[i], H / strides[i], W / strides[i]) for each level -> what the layer in use says.

        With targets all other layers and the chosen cells speak too (`auxiliary`), and disturbed objects are decoded.
        """
        memory, sizes_hw = self._memory(pyramid)
        input_hw = (sizes_hw[0][0] * self.strides[0], sizes_hw[0][1] * self.strides[0])
        selected = self.selection(memory, sizes_hw)
        if targets is not None:
            return self._learn(memory, sizes_hw, input_hw, selected, targets)
        queries, boxes = self._start(selected)
        queries, boxes = self._decode(queries, boxes, memory, sizes_hw, num_layers=self.num_layers_in_use)[-1]
        logits = self.predict_class[self.num_layers_in_use - 1](queries)
        return QueryOutput(logits, boxes, "sigmoid", input_hw)

    def attention_maps(
        self,
        pyramid: Sequence[Tensor],
        is_pad: Bool[Tensor, "B H W"] | None = None,  # noqa: ARG002 - as in forward
    ) -> Float[Tensor, "B Q h w"]:
        """Where each query looks in the layer in use, on the finest level's cells, as shares of its attention.

        For pictures; the map of a query belongs to its row of the output of the same pyramid. Points outside of the
        image are left out, so a map sums to at most 1.
        """
        memory, sizes_hw = self._memory(pyramid)
        queries, boxes = self._start(self.selection(memory, sizes_hw))
        queries, boxes = self._decode(queries, boxes, memory, sizes_hw, num_layers=self.num_layers_in_use - 1)[-1]
        layer = self.decoder[self.num_layers_in_use - 1]
        assert isinstance(layer, RtdetrDecoderLayer)
        return glance_maps(layer.look(queries, self._position(queries, boxes), boxes), sizes_hw[0])

    def _memory(self, pyramid: Sequence[Tensor]) -> tuple[Float[Tensor, "B N dim"], list[tuple[int, int]]]:
        """The cells of all levels in one row, and the rows and columns of each level."""
        levels = [project(features) for project, features in zip(self.project, pyramid, strict=True)]
        sizes_hw = [(int(level.shape[-2]), int(level.shape[-1])) for level in levels]
        return torch.cat([map_to_tokens(level) for level in levels], dim=1), sizes_hw

    def _start(self, selected: SelectedQueries) -> tuple[Float[Tensor, "B Q dim"], Float[Tensor, "B Q 4"]]:
        """Content and box of the chosen cells, which learn from what they say themselves, not through the decoder."""
        return selected.content.detach(), selected.box_logits.detach().sigmoid()

    def _position(self, queries: Tensor, boxes: Float[Tensor, "B Q 4"]) -> Float[Tensor, "B Q dim"]:
        """What a box says of its place, new in every layer."""
        return self.query_position(boxes.to(queries.dtype))

    def _decode(
        self,
        queries: Float[Tensor, "B Q dim"],
        boxes: Float[Tensor, "B Q 4"],
        memory: Float[Tensor, "B N dim"],
        sizes_hw: Sequence[tuple[int, int]],
        *,
        num_layers: int,
        is_hidden: Bool[Tensor, "Q Q"] | None = None,
    ) -> list[tuple[Float[Tensor, "B Q dim"], Float[Tensor, "B Q 4"]]]:
        """Queries and boxes (cx, cy, w, h as fractions of the input) at the start and after each layer."""
        states = [(queries, boxes)]
        for layer, predict_box in zip(self.decoder[:num_layers], self.predict_box, strict=False):
            queries, previous = states[-1]
            # A layer looks from where it is told to; its correction also teaches the layer before it (DINO, 3.5).
            place = previous.detach()
            queries = layer(queries, self._position(queries, place), place, memory, sizes_hw, is_hidden=is_hidden)
            states.append((queries, (predict_box(queries) + inverse_sigmoid(previous)).sigmoid()))
        return states

    def _learn(
        self,
        memory: Float[Tensor, "B N dim"],
        sizes_hw: Sequence[tuple[int, int]],
        input_hw: tuple[int, int],
        selected: SelectedQueries,
        targets: Sequence[BoxTargets],
    ) -> QueryOutput:
        """All that is learnt from: every layer, the chosen cells, and the disturbed objects, which come first."""
        queries, boxes = self._start(selected)
        disturbed, is_hidden = None, None
        if self.denoising is not None:
            disturbed = self.denoising(targets, input_hw)
            is_hidden = disturbed.is_hidden(queries.shape[1])
            queries = torch.cat((disturbed.content.to(queries.dtype), queries), dim=1)
            boxes = torch.cat((disturbed.box_logits.sigmoid(), boxes), dim=1)
        states = self._decode(queries, boxes, memory, sizes_hw, num_layers=len(self.decoder), is_hidden=is_hidden)
        layers = [
            QueryPredictions(predict_class(queries), boxes)
            for predict_class, (queries, boxes) in zip(self.predict_class, states[1:], strict=True)
        ]
        denoising, layers = _split_denoising(layers, disturbed)
        used = layers.pop(self.num_layers_in_use - 1)
        auxiliary = (*reversed(layers), selected.predictions)
        return QueryOutput(used.logits, used.boxes_cxcywh_norm, "sigmoid", input_hw, auxiliary, denoising)


class RtdetrDecoderLayer(nn.Module):
    """Queries look at each other, then at points of the image around their boxes, then think by themselves."""

    def __init__(self, config: RtdetrHeadConfig, points_per_level: Sequence[int]) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.largest_sum = LARGEST_HALF if config.version == 1 else None
        self.self_attention = MultiHeadAttention(dim, config.num_heads)
        self.self_attention_norm = nn.LayerNorm(dim)
        self.cross_attention = DeformableAttention(dim, config.num_heads, points_per_level, sampling=config.sampling)
        self.cross_attention_norm = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, config.feed_forward_dim, activation="relu")
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
        """Keeps the shape of the queries. memory and sizes_hw as in `DeformableAttention`."""
        queries = self._self_attend(queries, positions, is_hidden)
        found = self.cross_attention(queries + positions, boxes_cxcywh_norm, memory, sizes_hw)
        queries = self.cross_attention_norm(queries + found)
        queries = queries + self.feed_forward(queries)
        if self.largest_sum is not None:
            queries = queries.clamp(-self.largest_sum, self.largest_sum)
        return self.feed_forward_norm(queries)

    def look(
        self,
        queries: Float[Tensor, "B Q dim"],
        positions: Float[Tensor, "B Q dim"],
        boxes_cxcywh_norm: Float[Tensor, "B Q 4"],
    ) -> SamplingPoints:
        """Where queries, given as to `forward`, look in the image."""
        queries = self._self_attend(queries, positions, None)
        return self.cross_attention.look(queries + positions, boxes_cxcywh_norm)

    def _self_attend(self, queries: Tensor, positions: Tensor, is_hidden: Tensor | None) -> Tensor:
        placed = queries + positions
        return self.self_attention_norm(queries + self.self_attention(placed, placed, queries, is_hidden=is_hidden))


def _points(config: RtdetrHeadConfig, num_levels: int) -> tuple[int, ...]:
    points = config.points_per_level
    if isinstance(points, int):
        return (points,) * num_levels
    if len(points) != num_levels:
        raise ConfigError(f"head.points_per_level has {len(points)} numbers for the {num_levels} levels of the neck")
    return points


def _split_denoising(
    layers: Sequence[QueryPredictions], disturbed: DenoisingQueries | None
) -> tuple[DenoisingPredictions | None, list[QueryPredictions]]:
    """What the layers say of the disturbed objects, which come first, and what of the queries."""
    if disturbed is None:
        return None, list(layers)
    num = disturbed.target_index.shape[1]
    of_disturbed = [QueryPredictions(layer.logits[:, :num], layer.boxes_cxcywh_norm[:, :num]) for layer in layers]
    of_queries = [QueryPredictions(layer.logits[:, num:], layer.boxes_cxcywh_norm[:, num:]) for layer in layers]
    return DenoisingPredictions(tuple(of_disturbed), disturbed.target_index, disturbed.num_groups), of_queries
