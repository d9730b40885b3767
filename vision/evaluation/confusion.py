"""The confusion matrix of detection: what was there against what was said, with a place for nothing on either side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64
from matplotlib.axes import Axes

from vision.data.annotations import AnnotationSet
from vision.evaluation.figures import figure
from vision.evaluation.matching import judge
from vision.runtime.detections import Detections

BACKGROUND = "background"
MAX_LABELLED = 30
"""Matrices of more classes are drawn without names and numbers, which nobody could read."""


@dataclass(frozen=True, slots=True, eq=False)
class ConfusionMatrix:
    """counts[truth, said] of objects and detections, the last row and column being the background.

    counts[i, i] are hits, counts[i, j] objects of class i that only a detection of class j covers, counts[i, -1]
    objects that nothing covers, counts[-1, j] detections of class j that answer for nothing. counts[-1, -1] is 0.
    """

    counts: Int64[np.ndarray, "num_rows num_rows"]
    class_names: tuple[str, ...]
    score_threshold: float
    iou_threshold: float

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of rows and columns."""
        return (*self.class_names, BACKGROUND)


def confusion_matrix(
    annotations: AnnotationSet,
    detections: Mapping[int, Detections],
    score_threshold: float,
    iou_threshold: float = 0.5,
) -> ConfusionMatrix:
    """Count every object that is no crowd once and every detection from `score_threshold` on once.

    `detections` go by image id; their classes are those of the annotations, in order. Images without an entry are
    left out, detections that lie in a crowd of their class too.
    """
    num_classes = len(annotations.categories)
    counts = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    for image in annotations.images:
        if image.image_id not in detections:
            continue
        found = detections[image.image_id]
        found = found[found.scores >= score_threshold]
        judged = judge(image, found, iou_threshold)
        is_alone = judged.object_of < 0
        truth = np.where(is_alone, num_classes, np.append(image.class_ids, num_classes)[judged.object_of])
        np.add.at(counts, (truth[judged.counts], found.class_ids[judged.counts]), 1)
        is_covered = image.is_crowd.copy()
        is_covered[judged.object_of[~is_alone]] = True
        counts[:-1, -1] += np.bincount(image.class_ids[~is_covered], minlength=num_classes)
    return ConfusionMatrix(counts, annotations.categories.names, score_threshold, iou_threshold)


def plot_confusion(path: Path, matrix: ConfusionMatrix) -> None:
    """Shares of each row, what was there, in colour; counts as numbers where they can be read."""
    size = float(np.clip(0.45 * len(matrix.labels) + 3, 5, 14))
    shares = matrix.counts / np.maximum(matrix.counts.sum(axis=1, keepdims=True), 1)
    with figure(path, size_inches=(size + 1, size)) as (axes,):
        axes.grid(visible=False)
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.set(xlabel="detected as", ylabel="annotated as")
        axes.set_title(f"IoU {matrix.iou_threshold:g}, scores from {matrix.score_threshold:.3f}", fontsize=10)
        if len(matrix.labels) <= MAX_LABELLED:
            _label(axes, matrix, shares)
        axes.figure.colorbar(image, ax=axes, shrink=0.8, label="share of the row")


def _label(axes: Axes, matrix: ConfusionMatrix, shares: np.ndarray) -> None:
    places = range(len(matrix.labels))
    axes.set_xticks(places, matrix.labels, rotation=90)
    axes.set_yticks(places, matrix.labels)
    for row, column in np.argwhere(matrix.counts > 0):
        colour = "white" if shares[row, column] > 0.5 else "black"
        text = str(matrix.counts[row, column])
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
