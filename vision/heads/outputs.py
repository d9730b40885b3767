"""What heads say, before anything is judged: rows of cells, or rows of queries.

The fields serve training; `rows` is what an exported graph gives and the run time reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class GridOutput:
    """What a head over cells says, the cells of all levels in one row: fine to coarse, each row by row.

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
        """Probability that the cell is to answer for an object."""
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


@dataclass(frozen=True, slots=True, eq=False)
class QueryPredictions:
    """What one layer says of every query: class logits, and boxes as fractions of the network input."""

    logits: Float[Tensor, "B Q num_logits"]
    boxes_cxcywh_norm: Float[Tensor, "B Q 4"]


@dataclass(frozen=True, slots=True, eq=False)
class DenoisingPredictions:
    """What every decoder layer makes of disturbed ground truth, and of which object each of these queries was made.

    target_index[b, d] is the row of image b's targets that denoising query d is to restore, -1 for a negative or for
    padding; num_groups is how often every object was disturbed.
    """

    layers: tuple[QueryPredictions, ...]
    target_index: Int64[Tensor, "B D"]
    num_groups: int


@dataclass(frozen=True, slots=True, eq=False)
class QueryOutput:
    """What a head of queries says: the last decoder layer first of all, each query at most one object.

    scoring "sigmoid": every class by itself. "softmax": one class out of all, the last logit being "no object".
    """

    logits: Float[Tensor, "B Q num_logits"]
    boxes_cxcywh_norm: Float[Tensor, "B Q 4"]
    scoring: Literal["sigmoid", "softmax"]
    input_hw: tuple[int, int]
    """Height and width of the network input in pixels."""
    auxiliary: tuple[QueryPredictions, ...] = ()
    """The decoder layers before the last one, then what was said before the decoder; with targets only."""
    denoising: DenoisingPredictions | None = None
    """With targets, from heads that learn by denoising."""

    @property
    def scores(self) -> Float[Tensor, "B Q num_classes"]:
        """The probability of every class, "no object" left out."""
        logits = self.logits.float()
        return logits.sigmoid() if self.scoring == "sigmoid" else logits.softmax(dim=-1)[..., :-1]

    @property
    def rows(self) -> Float[Tensor, "B Q channels"]:
        """Boxes (cx, cy, w, h as fractions of the input), then class probabilities: what an exported graph gives."""
        return torch.cat((self.boxes_cxcywh_norm.float(), self.scores), dim=-1)
