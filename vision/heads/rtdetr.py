"""The decoder of RT-DETR (Zhao et al. 2023, arXiv:2304.08069) and RT-DETRv2 (Lv et al. 2024, arXiv:2407.17140).

The best cells of the pyramid become queries with an initial box. Every decoder layer samples points around the box
(deformable attention) and refines it. Training also decodes denoising queries (`denoising.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from handeye.vision.boxes.targets import BoxTargets
from handeye.vision.config import Config
from handeye.vision.errors import ConfigError
from handeye.vision.heads.denoising import ContrastiveDenoising, decoder_inputs
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
from handeye.vision.layers.transformer import DeformableDecoderLayer

PositiveInt = Annotated[int, Field(gt=0)]


class RtdetrHeadConfig(Config):
    """Size of the decoder; the defaults are those of RT-DETRv2-R50."""

    kind: Literal["rtdetr"] = "rtdetr"
    version: Literal[1, 2] = 2
    """1: RT-DETR, the same number of points in every level, sums clamped to half precision. 2: RT-DETRv2."""
    num_queries: PositiveInt = 300
    """The most objects that can be found in one image."""
    hidden_dim: Annotated[int, Field(gt=0)] = 256
    """Width of a token."""
    num_heads: PositiveInt = 8
    num_decoder_layers: PositiveInt = 6
    """R18: 3, R34: 4."""
    num_layers_in_use: PositiveInt | None = None
    """Inference stops after this layer; later ones only have a loss. None: the last. R50-m: 3."""
    feed_forward_dim: PositiveInt = 1024
    points_per_level: PositiveInt | tuple[PositiveInt, ...] = 4
    """Points that each head samples: in every level alike, or level by level (version 2)."""
    sampling: Sampling = "gather"
    """How they are sampled. `grid_sample` is for engines that compute GridSample correctly and faster."""
    num_denoising: Annotated[int, Field(ge=0)] = 100
    """About how many denoising queries training decodes beside the others; 0 for none."""
    label_noise: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Half of it is the probability that a denoising query has a random class."""
    box_noise: Annotated[float, Field(ge=0)] = 1.0
    """How far the sides of its box are moved, in halves of its width and height."""

    @model_validator(mode="after")
    def _check(self) -> RtdetrHeadConfig:
        if self.hidden_dim % self.num_heads:
            raise ValueError(f"hidden_dim must be a multiple of num_heads, got {self.hidden_dim} and {self.num_heads}")
        if (self.num_layers_in_use or 0) > self.num_decoder_layers:
            raise ValueError(f"num_layers_in_use is {self.num_layers_in_use} of {self.num_decoder_layers} layers")
        if self.version == 1 and isinstance(self.points_per_level, tuple) and len(set(self.points_per_level)) > 1:
            raise ValueError(f"version 1 has the same number of points in every level, got {self.points_per_level}")
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
        self.decoder = nn.ModuleList(
            DeformableDecoderLayer(
                dim,
                config.num_heads,
                config.feed_forward_dim,
                points,
                gated=False,
                bounded=config.version == 1,
                sampling=config.sampling,
            )
            for _ in range(num_layers)
        )
        self.predict_class = nn.ModuleList(build_class_predictor(dim, num_classes) for _ in range(num_layers))
        self.predict_box = nn.ModuleList(build_box_refinement(dim) for _ in range(num_layers))

    def forward(
        self,
        pyramid: Sequence[Tensor],
        targets: Sequence[BoxTargets] | None = None,
        is_pad: Bool[Tensor, "B H W"] | None = None,  # noqa: ARG002 - images are stretched to the input, nothing is padded
    ) -> QueryOutput:
        """One (B, channels[i], H / strides[i], W / strides[i]) for each level -> predictions of the layer in use.

        With targets also those of the other layers and of the selected cells, and denoising queries are decoded.
        """
        memory, sizes_hw = self._memory(pyramid)
        input_hw = (sizes_hw[0][0] * self.strides[0], sizes_hw[0][1] * self.strides[0])
        selected = self.selection(memory, sizes_hw)
        if targets is not None:
            return self._output_for_training(memory, sizes_hw, input_hw, selected, targets)
        queries, boxes, _ = decoder_inputs(selected, None)
        queries, boxes = self._decode(queries, boxes, memory, sizes_hw, num_layers=self.num_layers_in_use)[-1]
        logits = self.predict_class[self.num_layers_in_use - 1](queries)
        return QueryOutput(logits, boxes, "sigmoid", input_hw)

    def attention_maps(
        self,
        pyramid: Sequence[Tensor],
        is_pad: Bool[Tensor, "B H W"] | None = None,  # noqa: ARG002 - as in forward
    ) -> Float[Tensor, "B Q h w"]:
        """Attention of each query in the layer in use, on the cells of the finest level, for plots.

        The map of a query belongs to its row of the output of the same pyramid. Points outside of the
        image are left out, so a map sums to at most 1.
        """
        memory, sizes_hw = self._memory(pyramid)
        queries, boxes, _ = decoder_inputs(self.selection(memory, sizes_hw), None)
        queries, boxes = self._decode(queries, boxes, memory, sizes_hw, num_layers=self.num_layers_in_use - 1)[-1]
        layer = self.decoder[self.num_layers_in_use - 1]
        assert isinstance(layer, DeformableDecoderLayer)
        return attention_maps(layer.sampling_points(queries, self._position(queries, boxes), boxes), sizes_hw[0])

    def _memory(self, pyramid: Sequence[Tensor]) -> tuple[Float[Tensor, "B N dim"], list[tuple[int, int]]]:
        """The projected cells of all levels in one row, and the (height, width) of each level."""
        return flatten_levels([project(level) for project, level in zip(self.project, pyramid, strict=True)])

    def _position(self, queries: Tensor, boxes: Float[Tensor, "B Q 4"]) -> Float[Tensor, "B Q dim"]:
        """Position embedding of a box, new in every layer."""
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
            # A layer samples around detached boxes; the loss on the refined box trains the one before too (DINO, 3.5).
            place = previous.detach()
            queries = layer(queries, self._position(queries, place), place, memory, sizes_hw, is_hidden=is_hidden)
            states.append((queries, (predict_box(queries) + inverse_sigmoid(previous)).sigmoid()))
        return states

    def _output_for_training(
        self,
        memory: Float[Tensor, "B N dim"],
        sizes_hw: Sequence[tuple[int, int]],
        input_hw: tuple[int, int],
        selected: SelectedQueries,
        targets: Sequence[BoxTargets],
    ) -> QueryOutput:
        """The predictions of every layer, of the selected cells and for the denoising queries."""
        noisy = None if self.denoising is None else self.denoising(targets, input_hw)
        queries, boxes, is_hidden = decoder_inputs(selected, noisy)
        states = self._decode(queries, boxes, memory, sizes_hw, num_layers=len(self.decoder), is_hidden=is_hidden)
        layers = [
            QueryPredictions(predict_class(queries), boxes)
            for predict_class, (queries, boxes) in zip(self.predict_class, states[1:], strict=True)
        ]
        denoising, num_noisy = None, 0
        if noisy is not None:
            num_noisy = noisy.target_index.shape[1]
            restored = tuple(layer.of_queries(slice(num_noisy)) for layer in layers)
            denoising = DenoisingPredictions(restored, noisy.target_index, noisy.num_groups)
        layers = [layer.of_queries(slice(num_noisy, None)) for layer in layers]
        in_use = layers.pop(self.num_layers_in_use - 1)
        return QueryOutput(
            in_use.logits,
            in_use.boxes_cxcywh_norm,
            "sigmoid",
            input_hw,
            layers=tuple(layers),
            denoising=denoising,
            encoder=selected.predictions,
        )


def _points(config: RtdetrHeadConfig, num_levels: int) -> tuple[int, ...]:
    points = config.points_per_level
    if isinstance(points, int):
        return (points,) * num_levels
    if len(points) != num_levels:
        raise ConfigError(f"head.points_per_level has {len(points)} numbers for the {num_levels} levels of the neck")
    return points
