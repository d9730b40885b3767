"""The loss of YOLOX (Ge et al. 2021, arXiv:2107.08430): match cells with objects, then compare them.

The numbers are those of the published code: 1 - IoU^2 times five for boxes, the overlap as the target of the class,
everything divided by the number of matched cells in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from vision.assignment.simota import assign_simota
from vision.assignment.targets import BoxTargets
from vision.boxes.formats import cxcywh_to_xyxy, xyxy_to_cxcywh
from vision.config import Config
from vision.heads.yolox import GridOutput
from vision.losses.box_regression import l1_loss, squared_iou_loss
from vision.losses.classification import binary_cross_entropy

Weight = Annotated[float, Field(ge=0)]


class YoloxLossConfig(Config):
    """Weights of the parts of the loss."""

    box_weight: Weight = 5.0
    objectness_weight: Weight = 1.0
    class_weight: Weight = 1.0
    l1_weight: Weight = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class _Matches:
    """The matched cells of a batch, one row each; what they said is picked out of the output by image and cell."""

    image_index: Int64[Tensor, " P"]
    cell_index: Int64[Tensor, " P"]
    boxes_xyxy: Float[Tensor, "P 4"]
    class_ids: Int64[Tensor, " P"]
    ious: Float[Tensor, " P"]


class YoloxLoss:
    """`losses = loss(output, targets)`; losses["total"] is what to descend."""

    def __init__(self, config: YoloxLossConfig | None = None) -> None:
        self.config = config or YoloxLossConfig()

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
            matches = _match(output, boxes_cxcywh.detach(), targets)
            losses = self._weighted(output, boxes_cxcywh, matches, with_l1=with_l1)
        return {"total": torch.stack(list(losses.values())).sum(), **losses}

    def _weighted(
        self, output: GridOutput, boxes_cxcywh: Tensor, matches: _Matches, *, with_l1: bool
    ) -> dict[str, Tensor]:
        at = (matches.image_index, matches.cell_index)
        losses = {
            "box": self.config.box_weight * squared_iou_loss(cxcywh_to_xyxy(boxes_cxcywh[at]), matches.boxes_xyxy),
            "objectness": self.config.objectness_weight * _objectness_loss(output.objectness_logits, matches),
            "class": self.config.class_weight * _class_loss(output.class_logits[at], matches),
        }
        if with_l1:
            wanted = _encode(matches.boxes_xyxy, output.cell_xy[at[1]], output.strides[at[1]])
            losses["l1"] = self.config.l1_weight * l1_loss(output.box_predictions[at].to(wanted.dtype), wanted)
        num_matches = max(len(matches.cell_index), 1)
        return {name: values.sum() / num_matches for name, values in losses.items()}


def _match(output: GridOutput, boxes_cxcywh: Float[Tensor, "B cells 4"], targets: Sequence[BoxTargets]) -> _Matches:
    """SimOTA on every image of the batch."""
    centres = (output.cell_xy + 0.5) * output.strides
    parts = []
    for image, target in enumerate(targets):
        match = assign_simota(
            centres,
            output.strides,
            boxes_cxcywh[image],
            output.objectness_logits[image],
            output.class_logits[image],
            target,
        )
        parts.append(
            (
                torch.full_like(match.cell_index, image),
                match.cell_index,
                target.boxes_xyxy[match.box_index].to(boxes_cxcywh.dtype),
                target.class_ids[match.box_index],
                match.ious,
            )
        )
    return _Matches(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def _objectness_loss(logits: Float[Tensor, "B cells 1"], matches: _Matches) -> Float[Tensor, "B cells"]:
    """Every cell of the batch: 1 where it is matched, 0 elsewhere."""
    wanted = torch.zeros(logits.shape[:2], device=logits.device)
    wanted[matches.image_index, matches.cell_index] = 1
    return binary_cross_entropy(logits.squeeze(-1).float(), wanted)


def _class_loss(logits: Float[Tensor, "P num_classes"], matches: _Matches) -> Float[Tensor, "P num_classes"]:
    """The class is to be as sure as the box is good: its target is the overlap, so that scores rank boxes."""
    wanted = functional.one_hot(matches.class_ids, logits.shape[1]) * matches.ious[:, None]
    return binary_cross_entropy(logits.float(), wanted)


def _encode(
    boxes_xyxy: Float[Tensor, "P 4"], cell_xy: Float[Tensor, "P 2"], strides: Float[Tensor, "P 1"]
) -> Float[Tensor, "P 4"]:
    """The predictions whose decoding is these boxes: the inverse of GridOutput.boxes_cxcywh."""
    boxes_cxcywh = xyxy_to_cxcywh(boxes_xyxy)
    offsets = boxes_cxcywh[:, :2] / strides - cell_xy
    sizes = (boxes_cxcywh[:, 2:] / strides + 1e-8).log()
    return torch.cat((offsets, sizes), dim=-1)
