"""The set prediction loss of DETR-like detectors: bipartite matching, then losses on matched boxes and all classes.

DETR (Carion et al. 2020, arXiv:2005.12872, section 3.1) with cross entropy over the classes and "no object"; RT-DETR
(Zhao et al. 2023, arXiv:2304.08069, equation 3) with varifocal loss, the IoU being the target of the class.
Every decoder layer is matched by itself; denoising queries have fixed objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional
from typing_extensions import assert_never

from handeye.vision.assignment.hungarian import (
    DETR_COST,
    BatchTargets,
    Matches,
    MatchingCostConfig,
    match_hungarian,
    matching_cost,
)
from handeye.vision.boxes.formats import box_area, cxcywh_to_xyxy, pixels_to_norm, positive_part
from handeye.vision.boxes.iou import aligned_iou
from handeye.vision.boxes.targets import BoxTargets
from handeye.vision.config import Config
from handeye.vision.heads.outputs import DenoisingPredictions, QueryOutput, QueryPredictions
from handeye.vision.losses.counting import Count, average_count, mean_over_processes
from handeye.vision.losses.loss_terms import giou_loss, l1_loss, varifocal_loss

Weight = Annotated[float, Field(ge=0)]
LabelSmoothing = Annotated[float, Field(ge=0, lt=1)]
MOSTLY_INSIDE = 0.5
"""A box with this share of its area in an ignored region has no class loss."""
IGNORED = -100
"""The class that torch's cross entropy leaves out."""


class SetLossConfig(Config):
    """Weights of the parts of the loss and of the matching; the defaults are RT-DETR's, DETR_LOSS is DETR's."""

    kind: Literal["set"] = "set"
    classification: Literal["varifocal", "cross_entropy"] = "varifocal"
    """varifocal for heads that score each class by itself, cross_entropy for those with a "no object" class."""
    class_weight: Weight = 1.0
    l1_weight: Weight = 5.0
    giou_weight: Weight = 2.0
    no_object_weight: Weight = 0.1
    """Cross entropy only: "no object" is right for nearly all queries and would dominate."""
    label_smoothing: LabelSmoothing = 0.0
    """Cross entropy only: this part of each target is spread evenly over all classes."""
    varifocal_alpha: Weight = 0.75
    """Varifocal only: weight of negatives."""
    varifocal_gamma: Weight = 2.0
    """Varifocal only: focusing parameter, by which easy negatives are down-weighted."""
    matching: MatchingCostConfig = MatchingCostConfig()


DETR_LOSS = SetLossConfig(classification="cross_entropy", matching=DETR_COST)


@dataclass(frozen=True, slots=True, eq=False)
class MatchedOutput:
    """All supervised predictions and their objects: layers[i] is matched by matches[i], the layer in use first."""

    targets: BatchTargets
    layers: tuple[QueryPredictions, ...]
    matches: tuple[Matches, ...]
    num_boxes: Float[Tensor, ""]
    """Objects of the batch, averaged over the processes of a training, at least 1."""
    ignored_xyxy_norm: Float[Tensor, "B M 4"]
    """Regions without labels, as fractions of the network input; padded with empty boxes."""


class SetLoss:
    """`losses = loss(output, targets)`; losses["total"] is to be minimized.

    Subclasses with more parts extend `parts`.
    """

    def __init__(self, config: SetLossConfig | None = None, count: Count = average_count) -> None:
        self.config, self.count = config or SetLossConfig(), count

    def __call__(
        self,
        output: QueryOutput,
        targets: Sequence[BoxTargets],
        *,
        with_l1: bool = False,  # noqa: ARG002 - the L1 distance is always part of this loss
    ) -> dict[str, Float[Tensor, ""]]:
        """The parts, weighted, and their total, single precision whatever the output is in.

        class, l1, giou: of the decoder layer in use; auxiliary: of the others; denoising: where there is any.
        targets has one entry for each image. Raises ValueError when their number is not that of the images or the
        head scores otherwise than this loss expects; UserError when predictions are not finite.
        """
        with torch.autocast(output.logits.device.type, enabled=False):
            losses = self.parts(output, self.match(output, targets))
        return {"total": torch.stack(list(losses.values())).sum(), **losses}

    def match(self, output: QueryOutput, targets: Sequence[BoxTargets]) -> MatchedOutput:
        """Match the last layer and every auxiliary one, all costs in one block; raises as a call does."""
        self._check(output, targets)
        device = output.logits.device
        batch = BatchTargets.of(targets, output.input_hw, device)
        layers = tuple(each.in_single_precision() for each in (output.in_use, *output.auxiliary))
        logits = torch.stack([layer.logits.detach() for layer in layers])
        boxes = torch.stack([layer.boxes_cxcywh_norm.detach() for layer in layers])
        matches = match_hungarian(matching_cost(logits, boxes, batch, self.config.matching), batch.counts)
        ignored = _padded_regions(targets, output.input_hw, device)
        return MatchedOutput(batch, layers, tuple(matches), self.count(len(batch.class_ids), device), ignored)

    def parts(self, output: QueryOutput, matched: MatchedOutput) -> dict[str, Float[Tensor, ""]]:
        """The weighted parts of a matched output, without their total."""
        last, *before = (
            self.layer_parts(layer, matches, matched, matched.num_boxes)
            for layer, matches in zip(matched.layers, matched.matches, strict=True)
        )
        losses = dict(last)
        if before:
            losses["auxiliary"] = _sum_of(before)
        if output.denoising is not None:
            losses["denoising"] = self._denoising(output.denoising, matched)
        return losses

    def layer_parts(
        self, layer: QueryPredictions, matches: Matches, matched: MatchedOutput, num_boxes: Float[Tensor, ""]
    ) -> dict[str, Float[Tensor, ""]]:
        """class, l1 and giou of one layer, weighted, divided by num_boxes."""
        class_loss = self.class_loss(layer, matches, matched, num_boxes)
        return {"class": class_loss, **self.box_losses(layer, matches, matched.targets, num_boxes)}

    def class_loss(
        self, layer: QueryPredictions, matches: Matches, matched: MatchedOutput, num_boxes: Float[Tensor, ""]
    ) -> Float[Tensor, ""]:
        """The classification loss of the queries, weighted. Cross entropy is a weighted mean and needs no num_boxes."""
        is_ignored = _is_ignored(layer, matches, matched.ignored_xyxy_norm)
        match self.config.classification:
            case "cross_entropy":
                loss = self._cross_entropy(layer, matches, matched.targets, is_ignored)
            case "varifocal":
                loss = self._varifocal(layer, matches, matched.targets, is_ignored) / num_boxes
            case _:
                assert_never(self.config.classification)
        return self.config.class_weight * loss

    def box_losses(
        self, layer: QueryPredictions, matches: Matches, targets: BatchTargets, num_boxes: Float[Tensor, ""]
    ) -> dict[str, Float[Tensor, ""]]:
        """l1 and giou of the matched queries, weighted, divided by num_boxes."""
        boxes, wanted = _matched_boxes(layer, matches, targets)
        giou = giou_loss(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(wanted))
        return {
            "l1": self.config.l1_weight * l1_loss(boxes, wanted).sum() / num_boxes,
            "giou": self.config.giou_weight * giou.sum() / num_boxes,
        }

    def _denoising(self, denoising: DenoisingPredictions, matched: MatchedOutput) -> Float[Tensor, ""]:
        """All decoder layers, normalized by the number of denoising groups."""
        matches = denoising_matches(denoising, matched.targets)
        num_boxes = matched.num_boxes * denoising.num_groups
        layers = (each.in_single_precision() for each in denoising.supervised)
        return _sum_of([self.layer_parts(layer, matches, matched, num_boxes) for layer in layers])

    def _cross_entropy(
        self, layer: QueryPredictions, matches: Matches, targets: BatchTargets, is_ignored: Bool[Tensor, "B Q"]
    ) -> Float[Tensor, ""]:
        no_object = layer.logits.shape[-1] - 1
        wanted = torch.full(layer.logits.shape[:2], no_object, device=layer.logits.device).masked_fill(
            is_ignored, IGNORED
        )
        wanted[matches.image_index, matches.query_index] = targets.class_ids[matches.target_index]
        weights = layer.logits.new_ones(no_object + 1)
        weights[no_object] = self.config.no_object_weight
        loss = functional.cross_entropy(
            layer.logits.flatten(0, 1),
            wanted.flatten(),
            weights,
            reduction="sum",
            label_smoothing=self.config.label_smoothing,
        )
        # Not torch's own mean: it is 0 / 0 where every query is ignored or "no object" weighs nothing, and with several
        # processes it is another one in each; the published code leaves that.
        total = mean_over_processes((weights[wanted.clamp(min=0)] * (wanted != IGNORED)).sum())
        return loss / total.clamp(min=torch.finfo(total.dtype).tiny)

    def _varifocal(
        self, layer: QueryPredictions, matches: Matches, targets: BatchTargets, is_ignored: Bool[Tensor, "B Q"]
    ) -> Float[Tensor, ""]:
        boxes, wanted = _matched_boxes(layer, matches, targets)
        at = (matches.image_index, matches.query_index, targets.class_ids[matches.target_index])
        overlaps = torch.zeros_like(layer.logits)
        overlaps[at] = aligned_iou(cxcywh_to_xyxy(boxes.detach()), cxcywh_to_xyxy(wanted))
        is_positive = torch.zeros_like(layer.logits, dtype=torch.bool)
        is_positive[at] = True
        losses = varifocal_loss(
            layer.logits, overlaps, is_positive, alpha=self.config.varifocal_alpha, gamma=self.config.varifocal_gamma
        )
        return (losses * ~is_ignored[..., None]).sum()

    def _check(self, output: QueryOutput, targets: Sequence[BoxTargets]) -> None:
        if len(targets) != len(output.logits):
            raise ValueError(f"expected targets for {len(output.logits)} images, got {len(targets)}")
        expected = "softmax" if self.config.classification == "cross_entropy" else "sigmoid"
        if output.scoring != expected:
            raise ValueError(
                f"a loss with {self.config.classification} needs a head that scores by {expected}, got {output.scoring}"
            )


def denoising_matches(denoising: DenoisingPredictions, targets: BatchTargets) -> Matches:
    """The matching of denoising queries, fixed when they were made; negatives and padding have none."""
    image_index, query_index = (denoising.target_index >= 0).nonzero(as_tuple=True)
    rows = denoising.target_index[image_index, query_index]
    return Matches(image_index, query_index, targets.starts[image_index] + rows)


def _matched_boxes(
    layer: QueryPredictions, matches: Matches, targets: BatchTargets
) -> tuple[Float[Tensor, "P 4"], Float[Tensor, "P 4"]]:
    """Predicted and true boxes of the matches, row with row."""
    predicted = layer.boxes_cxcywh_norm[matches.image_index, matches.query_index]
    return predicted, targets.boxes_cxcywh_norm[matches.target_index]


def _is_ignored(
    layer: QueryPredictions, matches: Matches, ignored_xyxy_norm: Float[Tensor, "B M 4"]
) -> Bool[Tensor, "B Q"]:
    """Which queries are unmatched with a box mostly inside one ignored region.

    The published implementations have no such regions: crowds are "no object" to them.
    """
    boxes = cxcywh_to_xyxy(layer.boxes_cxcywh_norm.detach())
    corners, regions = boxes[:, :, None], ignored_xyxy_norm[:, None]
    width = torch.minimum(corners[..., 2], regions[..., 2]) - torch.maximum(corners[..., 0], regions[..., 0])
    height = torch.minimum(corners[..., 3], regions[..., 3]) - torch.maximum(corners[..., 1], regions[..., 1])
    shared = positive_part(width) * positive_part(height)
    is_inside = ((shared > 0) & (shared >= MOSTLY_INSIDE * box_area(boxes)[..., None])).any(dim=-1)
    is_inside[matches.image_index, matches.query_index] = False
    return is_inside


def _padded_regions(
    targets: Sequence[BoxTargets], input_hw: tuple[int, int], device: torch.device
) -> Float[Tensor, "B M 4"]:
    """The ignored regions of all images, padded to the same number, on the scale of the queries' boxes."""
    regions = [target.ignored_xyxy.float() for target in targets]
    return pixels_to_norm(torch.nn.utils.rnn.pad_sequence(regions, batch_first=True).to(device), input_hw)


def _sum_of(parts: Sequence[dict[str, Tensor]]) -> Float[Tensor, ""]:
    return torch.stack([value for part in parts for value in part.values()]).sum()
