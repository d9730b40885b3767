"""Heads that choose their queries among cells, and inputs for which the choice is no toss-up.

Where the last cell chosen and the first one left out are nearly tied, rounding decides, and torch and an engine may
each be right with another one. How near to a tie an input is depends on the weights alone, so inputs are taken that
are far from it: their choice is the same on every processor.
"""

from __future__ import annotations

import torch
from torch import Tensor

from handeye.vision.detector import Detector
from handeye.vision.heads.query_selection import QuerySelection

CLEAR = 1e-4
"""Class logits this far apart are told apart by every engine: logits near 5 are multiples of 5e-7 in single precision,
and torch with and without oneDNN is apart by one to three of them; this is two hundred."""


def clear_images(detector: Detector, size_hw: tuple[int, int]) -> Tensor:
    """The first noise image by seed among whose cells the choice is clear."""
    for seed in range(100):
        images = torch.rand(1, 3, *size_hw, generator=torch.Generator().manual_seed(seed))
        if least_gap(detector, images) > CLEAR:
            return images
    raise AssertionError(f"no image of a hundred leaves the detector a clear choice at {size_hw}")


def least_gap(detector: Detector, images: Tensor) -> float:
    """Class logit of the last cell chosen minus that of the first left out, the least of a batch."""
    (selection,) = (module for module in detector.modules() if isinstance(module, QuerySelection))
    gaps: list[float] = []

    def measure(module: object, given: object, class_logits: Tensor) -> None:
        best_first = class_logits.amax(dim=-1).sort(dim=1, descending=True).values
        last, next_one = best_first[:, selection.num_queries - 1], best_first[:, selection.num_queries]
        gaps.append(float((last - next_one).min()))

    handle = selection.predict_class.register_forward_hook(measure)
    with torch.no_grad():
        detector(images)
    handle.remove()
    return min(gaps)
