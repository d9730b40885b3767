"""Hungarian (bipartite) matching of queries and objects at the least total cost, and the matching costs.

Kuhn 1955; DETR (Carion et al. 2020, arXiv:2005.12872, equations 1 and 2). The classification cost is the probability
of the class (DETR) or the focal form of Deformable DETR (Zhu et al. 2020, arXiv:2010.04159) and RT-DETR; L1 and GIoU of
the boxes are added. The costs of a batch are computed in one block on the device and moved once; scipy solves each
image exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float, Int64
from pydantic import Field
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional
from typing_extensions import assert_never

from handeye.vision.boxes.formats import cxcywh_to_xyxy, pixels_to_norm, xyxy_to_cxcywh
from handeye.vision.boxes.iou import aligned_giou
from handeye.vision.boxes.targets import BoxTargets
from handeye.vision.config import Config
from handeye.vision.errors import UserError


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """Query query_index[i] of image image_index[i] is matched to object target_index[i] of the batch.

    target_index counts the objects of all images, image after image. No query and no object appears twice.
    """

    image_index: Int64[Tensor, " P"]
    query_index: Int64[Tensor, " P"]
    target_index: Int64[Tensor, " P"]

    def __len__(self) -> int:
        return len(self.query_index)


def match_hungarian(cost: Float[Tensor, "layers B Q M"], counts: Sequence[int]) -> list[Matches]:
    """The cheapest matching of every layer, each by itself, on the device of the costs.

    counts: objects of each image; columns beyond them are ignored. Where there are more objects than queries,
    some objects stay unmatched. Raises UserError when a cost is not finite.
    """
    # On the CPU in double precision: the solver would convert every image by itself.
    on_cpu = cost.detach().to("cpu", torch.float64).numpy()
    starts = np.cumsum((0, *counts))
    layers = [_match_layer(costs, counts, starts) for costs in on_cpu]
    rows = torch.from_numpy(np.concatenate(layers, axis=1)).to(cost.device)
    sizes = [layer.shape[1] for layer in layers]
    return [Matches(*columns.unbind()) for columns in rows.split(sizes, dim=1)]


def _match_layer(costs: np.ndarray, counts: Sequence[int], starts: np.ndarray) -> np.ndarray:
    """(3, P): image, query and object of every match of one layer."""
    parts = [np.zeros((3, 0), np.int64)]
    for image, count in enumerate(counts):
        if count == 0:
            continue
        queries, objects = linear_sum_assignment(_checked(costs[image, :, :count], image))
        parts.append(np.stack((np.full_like(queries, image), queries, starts[image] + objects)))
    return np.concatenate(parts, axis=1)


def _checked(costs: np.ndarray, image: int) -> np.ndarray:
    if not np.isfinite(costs).all():
        raise UserError(
            f"image {image} of the batch cannot be matched: the predictions or the boxes of its objects are not finite "
            "numbers. When it happens in training, the training has diverged: try a smaller lr or clipped gradients"
        )
    return costs


FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0
"""Of the focal cost, independent of the loss; as in Deformable DETR and RT-DETR."""
Weight = Annotated[float, Field(ge=0)]


class MatchingCostConfig(Config):
    """Weights of the matching cost; the defaults are RT-DETR's."""

    classification: Literal["focal", "softmax"] = "focal"
    """focal: focal loss of a positive minus that of a negative; softmax: minus the probability of the class (DETR)."""
    class_weight: Weight = 2.0
    """DETR: 1."""
    l1_weight: Weight = 5.0
    giou_weight: Weight = 2.0


DETR_COST = MatchingCostConfig(classification="softmax", class_weight=1.0)


@dataclass(frozen=True, slots=True, eq=False)
class BatchTargets:
    """The objects of all images of a batch in one row, image after image; boxes as fractions of the network input."""

    boxes_cxcywh_norm: Float[Tensor, "N 4"]
    class_ids: Int64[Tensor, " N"]
    image_index: Int64[Tensor, " N"]
    counts: tuple[int, ...]
    """Objects of each image."""

    @classmethod
    def of(
        cls, targets: Sequence[BoxTargets], input_hw: tuple[int, int], device: torch.device | None = None
    ) -> BatchTargets:
        """Join the targets of a batch, in single precision."""
        counts = tuple(len(target) for target in targets)
        boxes_xyxy = torch.cat([target.boxes_xyxy for target in targets]).to(device, torch.float32)
        class_ids = torch.cat([target.class_ids for target in targets]).to(device)
        image_index = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)).to(device)
        return cls(xyxy_to_cxcywh(pixels_to_norm(boxes_xyxy, input_hw)), class_ids, image_index, counts)

    def padded(self, values: Float[Tensor, " N *rest"] | Int64[Tensor, " N *rest"]) -> Tensor:
        """Values of the objects as (B, M, *rest), M the most objects of an image, zeros after an image's own."""
        filled = values.new_zeros(len(self.counts), max(self.counts, default=0), *values.shape[1:])
        filled[self.image_index, self.place] = values
        return filled

    @property
    def starts(self) -> Int64[Tensor, " B"]:
        """Where each image's objects begin in the row."""
        counts = torch.tensor(self.counts)
        return (counts.cumsum(dim=0) - counts).to(self.image_index.device)

    @property
    def place(self) -> Int64[Tensor, " N"]:
        """Each object's row among those of its own image."""
        return torch.arange(len(self.image_index), device=self.image_index.device) - self.starts[self.image_index]


@torch.no_grad()
def matching_cost(
    logits: Float[Tensor, "layers B Q num_logits"],
    boxes_cxcywh_norm: Float[Tensor, "layers B Q 4"],
    targets: BatchTargets,
    config: MatchingCostConfig,
) -> Float[Tensor, "layers B Q M"]:
    """The cost of every query for every object of its image, for all layers at once, in single precision.

    Columns beyond an image's own objects mean nothing.
    """
    class_ids = targets.padded(targets.class_ids)
    boxes, wanted = boxes_cxcywh_norm.float(), targets.padded(targets.boxes_cxcywh_norm)
    pairs = (*boxes.shape[:3], wanted.shape[1], 4)
    giou = aligned_giou(
        cxcywh_to_xyxy(boxes)[:, :, :, None].expand(pairs), cxcywh_to_xyxy(wanted)[None, :, None].expand(pairs)
    )
    return (
        config.class_weight * _class_cost(logits.float(), class_ids, config)
        + config.l1_weight * torch.cdist(boxes, wanted.expand(len(boxes), -1, -1, -1), p=1)
        - config.giou_weight * giou
    )


def _class_cost(
    logits: Float[Tensor, "layers B Q num_logits"], class_ids: Int64[Tensor, "B M"], config: MatchingCostConfig
) -> Float[Tensor, "layers B Q M"]:
    at = class_ids[None, :, None].expand(*logits.shape[:3], -1)
    match config.classification:
        case "softmax":
            return -logits.softmax(dim=-1).gather(-1, at)
        case "focal":
            # Only for the classes of the objects: there are fewer objects than classes.
            wanted = logits.gather(-1, at)
            probability = wanted.sigmoid()
            # The published code adds 1e-8 inside the logarithm; softplus is the same and needs no such number.
            of_positive = FOCAL_ALPHA * (1 - probability) ** FOCAL_GAMMA * functional.softplus(-wanted)
            of_negative = (1 - FOCAL_ALPHA) * probability**FOCAL_GAMMA * functional.softplus(wanted)
            return of_positive - of_negative
        case _:
            assert_never(config.classification)
