"""The loss of D-FINE (Peng et al. 2024, arXiv:2410.13842, section 4): RT-DETR's, and two parts for the distributions.

Fine-grained localization (FGL) is a variant of distribution focal loss (DFL; Li et al. 2020, arXiv:2006.04388) with
non-uniform bins: cross entropy of each edge against the two bins around the true distance. Decoupled distillation
focal loss (DDF) makes every layer learn the distributions of the last one, matched and unmatched queries weighted
separately. Box losses use the union of the matchings of all layers, so that a query keeps its object (GO-LSD).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from handeye.vision.assignment.hungarian import BatchTargets, Matches
from handeye.vision.boxes.formats import cxcywh_to_xyxy
from handeye.vision.boxes.iou import aligned_iou
from handeye.vision.config import Config
from handeye.vision.heads.dfine import DfineOutput, EdgePredictions
from handeye.vision.heads.outputs import DenoisingPredictions, QueryOutput, QueryPredictions
from handeye.vision.layers.distribution import EdgeBins, split_edges
from handeye.vision.losses.counting import average_count
from handeye.vision.losses.set_loss import MatchedOutput, SetLoss, SetLossConfig, Weight, denoising_matches


class DfineLossConfig(Config):
    """Weights of the parts that D-FINE adds; the defaults are the published ones."""

    kind: Literal["dfine"] = "dfine"
    set_loss: SetLossConfig = SetLossConfig()
    """The part shared with RT-DETR: matching, classes and boxes."""
    edge_weight: Weight = 0.15
    """Of the fine-grained localization loss (FGL)."""
    distillation_weight: Weight = 1.5
    """Of the self-distillation from the last layer to the others (DDF)."""
    temperature: Annotated[float, Field(gt=0)] = 5.0
    """Softmax temperature of teacher and student in the distillation."""


@dataclass(frozen=True, slots=True, eq=False)
class _Assigned:
    """Which query is assigned to which object, for boxes and edges, and the normalization."""

    matches: Matches
    targets: BatchTargets
    bins: EdgeBins
    num_boxes: Float[Tensor, ""]
    matched_share: float
    """Weight of the matched queries against the others in the distillation."""


class DfineLoss(SetLoss):
    """`losses = loss(output, targets)`; losses["total"] is to be minimized.

    To the parts of SetLoss it adds `edges` (FGL of the last layer; that of the others is in `auxiliary` and
    `denoising`) and `distillation` (DDF).
    """

    def __init__(self, config: DfineLossConfig | None = None) -> None:
        self.edge_config = config or DfineLossConfig()
        super().__init__(self.edge_config.set_loss)

    def parts(self, output: QueryOutput, matched: MatchedOutput) -> dict[str, Float[Tensor, ""]]:
        """The weighted parts. Raises ValueError for an output without distributions: the head saw no targets."""
        if not isinstance(output, DfineOutput) or output.final is None or output.bins is None:
            raise ValueError("expected an output with distributions of edges: call the detector with targets")
        assigned = _assign(matched, output.bins, output.logits.shape[1])
        (in_use, own), *others = zip(matched.layers, matched.matches, strict=True)
        losses = self._layer_parts(in_use, own, matched, assigned)
        losses["auxiliary"] = _sum_of([self._layer_parts(layer, own, matched, assigned) for layer, own in others])
        losses["distillation"] = self._distillation(output.final, output.layers, assigned)
        if output.denoising is not None:
            self._add_denoising(losses, output.denoising, matched, assigned)
        return losses

    def _add_denoising(
        self, losses: dict[str, Tensor], denoising: DenoisingPredictions, matched: MatchedOutput, assigned: _Assigned
    ) -> None:
        """The same parts of the denoising queries, whose objects are known without matching."""
        matches = denoising_matches(denoising, matched.targets)
        known = replace(assigned, matches=matches, num_boxes=matched.num_boxes * denoising.num_groups)
        layers = (each.in_single_precision() for each in denoising.supervised)
        losses["denoising"] = _sum_of(
            [self._layer_parts(layer, matches, matched, known, known.num_boxes) for layer in layers]
        )
        *students, teacher = denoising.layers
        losses["distillation"] = losses["distillation"] + self._distillation(teacher, students, known)

    def _layer_parts(
        self,
        layer: QueryPredictions,
        own_matches: Matches,
        matched: MatchedOutput,
        assigned: _Assigned,
        num_boxes: Float[Tensor, ""] | None = None,
    ) -> dict[str, Float[Tensor, ""]]:
        """The parts of one layer: classes by its own matching, boxes and edges by the union of all matchings."""
        parts = {
            "class": self.class_loss(
                layer, own_matches, matched, matched.num_boxes if num_boxes is None else num_boxes
            ),
            **self.box_losses(layer, assigned.matches, assigned.targets, assigned.num_boxes),
        }
        if isinstance(layer, EdgePredictions):
            parts["edges"] = self.edge_config.edge_weight * self._edge_loss(layer, assigned)
        return parts

    def _edge_loss(self, layer: EdgePredictions, assigned: _Assigned) -> Float[Tensor, ""]:
        """FGL of the matched queries, weighted by the IoU of their boxes."""
        at = (assigned.matches.image_index, assigned.matches.query_index)
        wanted = assigned.targets.boxes_cxcywh_norm[assigned.matches.target_index]
        distances = assigned.bins.encode(wanted, layer.references_cxcywh_norm[at].detach())
        losses = localisation_loss(layer.edge_logits[at], distances, assigned.bins)
        return (losses * _overlaps(layer, assigned)[:, None]).sum() / assigned.num_boxes

    def _distillation(
        self, teacher: QueryPredictions, students: Sequence[QueryPredictions], assigned: _Assigned
    ) -> Float[Tensor, ""]:
        """DDF of all student layers, matched and unmatched queries averaged separately."""
        teacher = _with_edges(teacher)
        total = teacher.logits.new_zeros(())
        at = (assigned.matches.image_index, assigned.matches.query_index)
        is_matched = torch.zeros_like(teacher.logits[..., 0], dtype=torch.bool)
        is_matched[at] = True
        share = assigned.matched_share
        for student in map(_with_edges, students):
            # An unmatched query is weighted by the teacher's confidence in it.
            weights = teacher.logits.detach().sigmoid().amax(dim=-1)
            weights[at] = _overlaps(student, assigned)
            losses = weights[..., None] * distillation_loss(
                student.edge_logits, teacher.edge_logits, self.edge_config.temperature
            )
            total = total + share * _mean_of(losses, is_matched) + (1 - share) * _mean_of(losses, ~is_matched)
        return self.edge_config.distillation_weight * total


def localisation_loss(
    edge_logits: Float[Tensor, "P edges_bins"], distances: Float[Tensor, "P 4"], bins: EdgeBins
) -> Float[Tensor, "P 4"]:
    """FGL without its weights, a DFL with non-uniform bins: cross entropy with the bins around the true distance."""
    below, share_above = bins.soft_labels(distances)
    log_probabilities = split_edges(edge_logits).log_softmax(dim=-1)
    of_below = log_probabilities.gather(-1, below[..., None]).squeeze(-1)
    of_above = log_probabilities.gather(-1, below[..., None] + 1).squeeze(-1)
    return -(1 - share_above) * of_below - share_above * of_above


def distillation_loss(
    student_logits: Float[Tensor, "*N edges_bins"], teacher_logits: Float[Tensor, "*N edges_bins"], temperature: float
) -> Float[Tensor, "*N 4"]:
    """DDF without its weights: T^2 KL(teacher || student) of each edge, both softened; the teacher is detached."""
    student = (split_edges(student_logits) / temperature).log_softmax(dim=-1)
    teacher = (split_edges(teacher_logits.detach()) / temperature).log_softmax(dim=-1)
    return temperature**2 * (teacher.exp() * (teacher - student)).sum(dim=-1)


def union_of_matches(matches: Sequence[Matches], targets: BatchTargets, num_queries: int) -> Matches:
    """Each query that any layer matched, with the object that most layers assigned to it; the first one in a tie.

    An object may have several queries here, but no query several objects.
    """
    votes = torch.zeros(
        len(targets.counts), num_queries, max((*targets.counts, 1)), device=targets.class_ids.device, dtype=torch.int64
    )
    for layer in matches:
        votes[layer.image_index, layer.query_index, targets.place[layer.target_index]] += 1
    most, place = votes.max(dim=-1)
    image_index, query_index = most.nonzero(as_tuple=True)
    return Matches(image_index, query_index, targets.starts[image_index] + place[image_index, query_index])


def _assign(matched: MatchedOutput, bins: EdgeBins, num_queries: int) -> _Assigned:
    matches = union_of_matches(matched.matches, matched.targets, num_queries)
    num_matched, num_all = len(matches), len(matched.targets.counts) * num_queries
    roots = math.sqrt(num_matched), math.sqrt(num_all - num_matched)
    num_boxes = average_count(num_matched, matched.num_boxes.device)
    return _Assigned(matches, matched.targets, bins, num_boxes, roots[0] / sum(roots))


def _overlaps(layer: QueryPredictions, assigned: _Assigned) -> Float[Tensor, " P"]:
    """IoU of the matched boxes with their objects, as a weight: without gradient."""
    at = (assigned.matches.image_index, assigned.matches.query_index)
    wanted = assigned.targets.boxes_cxcywh_norm[assigned.matches.target_index]
    return aligned_iou(cxcywh_to_xyxy(layer.boxes_cxcywh_norm[at].detach()), cxcywh_to_xyxy(wanted))


def _mean_of(losses: Float[Tensor, "B Q 4"], is_meant: Bool[Tensor, "B Q"]) -> Float[Tensor, ""]:
    """The mean over the edges of some queries, 0 where there is none."""
    return (losses * is_meant[..., None]).sum() / (4 * is_meant.sum()).clamp(min=1)


def _with_edges(layer: QueryPredictions) -> EdgePredictions:
    """A decoder layer of D-FINE in single precision."""
    assert isinstance(layer, EdgePredictions)
    return layer.in_single_precision()


def _sum_of(parts: Sequence[dict[str, Tensor]]) -> Float[Tensor, ""]:
    return torch.stack([value for part in parts for value in part.values()]).sum()
