"""Task-aligned assignment (TOOD, Feng et al. 2021, arXiv:2108.07755, section 3.3.2): label assignment by alignment.

The alignment of a cell is t = s^alpha * u^beta of its score s for the object's class and its IoU u with the object, so
that high scores go with good boxes. Later YOLOs use it in this form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float, Int64
from pydantic import Field
from torch import Tensor

from handeye.vision.boxes.iou import pairwise_iou
from handeye.vision.boxes.targets import BoxTargets
from handeye.vision.config import Config


class TaskAlignedConfig(Config):
    """The numbers of the paper; YOLOv8 has alpha 0.5 and top_k 10."""

    kind: Literal["task_aligned"] = "task_aligned"
    alpha: Annotated[float, Field(ge=0)] = 1.0
    """Power of the score."""
    beta: Annotated[float, Field(ge=0)] = 6.0
    """Power of the overlap."""
    top_k: Annotated[int, Field(gt=0)] = 13
    """At most this many cells are assigned to an object."""


@dataclass(frozen=True, slots=True, eq=False)
class TaskAlignment:
    """Cell cell_index[i] is to predict box box_index[i]. No cell appears twice.

    quality is the score it is to have: its alignment, scaled so that the best cell of an object has the object's best
    overlap.
    """

    cell_index: Int64[Tensor, " P"]
    box_index: Int64[Tensor, " P"]
    quality: Float[Tensor, " P"]


@torch.no_grad()
def assign_task_aligned(
    cell_centres: Float[Tensor, "cells 2"],
    predicted_xyxy: Float[Tensor, "cells 4"],
    scores: Float[Tensor, "cells num_classes"],
    targets: BoxTargets,
    config: TaskAlignedConfig,
) -> TaskAlignment:
    """Match the cells of one image with its objects; coordinates in pixels, scores of the classes in [0, 1].

    Only cells with their centre inside an object are its candidates, so one that lies between the centres gets none.
    A cell wanted by several objects goes to the one it overlaps most.
    """
    if len(targets) == 0 or len(cell_centres) == 0:
        nothing = torch.zeros(0, dtype=torch.int64, device=scores.device)
        return TaskAlignment(nothing, nothing, scores.new_zeros(0, dtype=torch.float32))
    boxes_xyxy = targets.boxes_xyxy.float()
    ious = pairwise_iou(boxes_xyxy, predicted_xyxy.float())
    inside = _is_inside(cell_centres, boxes_xyxy)
    alignment = scores.float()[:, targets.class_ids].T ** config.alpha * ious**config.beta
    picked = _pick(torch.where(inside, alignment, -1), config.top_k)
    overlap, box_index = torch.where(picked, ious, -1).max(dim=0)
    cell_index = (overlap >= 0).nonzero().squeeze(1)
    box_index = box_index[cell_index]
    kept = torch.zeros_like(picked)
    kept[box_index, cell_index] = True
    quality = _quality(torch.where(kept, alignment, 0), torch.where(kept, ious, 0))
    return TaskAlignment(cell_index, box_index, quality[box_index, cell_index])


def _is_inside(cell_centres: Float[Tensor, "cells 2"], boxes_xyxy: Float[Tensor, "N 4"]) -> Bool[Tensor, "N cells"]:
    """Whether a cell's centre lies in a box, its border left out."""
    after = cell_centres > boxes_xyxy[:, None, :2]
    before = cell_centres < boxes_xyxy[:, None, 2:]
    return (after & before).all(dim=-1)


def _pick(alignment: Float[Tensor, "N cells"], top_k: int) -> Bool[Tensor, "N cells"]:
    """The best aligned candidates of each box; what is no candidate has an alignment below 0."""
    values, cells = alignment.topk(min(top_k, alignment.shape[1]), dim=1)
    return torch.zeros_like(alignment, dtype=torch.bool).scatter_(1, cells, values >= 0)


def _quality(alignment: Float[Tensor, "N cells"], ious: Float[Tensor, "N cells"]) -> Float[Tensor, "N cells"]:
    """Alignment scaled to the best overlap of each box; 0 for a box whose cells are not aligned at all."""
    best = alignment.amax(dim=1, keepdim=True)
    return torch.where(best > 0, alignment / torch.where(best > 0, best, 1), 0) * ious.amax(dim=1, keepdim=True)
