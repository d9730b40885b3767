"""Loss terms of boxes (L1, IoU, GIoU) and of classes (binary cross entropy, varifocal), without reduction.

Box terms give one number for each row, class terms one for each logit; the losses of the detectors weight and sum them.
CIoU is in `boxes/iou.py`, distribution focal loss (DFL) in D-FINE's form in `dfine_loss.py`.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from handeye.vision.boxes.iou import aligned_giou, aligned_iou


def squared_iou_loss(boxes_xyxy: Float[Tensor, "N 4"], targets_xyxy: Float[Tensor, "N 4"]) -> Float[Tensor, " N"]:
    """1 - IoU^2, the loss of YOLOX: steep near a perfect box, flat where boxes hardly touch."""
    return 1 - aligned_iou(boxes_xyxy, targets_xyxy) ** 2


def giou_loss(boxes_xyxy: Float[Tensor, "N 4"], targets_xyxy: Float[Tensor, "N 4"]) -> Float[Tensor, " N"]:
    """1 - GIoU, in [0, 2)."""
    return 1 - aligned_giou(boxes_xyxy, targets_xyxy)


def l1_loss(predictions: Float[Tensor, "N 4"], targets: Float[Tensor, "N 4"]) -> Float[Tensor, " N"]:
    """Sum of the four absolute differences, in whatever space the head predicts."""
    return (predictions - targets).abs().sum(dim=-1)


def binary_cross_entropy(logits: Float[Tensor, "*shape"], targets: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """-t log p - (1 - t) log(1 - p) with p = sigmoid(logit), element by element; targets may lie between 0 and 1."""
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def smooth_labels(targets: Float[Tensor, "*shape"], amount: float) -> Float[Tensor, "*shape"]:
    """Label smoothing of binary targets: the share `amount` of each becomes one half.

    Szegedy et al. 2016 (arXiv:1512.00567, section 7) spread it over all classes; a binary target has two.
    """
    return targets * (1 - amount) + amount / 2


def varifocal_loss(
    logits: Float[Tensor, "*shape"],
    overlaps: Float[Tensor, "*shape"],
    is_positive: Bool[Tensor, "*shape"],
    *,
    alpha: float = 0.75,
    gamma: float = 2.0,
) -> Float[Tensor, "*shape"]:
    """Varifocal loss (Zhang et al. 2020, arXiv:2008.13367, equation 2) as in RT-DETR: cross entropy against the IoU.

    A focal loss (Lin et al. 2017, arXiv:1708.02002) whose focusing factor is on the negatives only: they have the
    weight alpha * p^gamma, positives their IoU; no gradient flows through the weights. overlaps: IoU with the object
    for its class, 0 elsewhere. In the paper a positive that does not touch its object is a negative; here, as in the
    published RT-DETR, it has weight 0.
    """
    weight = torch.where(is_positive, overlaps, alpha * logits.detach().sigmoid() ** gamma)
    return weight * binary_cross_entropy(logits, overlaps)
