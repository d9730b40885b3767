"""Query selection of RT-DETR (Zhao et al. 2023, arXiv:2304.08069, section 4.3): top-k cells become decoder queries.

Every cell of the pyramid has an anchor and class scores; the selected ones refine their anchors to initial boxes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from handeye.vision.heads.detr import BoxPredictor
from handeye.vision.heads.outputs import QueryPredictions
from handeye.vision.heads.yolox import PRIOR_PROBABILITY
from handeye.vision.layers.transformer import map_to_tokens

ANCHOR_SIZE = 0.05
"""Side of the anchors of the finest level as a share of the input; every coarser level doubles it."""
MARGIN = 0.01
"""An anchor is valid if its four numbers keep this distance from 0 and 1, where the logit is steep."""
CLOSEST = 1e-5
"""How near a fraction may come to 0 or 1 before its logit is clamped."""
OUTSIDE = 1e4
"""Logits of invalid anchors. The published code has infinity there, whose sigmoid is 1; so is that of
this number, whatever a network adds to it, and half precision can hold it."""


class SizedAnchors:
    """Anchors for the feature sizes of the input, cached until the sizes change and absent from the state dict.

    No module and no buffer: published checkpoints that carry anchors can only be used at one size.
    """

    def __init__(self, anchor_size: float = ANCHOR_SIZE) -> None:
        self.anchor_size = anchor_size
        self._last: tuple[object, tuple[Tensor, Tensor]] | None = None

    def __call__(
        self, sizes_hw: Sequence[tuple[int, int]], device: torch.device
    ) -> tuple[Float[Tensor, "1 N 4"], Bool[Tensor, "1 N 1"]]:
        """Logits of the anchors (cx, cy, w, h) and which of them are valid, for the cells of all levels, row by row."""
        key = (tuple(sizes_hw), device)
        if self._last is None or self._last[0] != key:
            with torch.inference_mode(mode=False):  # what is kept must serve training later on
                self._last = (key, anchor_logits(sizes_hw, device, self.anchor_size))
        return self._last[1]


def anchor_logits(
    sizes_hw: Sequence[tuple[int, int]], device: torch.device, anchor_size: float = ANCHOR_SIZE
) -> tuple[Float[Tensor, "1 N 4"], Bool[Tensor, "1 N 1"]]:
    """As in `SizedAnchors`: squares (in fractions of the input) around the centre of each cell."""
    levels = []
    for level, (height, width) in enumerate(sizes_hw):
        y = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) / height
        x = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) / width
        y, x = torch.meshgrid(y, x, indexing="ij")
        side = torch.full_like(x, anchor_size * 2**level)
        levels.append(torch.stack((x, y, side, side), dim=-1).flatten(0, 1))
    anchors = torch.cat(levels)[None]
    is_valid = ((anchors > MARGIN) & (anchors < 1 - MARGIN)).all(dim=-1, keepdim=True)
    return torch.where(is_valid, inverse_sigmoid(anchors), OUTSIDE), is_valid


def inverse_sigmoid(fractions: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The logit, bounded as in the published code: fractions closer than 1e-5 to 0 or 1 count as that close."""
    return torch.log(fractions.clamp(min=CLOSEST) / (1 - fractions).clamp(min=CLOSEST))


@dataclass(frozen=True, slots=True, eq=False)
class SelectedQueries:
    """The selected cells, best first: the input of the decoder."""

    content: Float[Tensor, "B Q dim"]
    box_logits: Float[Tensor, "B Q 4"]
    class_logits: Float[Tensor, "B Q num_classes"]
    cell_index: Int64[Tensor, "B Q"]
    """Among the cells of all levels, row by row, fine to coarse."""

    @property
    def predictions(self) -> QueryPredictions:
        """The cells' own predictions, supervised like the layers of the decoder."""
        return QueryPredictions(self.class_logits, self.box_logits.sigmoid())


class QuerySelection(nn.Module):
    """Cells -> the num_queries with the highest class logit, or all of them if there are fewer."""

    def __init__(self, dim: int, num_classes: int, num_queries: int) -> None:
        super().__init__()
        self.num_queries = num_queries
        self.project = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.predict_class = build_class_predictor(dim, num_classes)
        self.predict_box = build_box_refinement(dim)
        self.anchors = SizedAnchors()
        nn.init.xavier_uniform_(self.project.weight)

    def forward(self, memory: Float[Tensor, "B N dim"], sizes_hw: Sequence[tuple[int, int]]) -> SelectedQueries:
        """memory: the cells of all levels, each row by row; sizes_hw: rows and columns of each level.

        Cells with an invalid anchor all have the same scores, but can be selected; their box is (1, 1, 1, 1).
        """
        anchors, is_valid = self.anchors(sizes_hw, memory.device)
        cells = self.norm(self.project(memory * is_valid))
        class_logits = self.predict_class(cells)
        num_selected = min(self.num_queries, anchors.shape[1])
        selected = class_logits.amax(dim=-1).topk(num_selected, dim=1).indices
        content = _take(cells, selected)
        # Boxes of the selected cells only: the published code computes those of all cells and drops most of them.
        box_logits = self.predict_box(content) + anchors[0][selected]
        return SelectedQueries(content, box_logits, _take(class_logits, selected), selected)


def flatten_levels(levels: Sequence[Tensor]) -> tuple[Float[Tensor, "B N dim"], list[tuple[int, int]]]:
    """The cells of all levels in one row, each level row by row, and the (height, width) of each level."""
    memory = torch.cat([map_to_tokens(level) for level in levels], dim=1)
    return memory, [(int(level.shape[-2]), int(level.shape[-1])) for level in levels]


def build_class_predictor(dim: int, num_classes: int) -> nn.Linear:
    """Class logits of a query, all improbable at first (focal loss prior): most queries match nothing."""
    linear = nn.Linear(dim, num_classes)
    nn.init.constant_(linear.bias, -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY))
    return linear


def build_box_refinement(dim: int) -> BoxPredictor:
    """What is added to the logits of a box; nothing at first."""
    predictor = BoxPredictor(dim)
    last = predictor[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return predictor


def _take(rows: Float[Tensor, "B N dim"], index: Int64[Tensor, "B Q"]) -> Float[Tensor, "B Q dim"]:
    return rows.gather(1, index[..., None].expand(-1, -1, rows.shape[-1]))
