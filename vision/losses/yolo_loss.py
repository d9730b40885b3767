"""The losses of YOLO v1 to v5, as in their papers or, where these give no formula, in their published code.

v1 has squared errors for everything. v2 compares logarithms of sizes and ignores boxes that overlap an object by
chance; v3 has binary cross entropy; v4 and v5 have CIoU, and the IoU as the target of objectness. `half squares`
are (a - b)^2 / 2, whose gradient is the difference in the papers of v2 and v3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float, Int64
from pydantic import Field
from torch import Tensor
from torch.nn import functional
from typing_extensions import assert_never

from handeye.vision.assignment.best_anchor import (
    Pairs,
    assign_best_anchor,
    assign_by_ratio,
    assign_responsible,
    overlaps_an_object,
)
from handeye.vision.boxes.formats import cxcywh_to_xyxy, xyxy_to_cxcywh
from handeye.vision.boxes.iou import aligned_ciou, aligned_iou
from handeye.vision.boxes.targets import BoxTargets
from handeye.vision.config import Config
from handeye.vision.errors import ConfigError
from handeye.vision.heads.yolo_grid import Version, YoloGridOutput, encode_sizes
from handeye.vision.losses.counting import num_processes
from handeye.vision.losses.loss_terms import binary_cross_entropy, smooth_labels
from handeye.vision.losses.yolox_loss import is_ignored

Weight = Annotated[float, Field(ge=0)]
Threshold = Annotated[float, Field(ge=0, le=1)]
V4_SHAPE_IOU = 0.213
"""v4: anchors of an object's cell with a larger shape IoU are assigned to it besides the best one."""
LEAST_FACTOR = 1e-8
"""Lower bound of a box's size over its prior, so that logarithms stay finite."""


class YoloV1LossConfig(Config):
    """Equation 3 of the v1 paper."""

    kind: Literal["yolo_v1"] = "yolo_v1"
    coordinate_weight: Weight = 5.0
    background_weight: Weight = 0.5
    """Of the confidence of boxes without an object: most of them."""


class YoloV2LossConfig(Config):
    """The paper gives no formula; these are the numbers of the published code for COCO and VOC."""

    kind: Literal["yolo_v2"] = "yolo_v2"
    object_weight: Weight = 5.0
    """Of the objectness of boxes with an object."""
    ignore_threshold: Threshold = 0.6
    """A box that overlaps some object by more has no loss as background."""


class YoloV3LossConfig(Config):
    """Section 2.1 and 2.2 of the v3 paper."""

    kind: Literal["yolo_v3"] = "yolo_v3"
    ignore_threshold: Threshold = 0.5
    """A box that overlaps some object by more has no loss as background; published configurations: 0.7."""


class YoloV5LossConfig(Config):
    """For v5 and v4: the numbers are v5's. v4's published code differs in its weights and wants 1 as objectness."""

    kind: Literal["yolo_v5"] = "yolo_v5"
    box_weight: Weight = 0.05
    objectness_weight: Weight = 1.0
    class_weight: Weight = 0.5
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """This part of every class's target is one half."""
    level_balance: Annotated[tuple[Weight, ...], Field(min_length=1)] = (4.0, 1.0, 0.4)
    """Weight of the objectness of each level, fine to coarse: objects are rarer among the cells of finer levels."""
    most_ratio: Annotated[float, Field(gt=1)] = 4.0
    """v5: anchors whose sides are within this factor of the object's are assigned to it."""


YoloLossConfig = YoloV1LossConfig | YoloV2LossConfig | YoloV3LossConfig | YoloV5LossConfig


def published_yolo_loss(version: Version) -> YoloLossConfig:
    """The loss that goes with a version of the head."""
    match version:
        case "v1":
            return YoloV1LossConfig()
        case "v2":
            return YoloV2LossConfig()
        case "v3":
            return YoloV3LossConfig()
        case "v4" | "v5":
            return YoloV5LossConfig()
        case _:
            assert_never(version)


@dataclass(frozen=True, slots=True, eq=False)
class _Wanted:
    """Targets of the rows that are assigned to an object; `at` indexes the output by image and row."""

    image_index: Int64[Tensor, " P"]
    row_index: Int64[Tensor, " P"]
    boxes_cxcywh: Float[Tensor, "P 4"]
    class_ids: Int64[Tensor, " P"]

    @property
    def at(self) -> tuple[Int64[Tensor, " P"], Int64[Tensor, " P"]]:
        return self.image_index, self.row_index


class YoloLoss:
    """`losses = loss(output, targets)`; losses["total"] is to be minimized."""

    def __init__(self, config: YoloLossConfig) -> None:
        self.config = config

    def __call__(
        self,
        output: YoloGridOutput,
        targets: Sequence[BoxTargets],
        *,
        with_l1: bool = False,  # noqa: ARG002 - these losses have no absolute errors
    ) -> dict[str, Float[Tensor, ""]]:
        """The parts "box", "objectness" and "class", weighted, and their total, single precision.

        v1 to v3 sum over an image's rows and average over the images. targets has one entry for each image. Raises
        ValueError when the number of targets is not that of the images, ConfigError for the head of another version.
        """
        if len(targets) != len(output.box_predictions):
            raise ValueError(f"expected targets for {len(output.box_predictions)} images, got {len(targets)}")
        if published_yolo_loss(output.version).kind != self.config.kind:
            fitting = published_yolo_loss(output.version).kind
            raise ConfigError(f"loss.kind: the head is {output.version} and takes {fitting}, got {self.config.kind}")
        with torch.autocast(output.box_predictions.device.type, enabled=False):
            losses = self._parts(output, targets)
        return {"total": torch.stack(list(losses.values())).sum(), **losses}

    def _parts(self, output: YoloGridOutput, targets: Sequence[BoxTargets]) -> dict[str, Tensor]:
        match self.config:
            case YoloV1LossConfig():
                return _v1_parts(self.config, output, targets)
            case YoloV2LossConfig():
                return _v2_parts(self.config, output, targets)
            case YoloV3LossConfig():
                return _v3_parts(self.config, output, targets)
            case YoloV5LossConfig():
                return _v5_parts(self.config, output, targets)
            case _:
                assert_never(self.config)


def _v1_parts(
    config: YoloV1LossConfig, output: YoloGridOutput, targets: Sequence[BoxTargets]
) -> dict[str, Float[Tensor, ""]]:
    """Squared errors, of the square roots of sizes (equation 3 of the paper); the target of confidence is the IoU."""
    predicted = cxcywh_to_xyxy(output.boxes_cxcywh.detach())
    wanted = _wanted(
        output,
        targets,
        lambda image, boxes: assign_responsible(output.cell_xy, output.strides, predicted[image], boxes),
    )
    offsets, factors = _relative(output, wanted)
    boxes = torch.cat((offsets, encode_sizes("v1", factors)), dim=1)
    confidence = output.objectness_logits.squeeze(-1).float()
    overlaps = aligned_iou(predicted[wanted.at], cxcywh_to_xyxy(wanted.boxes_cxcywh))
    background = _background(output, targets, wanted)
    losses = {
        "box": config.coordinate_weight * ((output.box_predictions[wanted.at].float() - boxes) ** 2).sum(),
        "objectness": ((confidence[wanted.at] - overlaps) ** 2).sum()
        + config.background_weight * (confidence[background] ** 2).sum(),
        "class": ((output.class_probabilities[wanted.at].float() - _one_hot(output, wanted)) ** 2).sum(),
    }
    return {name: loss / len(targets) for name, loss in losses.items()}


def _v2_parts(
    config: YoloV2LossConfig, output: YoloGridOutput, targets: Sequence[BoxTargets]
) -> dict[str, Float[Tensor, ""]]:
    """Half squares of sigma(t_xy), t_wh and objectness, which is to be the overlap; cross entropy of the classes.

    The published code also pulls all boxes to their anchors for its first 12,800 images; a fresh head starts there.
    """
    predicted = cxcywh_to_xyxy(output.boxes_cxcywh.detach())
    wanted = _wanted(output, targets, _v3_anchors(output))
    offsets, factors = _relative(output, wanted)
    raw = output.box_predictions[wanted.at].float()
    errors = torch.cat((raw[:, :2].sigmoid() - offsets, raw[:, 2:] - encode_sizes("v2", factors)), dim=1)
    objectness = output.objectness.squeeze(-1).float()
    overlaps = aligned_iou(predicted[wanted.at], cxcywh_to_xyxy(wanted.boxes_cxcywh))
    background = _background(output, targets, wanted) & ~_overlapping(predicted, targets, config.ignore_threshold)
    losses = {
        "box": (_smallness(output, wanted) * errors**2).sum() / 2,
        "objectness": config.object_weight * ((objectness[wanted.at] - overlaps) ** 2).sum() / 2
        + (objectness[background] ** 2).sum() / 2,
        "class": functional.cross_entropy(output.class_logits[wanted.at].float(), wanted.class_ids, reduction="sum"),
    }
    return {name: loss / len(targets) for name, loss in losses.items()}


def _v3_parts(
    config: YoloV3LossConfig, output: YoloGridOutput, targets: Sequence[BoxTargets]
) -> dict[str, Float[Tensor, ""]]:
    """Binary cross entropy of objectness and classes (section 2 of the paper), half squares of t_wh.

    The centre has the gradient sigma(t) - t* of the paper and the published code: that of the cross entropy, which is
    counted from its least value, so that the right box costs nothing.
    """
    predicted = cxcywh_to_xyxy(output.boxes_cxcywh.detach())
    wanted = _wanted(output, targets, _v3_anchors(output))
    offsets, factors = _relative(output, wanted)
    raw = output.box_predictions[wanted.at].float()
    offsets = offsets.clamp(0, 1)
    centres = binary_cross_entropy(raw[:, :2], offsets) - torch.special.entr(offsets) - torch.special.entr(1 - offsets)
    sizes = (raw[:, 2:] - encode_sizes("v3", factors)) ** 2 / 2
    objectness = output.objectness_logits.squeeze(-1).float()
    background = _background(output, targets, wanted) & ~_overlapping(predicted, targets, config.ignore_threshold)
    losses = {
        "box": (_smallness(output, wanted) * (centres + sizes)).sum(),
        "objectness": functional.softplus(-objectness[wanted.at]).sum()
        + functional.softplus(objectness[background]).sum(),
        "class": binary_cross_entropy(output.class_logits[wanted.at].float(), _one_hot(output, wanted)).sum(),
    }
    return {name: loss / len(targets) for name, loss in losses.items()}


def _v5_parts(
    config: YoloV5LossConfig, output: YoloGridOutput, targets: Sequence[BoxTargets]
) -> dict[str, Float[Tensor, ""]]:
    """Means over the rows of each level, summed over the levels, times the images of all processes, as published.

    Left out: v5's scaling of the weights by the number of classes, of levels and by the image's size.
    """
    strides = output.strides[:, 0].unique()
    if len(strides) != len(config.level_balance):
        raise ConfigError(f"loss.level_balance: expected {len(strides)} numbers, got {len(config.level_balance)}")
    wanted = _wanted(output, targets, _v4_anchors(output) if output.version == "v4" else _v5_anchors(output, config))
    overlaps = aligned_ciou(cxcywh_to_xyxy(output.boxes_cxcywh[wanted.at]), cxcywh_to_xyxy(wanted.boxes_cxcywh))
    objectness = _objectness_like_overlap(output, targets, wanted, overlaps.detach())
    labels = smooth_labels(_one_hot(output, wanted), config.label_smoothing)
    classes = binary_cross_entropy(output.class_logits[wanted.at].float(), labels)
    losses = {name: output.cell_xy.new_zeros(()) for name in ("box", "objectness", "class")}
    for stride, balance in zip(strides, config.level_balance, strict=True):
        of_level = output.strides[:, 0] == stride
        of_pair = of_level[wanted.row_index]
        losses["box"] = losses["box"] + config.box_weight * _mean((1 - overlaps)[of_pair])
        losses["class"] = losses["class"] + config.class_weight * _mean(classes[of_pair])
        losses["objectness"] = (
            losses["objectness"] + config.objectness_weight * balance * objectness[:, of_level].mean()
        )
    return {name: loss * len(targets) * num_processes() for name, loss in losses.items()}


Assign = Callable[[int, Tensor], Pairs]
"""Index of an image and its boxes (xyxy) -> which row is responsible for which box."""


def _v3_anchors(output: YoloGridOutput) -> Assign:
    return lambda _, boxes: assign_best_anchor(output.cell_xy, output.strides, output.prior_wh, boxes)


def _v4_anchors(output: YoloGridOutput) -> Assign:
    return lambda _, boxes: assign_best_anchor(
        output.cell_xy, output.strides, output.prior_wh, boxes, also_above=V4_SHAPE_IOU
    )


def _v5_anchors(output: YoloGridOutput, config: YoloV5LossConfig) -> Assign:
    return lambda _, boxes: assign_by_ratio(
        output.cell_xy, output.strides, output.prior_wh, boxes, most_ratio=config.most_ratio
    )


def _wanted(output: YoloGridOutput, targets: Sequence[BoxTargets], assign: Assign) -> _Wanted:
    """The pairs of all images in one row."""
    parts = []
    for image, target in enumerate(targets):
        boxes_xyxy = target.boxes_xyxy.to(output.cell_xy.dtype)
        pairs = assign(image, boxes_xyxy)
        boxes_cxcywh = xyxy_to_cxcywh(boxes_xyxy)[pairs.box_index]
        image_index = torch.full_like(pairs.row_index, image)
        parts.append((image_index, pairs.row_index, boxes_cxcywh, target.class_ids[pairs.box_index]))
    return _Wanted(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def _relative(output: YoloGridOutput, wanted: _Wanted) -> tuple[Float[Tensor, "P 2"], Float[Tensor, "P 2"]]:
    offsets, factors = output.relative_to_rows(wanted.boxes_cxcywh, wanted.row_index)
    return offsets, factors.clamp(min=LEAST_FACTOR)


def _smallness(output: YoloGridOutput, wanted: _Wanted) -> Float[Tensor, "P 1"]:
    """2 - the object's share of the image: the published weight that makes small objects count up to twice."""
    width, height = ((output.cell_xy + 1) * output.strides).amax(dim=0)
    return 2 - wanted.boxes_cxcywh[:, 2:].prod(dim=1, keepdim=True) / (width * height)


def _one_hot(output: YoloGridOutput, wanted: _Wanted) -> Float[Tensor, "P num_classes"]:
    return functional.one_hot(wanted.class_ids, output.class_logits.shape[-1]).to(output.cell_xy.dtype)


def _background(output: YoloGridOutput, targets: Sequence[BoxTargets], wanted: _Wanted) -> Bool[Tensor, "B rows"]:
    """Rows without an object, outside of ignored regions."""
    background = ~torch.stack([is_ignored(output, target) for target in targets])
    background[wanted.at] = False
    return background


def _overlapping(
    predicted_xyxy: Float[Tensor, "B rows 4"], targets: Sequence[BoxTargets], threshold: float
) -> Bool[Tensor, "B rows"]:
    """Rows that overlap some object of their image by more than the threshold."""
    return torch.stack(
        [
            overlaps_an_object(boxes, target.boxes_xyxy.to(boxes.dtype), threshold)
            for boxes, target in zip(predicted_xyxy, targets, strict=True)
        ]
    )


def _objectness_like_overlap(
    output: YoloGridOutput, targets: Sequence[BoxTargets], wanted: _Wanted, overlaps: Float[Tensor, " P"]
) -> Float[Tensor, "B rows"]:
    """Cross entropy of every row: the target is the CIoU with the assigned object (the best of several), 0 elsewhere.

    No loss in ignored regions.
    """
    logits = output.objectness_logits.squeeze(-1).float()
    quality = torch.zeros_like(logits)
    flat = wanted.image_index * logits.shape[1] + wanted.row_index
    quality.view(-1).scatter_reduce_(0, flat, overlaps.clamp(min=0).to(quality.dtype), "amax")
    counts = _background(output, targets, wanted)
    counts[wanted.at] = True
    return binary_cross_entropy(logits, quality) * counts


def _mean(values: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """The mean, and 0 of nothing."""
    return values.sum() / max(values.numel(), 1)
