"""Hungarian matching: one query for each object so that the sum of the costs is the least there is.

Kuhn 1955; DETR (Carion et al. 2020, arXiv:2005.12872, equation 1). The costs of a batch are computed in one block on
the device and moved once; scipy solves each image exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from vision.errors import UserError


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """Query query_index[i] of image image_index[i] answers for object target_index[i] of the batch.

    target_index counts the objects of all images, image after image. No query and no object appears twice.
    """

    image_index: Int64[Tensor, " P"]
    query_index: Int64[Tensor, " P"]
    target_index: Int64[Tensor, " P"]

    def __len__(self) -> int:
        return len(self.query_index)


def match_hungarian(cost: Float[Tensor, "layers B Q M"], counts: Sequence[int]) -> list[Matches]:
    """The cheapest matching of every layer, each by itself, on the device of the costs.

    counts: objects of each image; columns beyond them are not looked at. Where there are more objects than queries,
    some objects stay alone. Raises UserError when a cost is not finite.
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
            "numbers. When it happens in training, the training has diverged: try a smaller rate or clipped gradients"
        )
    return costs
