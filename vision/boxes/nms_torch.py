"""Non-maximum suppression on torch tensors, for training and for devices: torchvision's kernels.

Same result as vision.boxes.nms, which runs where torch is not installed.
"""

from __future__ import annotations

from jaxtyping import Float, Int64
from torch import Tensor
from torchvision.ops import batched_nms, nms


def nms_torch(
    boxes_xyxy: Float[Tensor, "N 4"],
    scores: Float[Tensor, " N"],
    class_ids: Int64[Tensor, " N"] | None,
    iou_threshold: float,
) -> Int64[Tensor, " M"]:
    """Indices of the boxes that stay, best score first; class_ids None compares all boxes whatever their class."""
    if class_ids is None:
        return nms(boxes_xyxy, scores, iou_threshold)
    if len(boxes_xyxy) == 0:
        return class_ids
    # torchvision tells classes apart by moving them beyond the largest coordinate, which negative ones undo.
    return batched_nms(boxes_xyxy - boxes_xyxy.min(), scores, class_ids, iou_threshold)
