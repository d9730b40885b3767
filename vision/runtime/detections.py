"""Detections: boxes, scores and classes of one image, in numpy, independent of the inference engine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int64

SHOWN = 5
"""How many detections a repr lists."""


class Detection(NamedTuple):
    """One detected object: its box (x1, y1, x2, y2) in pixels, its score in [0, 1] and its class."""

    box_xyxy: tuple[float, float, float, float]
    score: float
    class_id: int
    class_name: str


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """Boxes of one image, best score first as detectors return them.

    boxes_xyxy is in pixels of the original image (x1 <= x2, y1 <= y2), scores lie in [0, 1], class_ids count
    from 0 and name entries of class_names. Iterating gives one `Detection` after the other. Raises ValueError when
    lengths or ranges disagree.
    """

    boxes_xyxy: Float32[np.ndarray, "N 4"]
    scores: Float32[np.ndarray, " N"]
    class_ids: Int64[np.ndarray, " N"]
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        num = len(self.boxes_xyxy)
        if self.boxes_xyxy.shape != (num, 4) or self.scores.shape != (num,) or self.class_ids.shape != (num,):
            raise ValueError(
                "expected boxes_xyxy (N, 4), scores (N,) and class_ids (N,), got "
                f"{self.boxes_xyxy.shape}, {self.scores.shape} and {self.class_ids.shape}"
            )
        if num and not 0 <= self.class_ids.min() <= self.class_ids.max() < len(self.class_names):
            raise ValueError(
                f"class_ids must lie in 0..{len(self.class_names) - 1}, "
                f"got {self.class_ids.min()}..{self.class_ids.max()}"
            )

    @classmethod
    def empty(cls, class_names: tuple[str, ...]) -> Detections:
        """No detection at all."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), class_names)

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, chosen: Bool[np.ndarray, " N"] | Int64[np.ndarray, " M"] | slice) -> Detections:
        """The chosen rows: a mask, indices or a slice."""
        return Detections(self.boxes_xyxy[chosen], self.scores[chosen], self.class_ids[chosen], self.class_names)

    def __iter__(self) -> Iterator[Detection]:
        rows = zip(self.boxes_xyxy.tolist(), self.scores.tolist(), self.class_ids.tolist(), self.names, strict=True)
        for (x1, y1, x2, y2), score, class_id, name in rows:
            yield Detection((x1, y1, x2, y2), score, class_id, name)

    def __repr__(self) -> str:
        shown = [
            f"{one.class_name} {one.score:.2f} ({', '.join(f'{edge:.0f}' for edge in one.box_xyxy)})"
            for one in self[:SHOWN]
        ]
        more = [f"and {len(self) - SHOWN} more"] if len(self) > SHOWN else []
        return f"Detections({len(self)}: {', '.join(shown + more)})" if len(self) else "Detections(none)"

    @property
    def names(self) -> list[str]:
        """The class name of each row."""
        return [self.class_names[class_id] for class_id in self.class_ids]
