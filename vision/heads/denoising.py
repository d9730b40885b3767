"""Contrastive denoising training of DINO (Zhang et al. 2022, arXiv:2203.03605, section 3.3).

Beside the ordinary queries, training decodes ground-truth objects with noise on box and class. A box with little noise
(a positive) is to be restored, one with much (a negative) is background. Groups repeat this with other noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from handeye.vision.boxes.formats import cxcywh_to_xyxy, pixels_to_norm, xyxy_to_cxcywh
from handeye.vision.boxes.targets import BoxTargets
from handeye.vision.heads.query_selection import SelectedQueries, inverse_sigmoid


@dataclass(frozen=True, slots=True, eq=False)
class DenoisingQueries:
    """Noisy objects as queries. A group has the positives of all objects, then their negatives."""

    content: Float[Tensor, "B D dim"]
    box_logits: Float[Tensor, "B D 4"]
    target_index: Int64[Tensor, "B D"]
    """Row of the image's targets that the query is to restore; -1 for negatives and where an image has fewer."""
    num_groups: int

    def is_hidden(self, num_queries: int) -> Bool[Tensor, "total total"]:
        """Attention mask: [i, j] hides query j from query i, the denoising queries being before `num_queries` others.

        The others must not see the ground truth, nor a group another group.
        """
        num_denoising = self.target_index.shape[1]
        group = torch.full((num_denoising + num_queries,), -1, device=self.target_index.device)
        group[:num_denoising] = torch.arange(num_denoising, device=group.device) // (num_denoising // self.num_groups)
        return (group[None, :] >= 0) & (group[None, :] != group[:, None])


class ContrastiveDenoising(nn.Module):
    """Targets -> DenoisingQueries. Noise comes from torch's generator: the same seed gives the same noise.

    num_denoising: about how many positives an image has, all groups together. label_noise: half of it is the
    probability of a random class. box_noise: positives move each side of the box by up to this many halves of its
    width or height, negatives by one to two times that.
    """

    def __init__(
        self, dim: int, num_classes: int, num_denoising: int = 100, *, label_noise: float = 0.5, box_noise: float = 1.0
    ) -> None:
        super().__init__()
        self.num_classes, self.num_denoising = num_classes, num_denoising
        self.label_noise, self.box_noise = label_noise, box_noise
        # One row more than classes: padding for images with fewer objects than others of the batch.
        self.class_embedding = nn.Embedding(num_classes + 1, dim, padding_idx=num_classes)

    def forward(self, targets: Sequence[BoxTargets], input_hw: tuple[int, int]) -> DenoisingQueries:
        """A batch without any object gets one group of padding, so that every weight takes part in every step."""
        device = self.class_embedding.weight.device
        most = max([len(target) for target in targets])
        num_groups = max(1, self.num_denoising // most) if most else 1
        class_ids, boxes, index = self._padded(targets, max(most, 1), input_hw, device)
        class_ids, boxes, index = (
            rows.repeat(1, 2 * num_groups, *[1] * (rows.ndim - 2)) for rows in (class_ids, boxes, index)
        )
        is_negative = (torch.arange(index.shape[1], device=device) // max(most, 1)) % 2 == 1
        is_padding = index < 0
        noisy_ids = add_class_noise(class_ids, self.num_classes, self.label_noise)
        content = self.class_embedding(torch.where(is_padding, self.num_classes, noisy_ids))
        noisy_boxes = add_box_noise(boxes, is_negative, self.box_noise)
        target_index = torch.where(is_negative, -1, index)
        return DenoisingQueries(content, inverse_sigmoid(noisy_boxes), target_index, num_groups)

    def _padded(
        self, targets: Sequence[BoxTargets], most: int, input_hw: tuple[int, int], device: torch.device
    ) -> tuple[Int64[Tensor, "B most"], Float[Tensor, "B most 4"], Int64[Tensor, "B most"]]:
        """Classes, boxes (cx, cy, w, h as fractions) and row numbers of all images, -1 where there is no object."""
        class_ids = torch.zeros(len(targets), most, dtype=torch.int64, device=device)
        boxes = torch.zeros(len(targets), most, 4, device=device)
        index = torch.full((len(targets), most), -1, device=device)
        for image, target in enumerate(targets):
            num = len(target)
            class_ids[image, :num] = target.class_ids.to(device)
            boxes[image, :num] = pixels_to_norm(xyxy_to_cxcywh(target.boxes_xyxy.to(device)), input_hw)
            index[image, :num] = torch.arange(num, device=device)
        return class_ids, boxes, index


def decoder_inputs(
    selected: SelectedQueries, noisy: DenoisingQueries | None
) -> tuple[Float[Tensor, "B Q dim"], Float[Tensor, "B Q 4"], Bool[Tensor, "Q Q"] | None]:
    """Content, boxes and attention mask of all queries, the denoising ones first.

    The selected cells learn from their own predictions, not through the decoder: they are detached.
    """
    queries, boxes = selected.content.detach(), selected.box_logits.detach().sigmoid()
    if noisy is None:
        return queries, boxes, None
    boxes = torch.cat((noisy.box_logits.sigmoid(), boxes), dim=1)
    is_hidden = noisy.is_hidden(queries.shape[1])
    return torch.cat((noisy.content.to(queries.dtype), queries), dim=1), boxes, is_hidden


def add_class_noise(class_ids: Int64[Tensor, "B D"], num_classes: int, label_noise: float) -> Int64[Tensor, "B D"]:
    """With probability label_noise / 2 a random class, possibly the true one."""
    is_changed = torch.rand(class_ids.shape, device=class_ids.device) < label_noise / 2
    return torch.where(is_changed, torch.randint_like(class_ids, num_classes), class_ids)


def add_box_noise(
    boxes_cxcywh_norm: Float[Tensor, "B D 4"], is_negative: Bool[Tensor, " D"], box_noise: float
) -> Float[Tensor, "B D 4"]:
    """Move every side by a random share of half the width or height, and clip to the image.

    The share is below box_noise for positives and between one and two times box_noise for negatives.
    """
    sides = cxcywh_to_xyxy(boxes_cxcywh_norm)
    share = torch.rand_like(sides) + is_negative[:, None]
    sign = torch.randint_like(sides, 2) * 2 - 1
    halves = (boxes_cxcywh_norm[..., 2:] / 2).repeat(1, 1, 2)
    moved = (sides + sign * share * halves * box_noise).clamp(0, 1)
    # A side may be moved past its opposite. The box is then the one between the two; the published code goes on with a
    # negative width, which its logit turns into almost none.
    low, high = torch.minimum(moved[..., :2], moved[..., 2:]), torch.maximum(moved[..., :2], moved[..., 2:])
    return xyxy_to_cxcywh(torch.cat((low, high), dim=-1))
