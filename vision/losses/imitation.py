"""How far a student is from a teacher: divergences of their probabilities, distances of their boxes and features.

Hinton et al. 2015 (arXiv:1503.02531): both logits are divided by a temperature, so that small probabilities speak too,
and the divergence is multiplied by its square, so that its gradients keep their size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from vision.assignment.hungarian import match_hungarian
from vision.boxes.formats import cxcywh_to_xyxy
from vision.boxes.iou import aligned_iou, pairwise_giou
from vision.heads.outputs import GridOutput, QueryOutput
from vision.losses.counting import mean_over_processes

CERTAIN = 0.3
"""A teacher's query speaks of an object when one of its classes is at least so likely."""
L1_COST, GIOU_COST, CLASS_COST = 5.0, 2.0, 2.0
"""Of matching a student's query to a teacher's; DETR's weights for matching queries to objects."""


def yes_no_divergence(
    student_logits: Float[Tensor, "*shape"], teacher_logits: Float[Tensor, "*shape"], temperature: float
) -> Float[Tensor, "*shape"]:
    """T^2 KL(p_teacher || p_student) of answers that are yes with probability sigmoid(logit / T), one by one."""
    student, teacher = student_logits.float() / temperature, teacher_logits.float() / temperature
    wanted = teacher.sigmoid()
    cross_entropy = functional.binary_cross_entropy_with_logits(student, wanted, reduction="none")
    entropy = functional.binary_cross_entropy_with_logits(teacher, wanted, reduction="none")
    return temperature**2 * (cross_entropy - entropy)


def choice_divergence(
    student_logits: Float[Tensor, "*shape classes"], teacher_logits: Float[Tensor, "*shape classes"], temperature: float
) -> Float[Tensor, "*shape"]:
    """T^2 KL(p_teacher || p_student) of one choice out of the last axis, p = softmax(logits / T)."""
    student = (student_logits.float() / temperature).log_softmax(dim=-1)
    teacher = (teacher_logits.float() / temperature).log_softmax(dim=-1)
    return temperature**2 * functional.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=-1)


def imitate_cells(
    student: GridOutput, teacher: GridOutput, temperature: float, *, is_choice: bool
) -> dict[str, Float[Tensor, ""]]:
    """The parts `imitated_objectness`, `imitated_class` and `imitated_box` (1 - IoU) of two heads with the same cells.

    Class and box of a cell count as much as the teacher sees an object there. All sums are divided by the teacher's
    sum of objectness over all processes, at least 1. is_choice: the classes exclude one another (YOLO v2).
    """
    weight = teacher.objectness_logits.float().sigmoid().squeeze(-1)
    if is_choice:
        classes = choice_divergence(student.class_logits, teacher.class_logits, temperature)
    else:
        classes = yes_no_divergence(student.class_logits, teacher.class_logits, temperature).sum(dim=-1)
    boxes = 1 - aligned_iou(cxcywh_to_xyxy(student.boxes_cxcywh), cxcywh_to_xyxy(teacher.boxes_cxcywh))
    objectness = yes_no_divergence(student.objectness_logits, teacher.objectness_logits, temperature)
    divisor = mean_over_processes(weight.sum()).clamp(min=1)
    return {
        "imitated_objectness": objectness.sum() / divisor,
        "imitated_class": (weight * classes).sum() / divisor,
        "imitated_box": (weight * boxes).sum() / divisor,
    }


def imitate_queries(student: QueryOutput, teacher: QueryOutput, temperature: float) -> dict[str, Float[Tensor, ""]]:
    """The parts `imitated_class` and `imitated_box` (absolute error of cx, cy, w, h) of two heads of queries.

    Queries have no places, so each of the teacher's that is certain of an object is matched to a student's own; the
    other queries of the student learn from the task alone. Sums are divided by the teacher's certain queries over all
    processes, at least 1.
    """
    student_index, teacher_index = _matched_queries(student, teacher)
    student_logits, teacher_logits = student.logits[student_index], teacher.logits[teacher_index]
    if student.scoring == "softmax":
        classes = choice_divergence(student_logits, teacher_logits, temperature)
    else:
        classes = yes_no_divergence(student_logits, teacher_logits, temperature)
    boxes = student.boxes_cxcywh_norm[student_index].float() - teacher.boxes_cxcywh_norm[teacher_index].float()
    count = torch.tensor(float(len(student_index[0])), device=student.logits.device)
    divisor = mean_over_processes(count).clamp(min=1)
    return {"imitated_class": classes.sum() / divisor, "imitated_box": boxes.abs().sum() / divisor}


def imitate_features(
    student: Sequence[Float[Tensor, "B _ _ _"]], teacher: Sequence[Float[Tensor, "B _ _ _"]]
) -> Float[Tensor, ""]:
    """1 - Pearson's correlation of every channel over batch and cells, the mean over channels and levels.

    Cao et al. 2022 (arXiv:2207.02039): the sizes of features differ between networks and would drown what they say.
    """
    distances = [
        (_standardised(ours.float()) - _standardised(theirs.float())).square().mean() / 2
        for ours, theirs in zip(student, teacher, strict=True)
    ]
    return torch.stack(distances).mean()


@torch.no_grad()
def _matched_queries(student: QueryOutput, teacher: QueryOutput) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Image and query, of the student and of the teacher, of every pair that costs least."""
    student_boxes, teacher_boxes = student.boxes_cxcywh_norm.float(), teacher.boxes_cxcywh_norm.float()
    certain = [scores.amax(dim=-1).ge(CERTAIN).nonzero().squeeze(-1) for scores in teacher.scores]
    most = max(len(queries) for queries in certain)
    cost = torch.zeros(1, *student.logits.shape[:2], most, device=student.logits.device)
    for image, queries in enumerate(certain):
        ours, theirs = student_boxes[image], teacher_boxes[image][queries]
        cost[0, image, :, : len(queries)] = (
            L1_COST * torch.cdist(ours, theirs, p=1)
            - GIOU_COST * pairwise_giou(cxcywh_to_xyxy(ours), cxcywh_to_xyxy(theirs))
            + CLASS_COST * torch.cdist(student.scores[image], teacher.scores[image][queries], p=1)
        )
    matches = match_hungarian(cost, [len(queries) for queries in certain])[0]
    teacher_index = torch.cat(certain)[matches.target_index]
    return (matches.image_index, matches.query_index), (matches.image_index, teacher_index)


def _standardised(features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """Mean 0 and variance 1 for every channel; one that never changes becomes 0."""
    variance, mean = torch.var_mean(features, dim=(0, 2, 3), correction=0, keepdim=True)
    return (features - mean) * (variance + 1e-6).rsqrt()
