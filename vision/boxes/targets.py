"""Ground truth of one image for training: boxes, classes and ignored regions."""

from __future__ import annotations

from dataclasses import dataclass, field

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
    ignored_xyxy: Float[Tensor, "M 4"] = field(default_factory=lambda: torch.zeros(0, 4))
    """Regions without reliable annotations (crowds, hardly visible objects): no loss treats them as background."""

    def __post_init__(self) -> None:
        num, num_ignored = len(self.class_ids), len(self.ignored_xyxy)
        if self.boxes_xyxy.shape != (num, 4) or self.class_ids.shape != (num,):
            raise ValueError(
                f"expected boxes_xyxy (N, 4) and class_ids (N,), got {tuple(self.boxes_xyxy.shape)} "
                f"and {tuple(self.class_ids.shape)}"
            )
        if self.ignored_xyxy.shape != (num_ignored, 4):
            raise ValueError(f"expected ignored_xyxy (M, 4), got {tuple(self.ignored_xyxy.shape)}")

    @classmethod
    def empty(cls) -> BoxTargets:
        """An image without objects."""
        return cls(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))

    def to(self, device: torch.device | str) -> BoxTargets:
        """The same on another device."""
        values = (self.boxes_xyxy, self.class_ids, self.ignored_xyxy)
        return BoxTargets(*(value.to(device, non_blocking=True) for value in values))

    def __len__(self) -> int:
        return len(self.class_ids)
