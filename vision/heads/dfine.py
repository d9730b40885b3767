"""D-FINE (Peng et al. 2024, arXiv:2410.13842): RT-DETR with fine-grained distribution refinement (FDR) of the boxes.

The first decoder layer predicts an initial box; every layer refines four distributions over the offsets of its edges,
and the sharpness of these distributions corrects the class scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from handeye.vision.boxes.targets import BoxTargets
from handeye.vision.config import Config
from handeye.vision.errors import ConfigError
from handeye.vision.heads.denoising import ContrastiveDenoising, DenoisingQueries, decoder_inputs
from handeye.vision.heads.outputs import DenoisingPredictions, QueryOutput, QueryPredictions
from handeye.vision.heads.query_selection import (
    QuerySelection,
    SelectedQueries,
    build_box_refinement,
    build_class_predictor,
    flatten_levels,
    inverse_sigmoid,
)
from handeye.vision.layers.convolution import TORCH_NORM, ConvNormAct
from handeye.vision.layers.deformable import Sampling, attention_maps
from handeye.vision.layers.distribution import EdgeBins, EdgePredictor, LocalisationQuality, WeightingFunction
from handeye.vision.layers.transformer import DeformableDecoderLayer

PositiveInt = Annotated[int, Field(gt=0)]
LARGEST_POSITION = 10.0
"""Bound of the position embedding of a box."""


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
    """Points that each head samples in each level. None: 3, 6, 3 in three levels, else 6 in each (n)."""
    num_intervals: Annotated[int, Field(ge=6, multiple_of=2)] = 32
    """Intervals between the bins of an edge, which has one bin more (the paper's N)."""
    bin_bound: Annotated[float, Field(gt=0)] = 0.5
    """How far the fine bins reach, as a share of the box (the paper's a)."""
    bin_scale: Annotated[float, Field(gt=0)] = 4.0
    """How fine the bins around zero are (the paper's 1 / c). x: 8."""
    num_denoising: Annotated[int, Field(ge=0)] = 100
    """About how many denoising queries training decodes beside the others; 0 for none."""
    label_noise: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Half of it is the probability that a denoising query has a random class."""
    box_noise: Annotated[float, Field(ge=0)] = 1.0
    """How far the sides of its box are moved, in halves of its width and height."""
    sampling: Sampling = "gather"
    """How points are sampled. `grid_sample` is for engines that compute GridSample correctly and faster."""

    @model_validator(mode="after")
    def _check_heads(self) -> DfineHeadConfig:
        if self.hidden_dim % self.num_heads:
            raise ValueError(f"hidden_dim must be a multiple of num_heads, got {self.hidden_dim} and {self.num_heads}")
        return self


@dataclass(frozen=True, slots=True, eq=False)
class EdgePredictions(QueryPredictions):
    """Predictions of one layer with the distributions that its boxes were decoded from, around reference boxes."""

    edge_logits: Float[Tensor, "B Q edges_bins"]
    references_cxcywh_norm: Float[Tensor, "B Q 4"]


@dataclass(frozen=True, slots=True, eq=False)
class DfineOutput(QueryOutput):
    """A QueryOutput with distributions of the edges; all decoder layers, also of `denoising`, are EdgePredictions."""

    final: EdgePredictions | None = None
    """The layer in use with its distributions, from which the other layers learn by self-distillation."""
    bins: EdgeBins | None = None

    @property
    def in_use(self) -> QueryPredictions:
        """Of the last decoder layer."""
        return self.final or QueryPredictions(self.logits, self.boxes_cxcywh_norm)


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
            # The published network has no projection where the width is right already.
            nn.Identity() if width == dim else ConvNormAct(width, dim, 1, activation="none", norm=TORCH_NORM)
            for width in channels
        )
        self.selection = QuerySelection(dim, num_classes, config.num_queries)
        self.denoising = None
        if config.num_denoising:
            noise = {"label_noise": config.label_noise, "box_noise": config.box_noise}
            self.denoising = ContrastiveDenoising(dim, num_classes, config.num_denoising, **noise)
        self.query_position = nn.Sequential(nn.Linear(4, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim))
        self.decoder = nn.ModuleList(
            DeformableDecoderLayer(
                dim,
                config.num_heads,
                config.feed_forward_dim,
                points,
                gated=True,
                bounded=True,
                sampling=config.sampling,
            )
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
        """Predictions of the last layer; with targets also those of the others, and denoising queries are decoded."""
        memory, sizes_hw = self._memory(pyramid)
        input_hw = (sizes_hw[0][0] * self.strides[0], sizes_hw[0][1] * self.strides[0])
        selected = self.selection(memory, sizes_hw)
        noisy = None if targets is None or self.denoising is None else self.denoising(targets, input_hw)
        initial_boxes, steps = self._decode(*decoder_inputs(selected, noisy), memory, sizes_hw)
        if targets is None:
            logits = self._classify(len(steps) - 1, steps[-1])
            return DfineOutput(logits, steps[-1].boxes_cxcywh_norm, "sigmoid", input_hw)
        initial = QueryPredictions(self.predict_class[0](steps[0].queries), initial_boxes)
        layers = [
            EdgePredictions(
                self._classify(index, step), step.boxes_cxcywh_norm, step.edge_logits, initial_boxes.detach()
            )
            for index, step in enumerate(steps)
        ]
        return self._output_for_training(initial, layers, selected, noisy, input_hw)

    def attention_maps(
        self,
        pyramid: Sequence[Tensor],
        is_pad: Bool[Tensor, "B H W"] | None = None,  # noqa: ARG002 - as in forward
    ) -> Float[Tensor, "B Q h w"]:
        """Attention of each query in the last decoder layer, on the cells of the finest level, for plots.

        The map of a query belongs to its row of the output of the same pyramid.
        """
        memory, sizes_hw = self._memory(pyramid)
        queries, boxes, _ = decoder_inputs(self.selection(memory, sizes_hw), None)
        _, steps = self._decode(queries, boxes, None, memory, sizes_hw)
        if len(steps) > 1:
            queries, boxes = steps[-2].queries, steps[-2].boxes_cxcywh_norm
        layer = self.decoder[-1]
        assert isinstance(layer, DeformableDecoderLayer)
        return attention_maps(layer.sampling_points(queries, self._position(queries, boxes), boxes), sizes_hw[0])

    def _memory(self, pyramid: Sequence[Tensor]) -> tuple[Float[Tensor, "B N dim"], list[tuple[int, int]]]:
        """The projected cells of all levels in one row, and the (height, width) of each level."""
        return flatten_levels([project(level) for project, level in zip(self.project, pyramid, strict=True)])

    def _decode(
        self,
        queries: Float[Tensor, "B Q dim"],
        boxes: Float[Tensor, "B Q 4"],
        is_hidden: Bool[Tensor, "Q Q"] | None,
        memory: Float[Tensor, "B N dim"],
        sizes_hw: Sequence[tuple[int, int]],
    ) -> tuple[Float[Tensor, "B Q 4"], list[_Step]]:
        """The initial boxes, and the state after each layer. No gradient flows from a layer's boxes to the next."""
        bins, steps = self.weighting(), []
        initial_boxes = boxes
        for index, layer in enumerate(self.decoder):
            before = queries
            queries = layer(queries, self._position(queries, boxes), boxes, memory, sizes_hw, is_hidden=is_hidden)
            if index == 0:
                initial_boxes = (self.predict_first_box(queries) + inverse_sigmoid(boxes)).sigmoid()
                edge_logits = self.predict_edges[index](queries)
            else:
                edge_logits = self.predict_edges[index](queries + before.detach()) + steps[-1].edge_logits
            # All layers refine the initial box, not each other's boxes: their distributions add up.
            refined = bins.decode(bins.expected_distances(edge_logits), initial_boxes.detach())
            steps.append(_Step(queries, edge_logits, refined))
            boxes = refined.detach()
        return initial_boxes, steps

    def _position(self, queries: Tensor, boxes: Float[Tensor, "B Q 4"]) -> Float[Tensor, "B Q dim"]:
        """Position embedding of a box, new in every layer."""
        return self.query_position(boxes.to(queries.dtype)).clamp(-LARGEST_POSITION, LARGEST_POSITION)

    def _classify(self, index: int, step: _Step) -> Float[Tensor, "B Q num_classes"]:
        """Class logits of one layer, raised where its edges are sharp."""
        return self.predict_class[index](step.queries) + self.quality[index](step.edge_logits)

    def _output_for_training(
        self,
        initial: QueryPredictions,
        layers: Sequence[EdgePredictions],
        selected: SelectedQueries,
        noisy: DenoisingQueries | None,
        input_hw: tuple[int, int],
    ) -> DfineOutput:
        """The predictions of all queries, the denoising ones, which come first, apart from the others."""
        denoising, num_noisy = None, 0
        if noisy is not None:
            num_noisy = noisy.target_index.shape[1]
            restored = tuple(layer.of_queries(slice(num_noisy)) for layer in layers)
            denoising = DenoisingPredictions(
                restored, noisy.target_index, noisy.num_groups, initial=initial.of_queries(slice(num_noisy))
            )
        *before, final = (layer.of_queries(slice(num_noisy, None)) for layer in layers)
        return DfineOutput(
            final.logits,
            final.boxes_cxcywh_norm,
            "sigmoid",
            input_hw,
            layers=tuple(before),
            denoising=denoising,
            initial=initial.of_queries(slice(num_noisy, None)),
            encoder=selected.predictions,
            final=final,
            bins=self.weighting(),
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """State after a decoder layer."""

    queries: Float[Tensor, "B Q dim"]
    edge_logits: Float[Tensor, "B Q edges_bins"]
    boxes_cxcywh_norm: Float[Tensor, "B Q 4"]


def _points(config: DfineHeadConfig, num_levels: int) -> tuple[int, ...]:
    """Points that each head samples in each level."""
    points = config.points_per_level or ((3, 6, 3) if num_levels == 3 else (6,) * num_levels)
    if len(points) != num_levels:
        raise ConfigError(f"head.points_per_level has {len(points)} numbers for the {num_levels} levels of the neck")
    return points
