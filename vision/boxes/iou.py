"""IoU of boxes, and GIoU, DIoU and CIoU, which keep a gradient when boxes do not touch.

GIoU: Rezatofighi et al. 2019 (arXiv:1902.09630). DIoU, CIoU: Zheng et al. 2020 (arXiv:1911.08287).
`aligned_` compares row with row, `pairwise_` every box with every other. numpy and torch alike; in torch all are
differentiable, and a box without area gives IoU 0 with finite values and gradients. Half precision overflows in the
areas: cast to float32 first.
"""

from __future__ import annotations

import math
from typing import Any, cast

from array_api_compat import array_namespace, is_torch_array
from jaxtyping import Float

from handeye.vision.boxes.formats import ArrayT, box_area, positive_part


def aligned_iou(boxes_xyxy: Float[ArrayT, "*N 4"], others_xyxy: Float[ArrayT, "*N 4"]) -> Float[ArrayT, "*N"]:
    """Intersection over union (Jaccard index), in [0, 1]."""
    return _iou(boxes_xyxy, others_xyxy)


def pairwise_iou(boxes_xyxy: Float[ArrayT, "N 4"], others_xyxy: Float[ArrayT, "M 4"]) -> Float[ArrayT, "N M"]:
    """Intersection over union (Jaccard index), in [0, 1]."""
    return _iou(boxes_xyxy[:, None], others_xyxy[None])


def aligned_giou(boxes_xyxy: Float[ArrayT, "*N 4"], others_xyxy: Float[ArrayT, "*N 4"]) -> Float[ArrayT, "*N"]:
    """IoU minus the empty share of the smallest box around both, in (-1, 1] (GIoU, algorithm 1)."""
    return _giou(boxes_xyxy, others_xyxy)


def pairwise_giou(boxes_xyxy: Float[ArrayT, "N 4"], others_xyxy: Float[ArrayT, "M 4"]) -> Float[ArrayT, "N M"]:
    """IoU minus the empty share of the smallest box around both, in (-1, 1] (GIoU, algorithm 1)."""
    return _giou(boxes_xyxy[:, None], others_xyxy[None])


def aligned_diou(boxes_xyxy: Float[ArrayT, "*N 4"], others_xyxy: Float[ArrayT, "*N 4"]) -> Float[ArrayT, "*N"]:
    """IoU minus the squared distance of the centres over the squared diagonal around both, in (-1, 1] (DIoU, eq. 7)."""
    return _diou(boxes_xyxy, others_xyxy)


def pairwise_diou(boxes_xyxy: Float[ArrayT, "N 4"], others_xyxy: Float[ArrayT, "M 4"]) -> Float[ArrayT, "N M"]:
    """IoU minus the squared distance of the centres over the squared diagonal around both, in (-1, 1] (DIoU, eq. 7)."""
    return _diou(boxes_xyxy[:, None], others_xyxy[None])


def aligned_ciou(boxes_xyxy: Float[ArrayT, "*N 4"], others_xyxy: Float[ArrayT, "*N 4"]) -> Float[ArrayT, "*N"]:
    """DIoU minus a penalty for different aspect ratios (CIoU, equations 8 to 11)."""
    return _ciou(boxes_xyxy, others_xyxy)


def pairwise_ciou(boxes_xyxy: Float[ArrayT, "N 4"], others_xyxy: Float[ArrayT, "M 4"]) -> Float[ArrayT, "N M"]:
    """DIoU minus a penalty for different aspect ratios (CIoU, equations 8 to 11)."""
    return _ciou(boxes_xyxy[:, None], others_xyxy[None])


def _iou_and_union(boxes: ArrayT, others: ArrayT) -> tuple[ArrayT, ArrayT]:
    xp = array_namespace(boxes, others)
    width = xp.minimum(boxes[..., 2], others[..., 2]) - xp.maximum(boxes[..., 0], others[..., 0])
    height = xp.minimum(boxes[..., 3], others[..., 3]) - xp.maximum(boxes[..., 1], others[..., 1])
    intersection = positive_part(width) * positive_part(height)
    union = box_area(boxes) + box_area(others) - intersection
    return _ratio(intersection, union), union


def _iou(boxes: ArrayT, others: ArrayT) -> ArrayT:
    return _iou_and_union(boxes, others)[0]


def _giou(boxes: ArrayT, others: ArrayT) -> ArrayT:
    iou, union = _iou_and_union(boxes, others)
    width, height = _enclosing_size(boxes, others)
    enclosing = width * height
    return iou - _ratio(enclosing - union, enclosing)


def _diou(boxes: ArrayT, others: ArrayT) -> ArrayT:
    width, height = _enclosing_size(boxes, others)
    # Half the difference of the sums is the difference of the centres.
    dx = (boxes[..., 0] + boxes[..., 2] - others[..., 0] - others[..., 2]) / 2
    dy = (boxes[..., 1] + boxes[..., 3] - others[..., 1] - others[..., 3]) / 2
    return _iou(boxes, others) - _ratio(dx**2 + dy**2, width**2 + height**2)


def _ciou(boxes: ArrayT, others: ArrayT) -> ArrayT:
    iou = _iou(boxes, others)
    aspect = (_aspect_angle(boxes) - _aspect_angle(others)) ** 2 * (4 / math.pi**2)
    # The paper's trade-off (equation 11) is a weight, not a target: no gradient flows through it.
    weight = _constant(_ratio(aspect, 1 - iou + aspect))
    return _diou(boxes, others) - weight * aspect


def _aspect_angle(boxes: ArrayT) -> ArrayT:
    """arctan(width / height), 0 for a box without height or width, where the ratio means nothing."""
    xp = array_namespace(boxes)
    width = boxes[..., 2] - boxes[..., 0]
    height = boxes[..., 3] - boxes[..., 1]
    proper = (width > 0) & (height > 0)
    return xp.atan(xp.where(proper, width, 0) / xp.where(proper, height, 1))


def _enclosing_size(boxes: ArrayT, others: ArrayT) -> tuple[ArrayT, ArrayT]:
    """Width and height of the smallest box around both."""
    xp = array_namespace(boxes, others)
    width = xp.maximum(boxes[..., 2], others[..., 2]) - xp.minimum(boxes[..., 0], others[..., 0])
    height = xp.maximum(boxes[..., 3], others[..., 3]) - xp.minimum(boxes[..., 1], others[..., 1])
    return width, height


def _ratio(numerator: ArrayT, denominator: ArrayT) -> ArrayT:
    """numerator / denominator, and 0 where the denominator is not positive: no epsilon biases the rest."""
    xp = array_namespace(numerator)
    positive = denominator > 0
    # Both selections are needed: without the second, torch multiplies an infinite gradient by 0 and gets NaN.
    return xp.where(positive, numerator, 0) / xp.where(positive, denominator, 1)


def _constant(values: ArrayT) -> ArrayT:
    return cast(Any, values).detach() if is_torch_array(values) else values
