"""What training wants of one image: the boxes that are there and their classes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class BoxTargets:
    """Ground truth of one image: boxes_xyxy in pixels of the network input, class_ids counted from 0.

    An image without objects has zero rows. Raises ValueError when the shapes disagree.
    """

    boxes_xyxy: Float[Tensor, "N 4"]
    class_ids: Int64[Tensor, " N"]

    def __post_init__(self) -> None:
        num = len(self.class_ids)
        if self.boxes_xyxy.shape != (num, 4) or self.class_ids.shape != (num,):
            raise ValueError(
                f"expected boxes_xyxy (N, 4) and class_ids (N,), got {tuple(self.boxes_xyxy.shape)} "
                f"and {tuple(self.class_ids.shape)}"
            )

    @classmethod
    def empty(cls) -> BoxTargets:
        """An image without objects."""
        return cls(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))

    def to(self, device: torch.device | str) -> BoxTargets:
        """The same on another device."""
        return BoxTargets(self.boxes_xyxy.to(device, non_blocking=True), self.class_ids.to(device, non_blocking=True))

    def __len__(self) -> int:
        return len(self.class_ids)
