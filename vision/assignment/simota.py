"""SimOTA label assignment of YOLOX (Ge et al. 2021, arXiv:2107.08430, section "SimOTA"): dynamic top-k by cost.

Cells near an object's centre are its candidates; the object takes the cheapest of them, and more of them the better
their predicted boxes overlap it (dynamic k). The rules are those of the published code as it is now: candidates by a
centre radius of 1.5 cells. Its first versions had 2.5 and every cell inside the box.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float, Int64
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from handeye.vision.boxes.formats import cxcywh_to_xyxy
from handeye.vision.boxes.iou import pairwise_iou
from handeye.vision.boxes.targets import BoxTargets
from handeye.vision.config import Config

CENTRE_RADIUS = 1.5
"""Half the side of the square of candidate cells around an object's centre, in cells of each level."""
BEST_OVERLAPS = 10
"""The sum of this many best IoUs, rounded down, is how many cells an object takes (dynamic k)."""
OVERLAP_WEIGHT = 3.0
NOT_A_CANDIDATE = 1e5
"""Added to the cost of a cell that is a candidate of another object only: taken when nothing else is left.

Any number far above the other costs does; the published code has had 1e5 and 1e6.
"""
LEAST_LOG = -100.0
"""Where the logarithm of a probability is cut, as torch's binary cross entropy cuts it."""


class SimotaConfig(Config):
    """Its numbers are those of the published code."""

    kind: Literal["simota"] = "simota"
    class_cost_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the classification cost beside that of the boxes. Where classes differ by
    shape and share their colours, give 0: otherwise one level may come to predict a class wherever it sees its colour,
    be matched only where that is right, and so never learn where it is wrong."""


@dataclass(frozen=True, slots=True, eq=False)
class Assignment:
    """Cell cell_index[i] is to predict box box_index[i], which it overlaps by ious[i] now. No cell appears twice."""

    cell_index: Int64[Tensor, " P"]
    box_index: Int64[Tensor, " P"]
    ious: Float[Tensor, " P"]


@torch.no_grad()
def assign_simota(
    cell_centres: Float[Tensor, "cells 2"],
    strides: Float[Tensor, "cells 1"],
    boxes_cxcywh: Float[Tensor, "cells 4"],
    objectness_logits: Float[Tensor, "cells 1"],
    class_logits: Float[Tensor, "cells num_classes"],
    targets: BoxTargets,
    *,
    class_cost_weight: float = 1.0,
) -> Assignment:
    """Match the cells of one image with its objects; all coordinates in pixels of the network input.

    boxes_cxcywh and the logits are the present predictions of the cells. An image without objects gives no match.
    class_cost_weight as in SimotaConfig.
    """
    near = _near_a_centre(cell_centres, strides, targets.boxes_xyxy)
    candidates = near.any(dim=0).nonzero().squeeze(1)
    if len(candidates) == 0:
        nothing = candidates.new_zeros(0)
        return Assignment(nothing, nothing, boxes_cxcywh.new_zeros(0, dtype=torch.float32))
    ious = pairwise_iou(targets.boxes_xyxy.float(), cxcywh_to_xyxy(boxes_cxcywh[candidates].float()))
    class_cost = _classification_cost(objectness_logits[candidates], class_logits[candidates], targets.class_ids)
    cost = (
        class_cost_weight * class_cost - OVERLAP_WEIGHT * (ious + 1e-8).log() + NOT_A_CANDIDATE * ~near[:, candidates]
    )
    box_index = _cheapest(cost, _num_wanted(ious))
    taken = (box_index >= 0).nonzero().squeeze(1)
    box_index = box_index[taken]
    return Assignment(candidates[taken], box_index, ious[box_index, taken])


def _near_a_centre(
    cell_centres: Float[Tensor, "cells 2"], strides: Float[Tensor, "cells 1"], boxes_xyxy: Float[Tensor, "N 4"]
) -> Bool[Tensor, "N cells"]:
    """Whether a cell's centre lies within the radius of a box's centre, in x and in y."""
    box_centres = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2
    distance = (cell_centres - box_centres[:, None]).abs().amax(dim=-1)
    return distance < CENTRE_RADIUS * strides[:, 0]


def _classification_cost(
    objectness_logits: Float[Tensor, "M 1"],
    class_logits: Float[Tensor, "M num_classes"],
    class_ids: Int64[Tensor, " N"],
) -> Float[Tensor, "N M"]:
    """Cross entropy of the scores sqrt(class * objectness) against "this class and no other".

    Summed over the classes, only the own class differs from "no class at all": so the sum is made once for a cell,
    not once for every pair of a cell and a box.
    """
    log_scores = (functional.logsigmoid(class_logits.float()) + functional.logsigmoid(objectness_logits.float())) / 2
    log_rest = torch.log1p(-log_scores.exp()).clamp(min=LEAST_LOG)
    nothing = -log_rest.sum(dim=1)
    own = log_rest[:, class_ids] - log_scores.clamp(min=LEAST_LOG)[:, class_ids]
    return (nothing[:, None] + own).T


def _num_wanted(ious: Float[Tensor, "N M"]) -> Int64[Tensor, " N"]:
    """How many cells each box takes: its best overlaps, summed and cut, at least one."""
    best = ious.topk(min(BEST_OVERLAPS, ious.shape[1]), dim=1).values
    return best.sum(dim=1).long().clamp(min=1)


def _cheapest(cost: Float[Tensor, "N M"], num_wanted: Int64[Tensor, " N"]) -> Int64[Tensor, " M"]:
    """The box of each candidate cell, or -1: boxes pick their cheapest cells, contested ones go where they cost least.

    That may be a box which did not pick it, as in the published code.
    """
    most = int(num_wanted.max())
    order = cost.topk(most, dim=1, largest=False).indices
    picked = torch.arange(most, device=cost.device) < num_wanted[:, None]
    picks = torch.zeros_like(cost, dtype=torch.bool).scatter_(1, order, picked)
    num_pickers = picks.sum(dim=0)
    box_index = torch.where(num_pickers > 1, cost.argmin(dim=0), picks.long().argmax(dim=0))
    return torch.where(num_pickers > 0, box_index, -1)
