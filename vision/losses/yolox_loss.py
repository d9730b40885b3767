"""The loss of YOLOX (Ge et al. 2021, arXiv:2107.08430): label assignment, then IoU loss and binary cross entropy.

The numbers are those of the published code: 1 - IoU^2 times five for boxes, the IoU as the target of the class,
everything divided by the number of matched cells in the batch, over all processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float, Int64
from pydantic import Field
from torch import Tensor
from torch.nn import functional
from typing_extensions import assert_never

from handeye.vision.assignment.simota import SimotaConfig, assign_simota
from handeye.vision.assignment.task_aligned import TaskAlignedConfig, assign_task_aligned
from handeye.vision.boxes.formats import cxcywh_to_xyxy, xyxy_to_cxcywh
from handeye.vision.boxes.targets import BoxTargets
from handeye.vision.config import Config
from handeye.vision.heads.outputs import GridOutput
from handeye.vision.losses.counting import Count, average_count
from handeye.vision.losses.loss_terms import binary_cross_entropy, l1_loss, smooth_labels, squared_iou_loss

Weight = Annotated[float, Field(ge=0)]


class YoloxLossConfig(Config):
    """Label assignment and the weights of the parts of the loss."""

    kind: Literal["yolox"] = "yolox"
    assignment: Annotated[SimotaConfig | TaskAlignedConfig, Field(discriminator="kind")] = SimotaConfig()
    """SimOTA is YOLOX's own; task-aligned is what later YOLOs took up."""
    box_weight: Weight = 5.0
    objectness_weight: Weight = 1.0
    class_weight: Weight = 1.0
    l1_weight: Weight = 1.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """This part of every class's target is one half; YOLOX has none."""


@dataclass(frozen=True, slots=True, eq=False)
class _MatchedCells:
    """The matched cells of a batch, one row each, as indices into the output by image and cell."""

    image_index: Int64[Tensor, " P"]
    cell_index: Int64[Tensor, " P"]
    boxes_xyxy: Float[Tensor, "P 4"]
    class_ids: Int64[Tensor, " P"]
    quality: Float[Tensor, " P"]
    """Target of the class score: the IoU with SimOTA, the alignment with the task-aligned assignment."""


class YoloxLoss:
    """`losses = loss(output, targets)`; losses["total"] is to be minimized."""

    def __init__(self, config: YoloxLossConfig | None = None, count: Count = average_count) -> None:
        self.config, self.count = config or YoloxLossConfig(), count

    def __call__(
        self, output: GridOutput, targets: Sequence[BoxTargets], *, with_l1: bool = False
    ) -> dict[str, Float[Tensor, ""]]:
        """The parts, weighted, and their total, single precision whatever the output is in.

        targets has one entry for each image. with_l1 adds the absolute error of the undecoded boxes (YOLOX does so
        in the last epochs). Raises ValueError when the number of targets is not that of the images.
        """
        if len(targets) != len(output.box_predictions):
            raise ValueError(f"expected targets for {len(output.box_predictions)} images, got {len(targets)}")
        with torch.autocast(output.box_predictions.device.type, enabled=False):
            boxes_cxcywh = output.boxes_cxcywh
            matches = _match(self.config.assignment, output, boxes_cxcywh.detach(), targets)
            ignored = torch.stack([is_ignored(output, target) for target in targets])
            losses = self._weighted(output, boxes_cxcywh, matches, ignored, with_l1=with_l1)
        return {"total": torch.stack(list(losses.values())).sum(), **losses}

    def _weighted(
        self, output: GridOutput, boxes_cxcywh: Tensor, matches: _MatchedCells, ignored: Tensor, *, with_l1: bool
    ) -> dict[str, Tensor]:
        at = (matches.image_index, matches.cell_index)
        losses = {
            "box": self.config.box_weight * squared_iou_loss(cxcywh_to_xyxy(boxes_cxcywh[at]), matches.boxes_xyxy),
            "objectness": self.config.objectness_weight * _objectness_loss(output.objectness_logits, matches, ignored),
            "class": self.config.class_weight
            * _class_loss(output.class_logits[at], matches, self.config.label_smoothing),
        }
        if with_l1:
            wanted = _encode(matches.boxes_xyxy, output.cell_xy[at[1]], output.strides[at[1]])
            losses["l1"] = self.config.l1_weight * l1_loss(output.box_predictions[at].to(wanted.dtype), wanted)
        num_matches = self.count(len(matches.cell_index), boxes_cxcywh.device)
        return {name: values.sum() / num_matches for name, values in losses.items()}


def _match(
    assignment: SimotaConfig | TaskAlignedConfig,
    output: GridOutput,
    boxes_cxcywh: Float[Tensor, "B cells 4"],
    targets: Sequence[BoxTargets],
) -> _MatchedCells:
    """The assignment on every image of the batch."""
    parts = []
    for image, target in enumerate(targets):
        cell_index, box_index, quality = _match_image(assignment, output, boxes_cxcywh[image], image, target)
        parts.append(
            (
                torch.full_like(cell_index, image),
                cell_index,
                target.boxes_xyxy[box_index].to(boxes_cxcywh.dtype),
                target.class_ids[box_index],
                quality,
            )
        )
    return _MatchedCells(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def _match_image(
    assignment: SimotaConfig | TaskAlignedConfig,
    output: GridOutput,
    boxes_cxcywh: Float[Tensor, "cells 4"],
    image: int,
    target: BoxTargets,
) -> tuple[Int64[Tensor, " P"], Int64[Tensor, " P"], Float[Tensor, " P"]]:
    """Cells, the boxes that they are to predict, and the target of the class score."""
    centres = (output.cell_xy + 0.5) * output.strides
    objectness, classes = output.objectness_logits[image], output.class_logits[image]
    match assignment:
        case SimotaConfig():
            overlapped = assign_simota(
                centres,
                output.strides,
                boxes_cxcywh,
                objectness,
                classes,
                target,
                class_cost_weight=assignment.class_cost_weight,
            )
            return overlapped.cell_index, overlapped.box_index, overlapped.ious
        case TaskAlignedConfig():
            scores = objectness.detach().float().sigmoid() * classes.detach().float().sigmoid()
            aligned = assign_task_aligned(centres, cxcywh_to_xyxy(boxes_cxcywh), scores, target, assignment)
            return aligned.cell_index, aligned.box_index, aligned.quality
        case _:
            assert_never(assignment)


def is_ignored(output: GridOutput, target: BoxTargets) -> Bool[Tensor, " cells"]:
    """Which cells have their centre in an ignored region."""
    x, y = ((output.cell_xy + 0.5) * output.strides)[:, None].unbind(dim=-1)
    left, top, right, bottom = target.ignored_xyxy.unbind(dim=-1)
    return ((x > left) & (x < right) & (y > top) & (y < bottom)).any(dim=1)


def _objectness_loss(
    logits: Float[Tensor, "B cells 1"], matches: _MatchedCells, ignored: Bool[Tensor, "B cells"]
) -> Float[Tensor, "B cells"]:
    """Every cell of the batch: 1 where it is matched, 0 elsewhere; no loss where it is unmatched and ignored.

    The published code has no ignored regions: crowds are background to it.
    """
    wanted = torch.zeros(logits.shape[:2], device=logits.device)
    wanted[matches.image_index, matches.cell_index] = 1
    counts = (wanted > 0) | ~ignored
    return binary_cross_entropy(logits.squeeze(-1).float(), wanted) * counts


def _class_loss(
    logits: Float[Tensor, "P num_classes"], matches: _MatchedCells, label_smoothing: float
) -> Float[Tensor, "P num_classes"]:
    """Binary cross entropy with the IoU as the target of the class, so that scores rank boxes by quality."""
    wanted = functional.one_hot(matches.class_ids, logits.shape[1]) * matches.quality[:, None]
    return binary_cross_entropy(logits.float(), smooth_labels(wanted, label_smoothing))


def _encode(
    boxes_xyxy: Float[Tensor, "P 4"], cell_xy: Float[Tensor, "P 2"], strides: Float[Tensor, "P 1"]
) -> Float[Tensor, "P 4"]:
    """The predictions whose decoding is these boxes: the inverse of GridOutput.boxes_cxcywh."""
    boxes_cxcywh = xyxy_to_cxcywh(boxes_xyxy)
    offsets = boxes_cxcywh[:, :2] / strides - cell_xy
    sizes = (boxes_cxcywh[:, 2:] / strides + 1e-8).log()
    return torch.cat((offsets, sizes), dim=-1)
