"""Anchor boxes: the grid of anchors of a feature map, and k-means clustering of anchor sizes for a data set.

Anchors: Ren et al. 2015 (Faster R-CNN, arXiv:1506.01497). Clustering has the distance 1 - IoU (YOLO v2, Redmon and
Farhadi 2016, arXiv:1612.08242, section 2), under which small and large boxes count alike. numpy and torch share what
the heads need.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from array_api_compat import array_namespace
from jaxtyping import Bool, Float, Float64, Int64

from handeye.vision.boxes.formats import ArrayT

MOST_ITERATIONS = 300
"""Of k-means; it usually converges within a few dozen."""


@dataclass(frozen=True, slots=True, eq=False)
class AnchorFit:
    """Anchor sizes clustered for a data set, by rising area, and how well they fit it.

    mean_iou: overlap of an object with its best anchor, both at one place, averaged over the objects.
    best_possible_recall: fraction of the objects that some anchor can be stretched to (`within_ratio`).
    """

    sizes_wh: Float64[np.ndarray, "K 2"]
    mean_iou: float
    best_possible_recall: float

    def by_level(self, num_levels: int) -> tuple[tuple[tuple[float, float], ...], ...]:
        """The sizes for a head's configuration: the same number for each level, the smallest for the finest.

        Raises ValueError when they cannot be split evenly.
        """
        per_level, rest = divmod(len(self.sizes_wh), num_levels)
        if rest or not per_level:
            raise ValueError(f"{len(self.sizes_wh)} anchors cannot be split evenly over {num_levels} levels")
        sizes = [(round(float(width), 1), round(float(height), 1)) for width, height in self.sizes_wh]
        return tuple(tuple(sizes[level * per_level : (level + 1) * per_level]) for level in range(num_levels))


def grid_anchors(
    grid_hw: tuple[int, int], stride: int, sizes_wh: Float[ArrayT, "K 2"]
) -> Float[ArrayT, "cells_times_K 4"]:
    """Anchors (cx, cy, w, h in pixels) around the middle of each cell.

    Row by row, and the K sizes of a cell one after another.
    """
    xp, (height, width), num_sizes = array_namespace(sizes_wh), grid_hw, sizes_wh.shape[0]
    like = {"dtype": sizes_wh.dtype, "device": sizes_wh.device}
    x = ((xp.arange(width, **like) + 0.5) * stride)[None, :, None]
    y = ((xp.arange(height, **like) + 0.5) * stride)[:, None, None]
    shape = (height, width, num_sizes)
    columns = (x, y, sizes_wh[None, None, :, 0], sizes_wh[None, None, :, 1])
    return xp.reshape(xp.stack([xp.broadcast_to(column, shape) for column in columns], axis=-1), (-1, 4))


def shape_iou(sizes_wh: Float[ArrayT, "N 2"], others_wh: Float[ArrayT, "K 2"]) -> Float[ArrayT, "N K"]:
    """IoU of boxes of these sizes put at one place: how alike they are whatever their position."""
    xp = array_namespace(sizes_wh, others_wh)
    shared = xp.prod(xp.minimum(sizes_wh[:, None], others_wh[None]), axis=-1)
    return shared / (xp.prod(sizes_wh, axis=-1)[:, None] + xp.prod(others_wh, axis=-1)[None] - shared)


def within_ratio(sizes_wh: Float[ArrayT, "N 2"], anchors_wh: Float[ArrayT, "K 2"], most: float) -> Bool[ArrayT, "N K"]:
    """Whether neither side of a box is `most` times its anchor's or more, or the other way round (YOLOv5's rule)."""
    xp = array_namespace(sizes_wh, anchors_wh)
    ratios = sizes_wh[:, None] / anchors_wh[None]
    return xp.all((ratios < most) & (ratios > 1 / most), axis=-1)


def kmeans_anchors(
    sizes_wh: Float[np.ndarray, "N 2"],
    num_anchors: int,
    *,
    most_ratio: float = 4.0,
    seed: int = 0,
) -> AnchorFit:
    """Sizes for anchors from the (width, height) of a data set's objects, in pixels of the network input.

    Repeatable from the seed. The mean of a cluster is not the best size for 1 - IoU, so the mean IoU may fall at a
    step; the best sizes met are kept. Raises ValueError for sizes that are not positive and when there are
    fewer different ones than anchors.
    """
    sizes = sizes_wh.astype(np.float64)
    if not (np.isfinite(sizes) & (sizes > 0)).all():
        raise ValueError("expected sizes of objects above 0, got some that are not")
    distinct = len(np.unique(sizes, axis=0))
    if not 0 < num_anchors <= distinct:
        raise ValueError(f"expected 1 to {distinct} anchors, the number of distinct sizes, got {num_anchors}")
    anchors, best, best_iou = _first_anchors(sizes, num_anchors, np.random.default_rng(seed)), None, -math.inf
    nearest = None
    for _ in range(MOST_ITERATIONS):
        ious = shape_iou(sizes, anchors)
        if (mean_iou := float(ious.max(axis=1).mean())) > best_iou:
            best, best_iou = anchors, mean_iou
        previous, nearest = nearest, ious.argmax(axis=1)
        if previous is not None and (previous == nearest).all():
            break
        anchors = _cluster_means(sizes, nearest, anchors)
    assert best is not None
    best = best[np.argsort(best.prod(axis=1), kind="stable")]
    recall = float(within_ratio(sizes, best, most_ratio).any(axis=1).mean())
    return AnchorFit(best, best_iou, recall)


def _first_anchors(
    sizes: Float64[np.ndarray, "N 2"], num_anchors: int, rng: np.random.Generator
) -> Float64[np.ndarray, "K 2"]:
    """k-means++ (Arthur and Vassilvitskii 2007): each next one is likelier the less the ones before overlap it."""
    anchors = sizes[rng.integers(len(sizes))][None]
    while len(anchors) < num_anchors:
        # Rounding must not let a size that is an anchor already be drawn again.
        distance = np.where(
            (sizes[:, None] == anchors).all(axis=-1).any(axis=1), 0, 1 - shape_iou(sizes, anchors).max(axis=1)
        )
        chosen = rng.choice(len(sizes), p=distance**2 / (distance**2).sum())
        anchors = np.concatenate((anchors, sizes[chosen][None]))
    return anchors


def _cluster_means(
    sizes: Float64[np.ndarray, "N 2"], nearest: Int64[np.ndarray, " N"], anchors: Float64[np.ndarray, "K 2"]
) -> Float64[np.ndarray, "K 2"]:
    """The mean size of each cluster; an anchor that nothing is nearest to stays where it is."""
    counts = np.bincount(nearest, minlength=len(anchors))[:, None]
    sums = np.stack([np.bincount(nearest, sizes[:, axis], minlength=len(anchors)) for axis in (0, 1)], axis=1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), anchors)
