"""Raw outputs of the heads, before NMS or any score threshold: rows of grid cells (YOLO), or rows of queries (DETR).

Training reads the named fields; `rows` is what an exported graph gives and the run time reads.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal, TypeVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class GridOutput:
    """Raw predictions of a dense head, the cells of all levels in one row: fine to coarse, each row by row.

    cell_xy: column and row of the cell in its level; strides: pixels of a cell's side.
    """

    box_predictions: Float[Tensor, "B cells 4"]
    objectness_logits: Float[Tensor, "B cells 1"]
    class_logits: Float[Tensor, "B cells num_classes"]
    cell_xy: Float[Tensor, "cells 2"]
    strides: Float[Tensor, "cells 1"]

    @property
    def boxes_cxcywh(self) -> Float[Tensor, "B cells 4"]:
        """Decoded boxes in pixels of the network input: (offset + cell) * stride, exp(size) * stride."""
        # exp of a half-precision number is coarse and overflows early, so decoding happens in single precision.
        predictions = self.box_predictions.to(self.cell_xy.dtype)
        centres = (predictions[..., :2] + self.cell_xy) * self.strides
        sizes = predictions[..., 2:].exp() * self.strides
        return torch.cat((centres, sizes), dim=-1)

    @property
    def objectness(self) -> Float[Tensor, "B cells 1"]:
        """Probability that the cell is responsible for an object."""
        return self.objectness_logits.sigmoid()

    @property
    def class_probabilities(self) -> Float[Tensor, "B cells num_classes"]:
        """Probability of every class, given an object."""
        return self.class_logits.sigmoid()

    @property
    def undecoded(self) -> Float[Tensor, "B cells channels"]:
        """Box predictions, then objectness and class probabilities: YOLOX's output before decoding."""
        return torch.cat((self.box_predictions, self.objectness, self.class_probabilities), dim=-1)

    @property
    def raw(self) -> Float[Tensor, "B cells channels"]:
        """Decoded boxes (cx, cy, w, h in pixels of the input), then objectness and class probabilities."""
        return torch.cat((self.boxes_cxcywh, self.objectness, self.class_probabilities), dim=-1)

    @property
    def rows(self) -> Float[Tensor, "B cells channels"]:
        """The same as `raw`: what an exported graph gives."""
        return self.raw


P = TypeVar("P", bound="QueryPredictions")
"""Predictions of the same kind of head."""


@dataclass(frozen=True, slots=True, eq=False)
class QueryPredictions:
    """Predictions of one layer for every query: class logits, and boxes as fractions of the network input."""

    logits: Float[Tensor, "B Q num_logits"]
    boxes_cxcywh_norm: Float[Tensor, "B Q 4"]

    def of_queries(self: P, rows: slice) -> P:
        """For some of the queries."""
        return replace(self, **{field.name: getattr(self, field.name)[:, rows] for field in fields(self)})

    def in_single_precision(self: P) -> P:
        """The same in float32, which losses compute in."""
        return replace(self, **{field.name: getattr(self, field.name).float() for field in fields(self)})


@dataclass(frozen=True, slots=True, eq=False)
class DenoisingPredictions:
    """Predictions for the denoising queries, and the object that each of these queries was made from.

    target_index[b, d] is the row of image b's targets that denoising query d is to restore, -1 for a negative or for
    padding; num_groups is the number of noisy copies of every object.
    """

    layers: tuple[QueryPredictions, ...]
    """Of every decoder layer, first to last."""
    target_index: Int64[Tensor, "B D"]
    num_groups: int
    initial: QueryPredictions | None = None
    """D-FINE only: the boxes of the first layer before its distributions refine them."""

    @property
    def supervised(self) -> tuple[QueryPredictions, ...]:
        """All predictions that have a loss."""
        return self.layers if self.initial is None else (self.initial, *self.layers)


@dataclass(frozen=True, slots=True, eq=False)
class QueryOutput:
    """Predictions of a DETR-like head: at most one object for each query, as the decoder layer in use has it.

    scoring "sigmoid": every class by itself. "softmax": one class out of all, the last logit being "no object".
    With targets the head also gives everything else that has a loss, under a name each.
    """

    logits: Float[Tensor, "B Q num_logits"]
    boxes_cxcywh_norm: Float[Tensor, "B Q 4"]
    scoring: Literal["sigmoid", "softmax"]
    input_hw: tuple[int, int]
    """Height and width of the network input in pixels."""
    layers: tuple[QueryPredictions, ...] = ()
    """The other decoder layers, in their order."""
    denoising: DenoisingPredictions | None = None
    """Of heads that learn by denoising (DN-DETR, DINO)."""
    initial: QueryPredictions | None = None
    """D-FINE only: the boxes of the first layer before its distributions refine them."""
    encoder: QueryPredictions | None = None
    """Of the encoder's cells that were selected as queries (RT-DETR, D-FINE)."""

    @property
    def in_use(self) -> QueryPredictions:
        """Of the decoder layer in use."""
        return QueryPredictions(self.logits, self.boxes_cxcywh_norm)

    @property
    def auxiliary(self) -> tuple[QueryPredictions, ...]:
        """All that auxiliary losses supervise: the other layers, the initial boxes and the encoder's."""
        return (*self.layers, *(each for each in (self.initial, self.encoder) if each is not None))

    @property
    def scores(self) -> Float[Tensor, "B Q num_classes"]:
        """The probability of every class, "no object" left out."""
        logits = self.logits.float()
        return logits.sigmoid() if self.scoring == "sigmoid" else logits.softmax(dim=-1)[..., :-1]

    @property
    def rows(self) -> Float[Tensor, "B Q channels"]:
        """Boxes (cx, cy, w, h as fractions of the input), then class probabilities: what an exported graph gives."""
        return torch.cat((self.boxes_cxcywh_norm.float(), self.scores), dim=-1)
