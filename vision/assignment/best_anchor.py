"""Anchor assignment of YOLO v1 to v5: which prediction is responsible for an object, by its cell and its shape.

v1: the predicted box of the cell with the best IoU. v2 to v4: the anchor with the best shape IoU. v5: every anchor of
similar sides, in the nearest cells too. An object whose row goes to another one is lost, as in the published versions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from handeye.vision.boxes.anchors import shape_iou, within_ratio
from handeye.vision.boxes.formats import xyxy_to_cxcywh
from handeye.vision.boxes.iou import pairwise_iou


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Row row_index[i] is to predict box box_index[i]."""

    row_index: Int64[Tensor, " P"]
    box_index: Int64[Tensor, " P"]


@torch.no_grad()
def assign_responsible(
    cell_xy: Float[Tensor, "rows 2"],
    strides: Float[Tensor, "rows 1"],
    predicted_xyxy: Float[Tensor, "rows 4"],
    boxes_xyxy: Float[Tensor, "N 4"],
) -> Pairs:
    """v1: of the boxes of an object's cell the one that overlaps it most now (section 2.2 of its paper).

    A cell has one set of classes, so it takes one object: the one overlapped most (of equal ones the first; the
    published code keeps the first in any case).
    """
    holds = _is_inside(_offsets(cell_xy, strides, boxes_xyxy)).all(dim=-1)
    best, row_index = torch.where(holds, pairwise_iou(boxes_xyxy, predicted_xyxy), -1).max(dim=1)
    same_cell = (holds[:, None] & holds).any(dim=-1)
    earlier = torch.ones_like(same_cell).tril(-1)
    beaten = (best > best[:, None]) | ((best == best[:, None]) & earlier)
    kept = (~(same_cell & beaten).any(dim=1)).nonzero().squeeze(1)
    return Pairs(row_index[kept], kept)


@torch.no_grad()
def assign_best_anchor(
    cell_xy: Float[Tensor, "rows 2"],
    strides: Float[Tensor, "rows 1"],
    prior_wh: Float[Tensor, "rows 2"],
    boxes_xyxy: Float[Tensor, "N 4"],
    *,
    also_above: float = 1.0,
) -> Pairs:
    """v2, v3: of the anchors that sit in an object's cells, over all levels, the one of the best shape IoU.

    v4 takes those with a shape IoU above `also_above` as well. Where two objects claim one row it goes to the one with
    the better shape IoU (the published code: to the later one).
    """
    holds = _is_inside(_offsets(cell_xy, strides, boxes_xyxy)).all(dim=-1)
    shape_ious = torch.where(holds, shape_iou(_sizes(boxes_xyxy), prior_wh), -1)
    wanted = shape_ious > also_above
    wanted[torch.arange(len(boxes_xyxy), device=wanted.device), shape_ious.argmax(dim=1)] = True
    return _best_box_of_each_row(torch.where(wanted, shape_ious, -1))


@torch.no_grad()
def assign_by_ratio(
    cell_xy: Float[Tensor, "rows 2"],
    strides: Float[Tensor, "rows 1"],
    prior_wh: Float[Tensor, "rows 2"],
    boxes_xyxy: Float[Tensor, "N 4"],
    *,
    most_ratio: float = 4.0,
) -> Pairs:
    """v5: every anchor whose sides are within a factor of the object's, in its cell and in the two cells beside and
    above or below that its centre is nearest to. A row may have to answer for several objects, as in the published
    code."""
    offsets = _offsets(cell_xy, strides, boxes_xyxy)
    inside = _is_inside(offsets)
    # A neighbour's middle is less than a cell away exactly where the centre lies in the half towards it.
    near = (offsets - 0.5).abs() < 1
    holds_or_beside = (inside[..., 1] & near[..., 0]) | (inside[..., 0] & near[..., 1])
    wanted = holds_or_beside & within_ratio(_sizes(boxes_xyxy), prior_wh, most_ratio)
    box_index, row_index = wanted.nonzero().unbind(dim=1)
    return Pairs(row_index, box_index)


@torch.no_grad()
def overlaps_an_object(
    predicted_xyxy: Float[Tensor, "rows 4"], boxes_xyxy: Float[Tensor, "N 4"], threshold: float
) -> Bool[Tensor, " rows"]:
    """Rows whose box overlaps some object too well to be background."""
    return (pairwise_iou(predicted_xyxy, boxes_xyxy) > threshold).any(dim=1)


def _offsets(
    cell_xy: Float[Tensor, "rows 2"], strides: Float[Tensor, "rows 1"], boxes_xyxy: Float[Tensor, "N 4"]
) -> Float[Tensor, "N rows 2"]:
    """Box centres from the corners of the rows' cells, in cells; a centre outside belongs to the nearest cell."""
    ends = ((cell_xy + 1) * strides).amax(dim=0)
    centres = xyxy_to_cxcywh(boxes_xyxy)[:, :2].clamp(min=0)
    return torch.minimum(centres, torch.nextafter(ends, torch.zeros_like(ends)))[:, None] / strides - cell_xy


def _is_inside(offsets: Float[Tensor, "*N 2"]) -> Bool[Tensor, "*N 2"]:
    """In x and in y, whether a point lies in the cell whose corner these offsets start from."""
    return (offsets >= 0) & (offsets < 1)


def _sizes(boxes_xyxy: Float[Tensor, "N 4"]) -> Float[Tensor, "N 2"]:
    return boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]


def _best_box_of_each_row(scores: Float[Tensor, "N rows"]) -> Pairs:
    """Rows that have a score of at least 0 from some box, and the box of the best one."""
    if len(scores) == 0:
        nothing = torch.zeros(0, dtype=torch.int64, device=scores.device)
        return Pairs(nothing, nothing)
    best, box_index = scores.max(dim=0)
    row_index = (best >= 0).nonzero().squeeze(1)
    return Pairs(row_index, box_index[row_index])
