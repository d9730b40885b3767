"""D-FINE (Peng et al. 2024, arXiv:2410.13842): RT-DETR whose decoder refines where a box's edges may be.

The first layer says a first box; from then on every layer corrects four distributions around its edges, and how sharp
they are tells how good the box is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Annotated, Literal, TypeVar

import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from handeye.vision.boxes.targets import BoxTargets
from handeye.vision.config import Config
from handeye.vision.errors import ConfigError
from handeye.vision.heads.denoising import ContrastiveDenoising, DenoisingQueries
from handeye.vision.heads.dfine_decoder import DfineDecoderLayer, EdgePredictor, LocalisationQuality
from handeye.vision.heads.outputs import DenoisingPredictions, QueryOutput, QueryPredictions
from handeye.vision.heads.query_selection import (
    QuerySelection,
    SelectedQueries,
    build_box_refinement,
    build_class_predictor,
    inverse_sigmoid,
)
from handeye.vision.layers.convolution import TORCH_NORM, ConvNormAct
from handeye.vision.layers.deformable import Sampling, glance_maps
from handeye.vision.layers.distribution import EdgeBins, WeightingFunction
from handeye.vision.layers.transformer import map_to_tokens

PositiveInt = Annotated[int, Field(gt=0)]
LARGEST_POSITION = 10.0
"""What a box says of its place is cut off there."""

PredictionsT = TypeVar("PredictionsT", bound=QueryPredictions)


class DfineHeadConfig(Config):
    """Size of the decoder; the defaults are those of D-FINE-L."""

    kind: Literal["dfine"] = "dfine"
    num_queries: PositiveInt = 300
    """The most objects that can be found in one image."""
    hidden_dim: Annotated[int, Field(gt=0, multiple_of=4)] = 256
    """Width of a token. n: 128."""
    num_heads: PositiveInt = 8
    num_decoder_layers: PositiveInt = 6
    """n and s: 3, m: 4."""
    feed_forward_dim: PositiveInt = 1024
    """n: 512."""
    points_per_level: tuple[PositiveInt, ...] | None = None
    """What each head of a query reads of each level. None: 3, 6, 3 of three levels, else 6 of each (n)."""
    num_intervals: Annotated[int, Field(ge=6, multiple_of=2)] = 32
    """Steps between the bins of an edge, of which there is one more."""
    bin_bound: Annotated[float, Field(gt=0)] = 0.5
    """How far the fine bins reach, as a share of the box (the paper's a)."""
    bin_scale: Annotated[float, Field(gt=0)] = 4.0
    """How fine the bins around zero are (the paper's 1 / c). x: 8."""
    num_denoising: Annotated[int, Field(ge=0)] = 100
    """Disturbed objects decoded beside the queries in training, about; 0 for none."""
    label_noise: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Half of it is the probability that a disturbed object has a random class."""
    box_noise: Annotated[float, Field(ge=0)] = 1.0
    """How far the sides of its box are moved, in halves of its width and height."""
    sampling: Sampling = "gather"
    """How points are read. `grid_sample` is for engines that compute GridSample correctly and faster."""

    @model_validator(mode="after")
    def _check_heads(self) -> DfineHeadConfig:
        if self.hidden_dim % self.num_heads:
            raise ValueError(f"hidden_dim must be a multiple of num_heads, got {self.hidden_dim} and {self.num_heads}")
        return self


@dataclass(frozen=True, slots=True, eq=False)
class EdgePredictions(QueryPredictions):
    """What one layer says, with what its boxes were made of: distributions of the edges around reference boxes."""

    edge_logits: Float[Tensor, "B Q edges_bins"]
    references_cxcywh_norm: Float[Tensor, "B Q 4"]


@dataclass(frozen=True, slots=True, eq=False)
class DfineOutput(QueryOutput):
    """A QueryOutput that with targets says more: in `auxiliary` the decoder layers come as EdgePredictions.

    After them stand the first boxes, then what was said before the decoder. In `denoising` the order is that of the
    decoder: the first boxes, then its layers.
    """

    edges: EdgePredictions | None = None
    """The last layer, from which the others learn."""
    bins: EdgeBins | None = None


class DfineHead(nn.Module):
    """Pyramid -> DfineOutput with scoring "sigmoid". Raises ConfigError when points_per_level has other levels."""

    def __init__(
        self, config: DfineHeadConfig, channels: Sequence[int], strides: Sequence[int], num_classes: int
    ) -> None:
        super().__init__()
        dim, num_layers = config.hidden_dim, config.num_decoder_layers
        num_bins = config.num_intervals + 1
        points = _points(config, len(channels))
        self.strides = tuple(strides)
        self.project = nn.ModuleList(
            # The published network leaves out a projection that would keep the width.
            nn.Identity() if width == dim else ConvNormAct(width, dim, 1, activation="none", norm=TORCH_NORM)
            for width in channels
        )
        self.selection = QuerySelection(dim, num_classes, config.num_queries)
        self.denoising = ContrastiveDenoising(dim, num_classes, config.num_denoising) if config.num_denoising else None
        self.query_position = nn.Sequential(nn.Linear(4, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim))
        self.decoder = nn.ModuleList(
            DfineDecoderLayer(dim, config.num_heads, config.feed_forward_dim, points, config.sampling)
            for _ in range(num_layers)
        )
        self.weighting = WeightingFunction(num_bins, config.bin_bound, config.bin_scale)
        self.predict_first_box = build_box_refinement(dim)
        self.predict_edges = nn.ModuleList(EdgePredictor(dim, num_bins) for _ in range(num_layers))
        self.predict_class = nn.ModuleList(build_class_predictor(dim, num_classes) for _ in range(num_layers))
        self.quality = nn.ModuleList(LocalisationQuality() for _ in range(num_layers))
        for linear in (self.query_position[0], self.query_position[2]):
            nn.init.xavier_uniform_(linear.weight)  # pyright: ignore[reportArgumentType] - a linear layer, see above

    def forward(
        self,
        pyramid: Sequence[Tensor],
        targets: Sequence[BoxTargets] | None = None,
        is_pad: Bool[Tensor, "B H W"] | None = None,  # noqa: ARG002 - padding is part of the image, as published
    ) -> DfineOutput:
        """Without targets only the last layer speaks; with them every layer, and disturbed objects are restored."""
        memory, sizes_hw = self._memory(pyramid)
        input_hw = (sizes_hw[0][0] * self.strides[0], sizes_hw[0][1] * self.strides[0])
        selected = self.selection(memory, sizes_hw)
        noisy = None if targets is None or self.denoising is None else self.denoising(targets, input_hw)
        first_boxes, steps = self._decode(*_start(selected, noisy), memory, sizes_hw)
        if targets is None:
            logits = self._classify(len(steps) - 1, steps[-1])
            return DfineOutput(logits, steps[-1].boxes_cxcywh_norm, "sigmoid", input_hw)
        first = QueryPredictions(self.predict_class[0](steps[0].queries), first_boxes)
        layers = [
            EdgePredictions(self._classify(index, step), step.boxes_cxcywh_norm, step.edge_logits, first_boxes.detach())
            for index, step in enumerate(steps)
        ]
        return self._output((first, *layers), selected, noisy, input_hw)

    def attention_maps(
        self,
        pyramid: Sequence[Tensor],
        is_pad: Bool[Tensor, "B H W"] | None = None,  # noqa: ARG002 - as in forward
    ) -> Float[Tensor, "B Q h w"]:
        """Where each query looks in the last decoder layer, all levels together, on the cells of the finest one.

        For pictures; the map of a query belongs to its row of the output of the same pyramid.
        """
        memory, sizes_hw = self._memory(pyramid)
        queries, boxes, _ = _start(self.selection(memory, sizes_hw), None)
        _, steps = self._decode(queries, boxes, None, memory, sizes_hw)
        if len(steps) > 1:
            queries, boxes = steps[-2].queries, steps[-2].boxes_cxcywh_norm
        layer = self.decoder[-1]
        assert isinstance(layer, DfineDecoderLayer)
        return glance_maps(layer.look(queries, self._position(queries, boxes), boxes), sizes_hw[0])

    def _memory(self, pyramid: Sequence[Tensor]) -> tuple[Float[Tensor, "B N dim"], list[tuple[int, int]]]:
        """The cells of all levels in one row, each level row by row, and rows and columns of each level."""
        levels = [project(level) for project, level in zip(self.project, pyramid, strict=True)]
        memory = torch.cat([map_to_tokens(level) for level in levels], dim=1)
        return memory, [(int(level.shape[-2]), int(level.shape[-1])) for level in levels]

    def _decode(
        self,
        queries: Float[Tensor, "B Q dim"],
        boxes: Float[Tensor, "B Q 4"],
        is_hidden: Bool[Tensor, "Q Q"] | None,
        memory: Float[Tensor, "B N dim"],
        sizes_hw: Sequence[tuple[int, int]],
    ) -> tuple[Float[Tensor, "B Q 4"], list[_Step]]:
        """The first boxes, and what is known after each layer. No gradient goes from a layer's boxes to the next."""
        bins, steps = self.weighting(), []
        first_boxes = boxes
        for index, layer in enumerate(self.decoder):
            before = queries
            queries = layer(queries, self._position(queries, boxes), boxes, memory, sizes_hw, is_hidden)
            if index == 0:
                first_boxes = (self.predict_first_box(queries) + inverse_sigmoid(boxes)).sigmoid()
                edge_logits = self.predict_edges[index](queries)
            else:
                edge_logits = self.predict_edges[index](queries + before.detach()) + steps[-1].edge_logits
            # All layers correct the first box, not each other's boxes: their distributions add up.
            refined = bins.decode(bins.expected_distances(edge_logits), first_boxes.detach())
            steps.append(_Step(queries, edge_logits, refined))
            boxes = refined.detach()
        return first_boxes, steps

    def _position(self, queries: Tensor, boxes: Float[Tensor, "B Q 4"]) -> Float[Tensor, "B Q dim"]:
        """What a box says of its place, new in every layer."""
        return self.query_position(boxes.to(queries.dtype)).clamp(-LARGEST_POSITION, LARGEST_POSITION)

    def _classify(self, index: int, step: _Step) -> Float[Tensor, "B Q num_classes"]:
        """The classes of one layer, all of them the likelier the surer its edges are."""
        return self.predict_class[index](step.queries) + self.quality[index](step.edge_logits)

    def _output(
        self,
        said: Sequence[QueryPredictions],
        selected: SelectedQueries,
        noisy: DenoisingQueries | None,
        input_hw: tuple[int, int],
    ) -> DfineOutput:
        """What everybody said, first boxes and then layers, told apart into those who search and those who restore."""
        num_noisy = 0 if noisy is None else noisy.content.shape[1]
        first, *before, last = (_queries_of(each, slice(num_noisy, None)) for each in said)
        assert isinstance(last, EdgePredictions)
        return DfineOutput(
            last.logits,
            last.boxes_cxcywh_norm,
            "sigmoid",
            input_hw,
            auxiliary=(*before, first, selected.predictions),
            denoising=None
            if noisy is None
            else DenoisingPredictions(
                tuple(_queries_of(each, slice(num_noisy)) for each in said), noisy.target_index, noisy.num_groups
            ),
            edges=last,
            bins=self.weighting(),
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """After a decoder layer."""

    queries: Float[Tensor, "B Q dim"]
    edge_logits: Float[Tensor, "B Q edges_bins"]
    boxes_cxcywh_norm: Float[Tensor, "B Q 4"]


def _start(
    selected: SelectedQueries, noisy: DenoisingQueries | None
) -> tuple[Float[Tensor, "B Q dim"], Float[Tensor, "B Q 4"], Bool[Tensor, "Q Q"] | None]:
    """Queries, their boxes and who must not see whom; the disturbed objects stand first."""
    queries, boxes = selected.content.detach(), selected.box_logits.detach().sigmoid()
    if noisy is None:
        return queries, boxes, None
    is_hidden = noisy.is_hidden(queries.shape[1])
    boxes = torch.cat((noisy.box_logits.sigmoid(), boxes), dim=1)
    return torch.cat((noisy.content.to(queries.dtype), queries), dim=1), boxes, is_hidden


def _queries_of(predictions: PredictionsT, rows: slice) -> PredictionsT:
    """Some of the queries."""
    return replace(
        predictions, **{field.name: getattr(predictions, field.name)[:, rows] for field in fields(predictions)}
    )


def _points(config: DfineHeadConfig, num_levels: int) -> tuple[int, ...]:
    """How many points are read of each level."""
    points = config.points_per_level or ((3, 6, 3) if num_levels == 3 else (6,) * num_levels)
    if len(points) != num_levels:
        raise ConfigError(f"head.points_per_level has {len(points)} numbers for the {num_levels} levels of the neck")
    return points
