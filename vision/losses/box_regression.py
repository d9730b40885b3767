"""Losses of boxes against the boxes they should be, row with row, one number for each row."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from handeye.vision.boxes.iou import aligned_ciou, aligned_diou, aligned_giou, aligned_iou


def squared_iou_loss(boxes_xyxy: Float[Tensor, "N 4"], targets_xyxy: Float[Tensor, "N 4"]) -> Float[Tensor, " N"]:
    """1 - IoU^2, YOLOX's loss: steep near a perfect box, flat where boxes hardly touch."""
    return 1 - aligned_iou(boxes_xyxy, targets_xyxy) ** 2


def giou_loss(boxes_xyxy: Float[Tensor, "N 4"], targets_xyxy: Float[Tensor, "N 4"]) -> Float[Tensor, " N"]:
    """1 - GIoU, in [0, 2)."""
    return 1 - aligned_giou(boxes_xyxy, targets_xyxy)


def diou_loss(boxes_xyxy: Float[Tensor, "N 4"], targets_xyxy: Float[Tensor, "N 4"]) -> Float[Tensor, " N"]:
    """1 - DIoU, in [0, 2)."""
    return 1 - aligned_diou(boxes_xyxy, targets_xyxy)


def ciou_loss(boxes_xyxy: Float[Tensor, "N 4"], targets_xyxy: Float[Tensor, "N 4"]) -> Float[Tensor, " N"]:
    """1 - CIoU."""
    return 1 - aligned_ciou(boxes_xyxy, targets_xyxy)


def l1_loss(predictions: Float[Tensor, "N 4"], targets: Float[Tensor, "N 4"]) -> Float[Tensor, " N"]:
    """Sum of the four absolute differences, in whatever space the head predicts."""
    return (predictions - targets).abs().sum(dim=-1)


def distribution_focal_loss(logits: Float[Tensor, "N bins"], targets: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Cross entropy with the two bins around each target, the nearer one weighing more (Li et al. 2020,
    arXiv:2006.04388, equation 6). The bins stand for 0, 1, ..., bins - 1, in which range targets are cut."""
    targets = targets.clamp(0, logits.shape[1] - 1)
    below = targets.long().clamp(max=logits.shape[1] - 2)
    share_above = targets - below
    return (1 - share_above) * functional.cross_entropy(logits, below, reduction="none") + share_above * (
        functional.cross_entropy(logits, below + 1, reduction="none")
    )
