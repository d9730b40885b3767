"""Plot a training run and its evaluation: losses, AP over epochs, precision-recall and F1 curves, confusion matrix.

The confusion matrix sets annotated classes against detected ones, with a background row and column. Figures are drawn
without a display and written whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from handeye.vision.data.annotations import AnnotationSet
from handeye.vision.evaluation.matching import match_detections
from handeye.vision.files import replacing
from handeye.vision.runtime.detections import Detections

SMOOTHING_STEPS = 50
"""Window of the moving average drawn over the losses."""
THRESHOLDS = np.linspace(0, 1, 1001)
"""Scores at which F1 is drawn and averaged over the classes."""
MAX_NAMED = 20
"""Plots of more classes have no legend."""
BACKGROUND = "background"
MAX_LABELLED = 30
"""Matrices of more classes are drawn without names and numbers, which nobody could read."""
PANEL_INCHES = (6.4, 4.4)
DPI = 120


@contextmanager
def figure(
    path: Path, num_panels: int = 1, size_inches: tuple[float, float] = PANEL_INCHES
) -> Iterator[Sequence[Axes]]:
    """Axes in a row; written to `path` when the block ends. No pyplot: it would keep every figure in memory."""
    drawing = Figure(figsize=(size_inches[0] * num_panels, size_inches[1]), layout="constrained")
    FigureCanvasAgg(drawing)
    axes = drawing.subplots(1, num_panels, squeeze=False)[0]
    for panel in axes:
        panel.grid(visible=True, alpha=0.3)
    yield list(axes)
    with replacing(path) as beside:
        drawing.savefig(beside, dpi=DPI)


@dataclass(frozen=True, slots=True, eq=False)
class PrecisionRecall:
    """One class at one IoU threshold: what the detections down to each score find, best score first."""

    class_name: str
    precision: Float64[np.ndarray, " N"]
    recall: Float64[np.ndarray, " N"]
    scores: Float64[np.ndarray, " N"]

    @property
    def average_precision(self) -> float:
        """Mean over recalls 0, 0.01, ..., 1 of the best precision at that recall or beyond, as COCO defines it."""
        if len(self.recall) == 0:
            return 0.0
        best_from_here = np.maximum.accumulate(self.precision[::-1])[::-1]
        first = np.searchsorted(self.recall, np.linspace(0, 1, 101), side="left")
        return float(np.append(best_from_here, 0.0)[first].mean())

    def at(self, thresholds: Float64[np.ndarray, " T"]) -> tuple[Float64[np.ndarray, " T"], Float64[np.ndarray, " T"]]:
        """Precision and recall of the detections with at least these scores; without a detection both are 0."""
        num_kept = np.searchsorted(-self.scores, -thresholds, side="right")
        return np.insert(self.precision, 0, 0.0)[num_kept], np.insert(self.recall, 0, 0.0)[num_kept]

    def f1(self, thresholds: Float64[np.ndarray, " T"]) -> Float64[np.ndarray, " T"]:
        """Harmonic mean of precision and recall of the detections with at least these scores."""
        precision, recall = self.at(thresholds)
        return 2 * precision * recall / np.maximum(precision + recall, 1e-9)

    @property
    def best_threshold(self) -> float:
        """The score from which on F1 is highest, the highest such score; 1 for a class without a hit."""
        thresholds = np.append(1.0, self.scores)
        return float(thresholds[self.f1(thresholds).argmax()])


def precision_recall(
    annotations: AnnotationSet, detections: Mapping[int, Detections], iou_threshold: float = 0.5
) -> list[PrecisionRecall]:
    """Curves of all annotated classes; `detections` by image id, their classes those of `annotations` in order.

    A detection takes the free object of its class that it overlaps most, best score first; one that only meets a
    crowd counts neither way. (The rule of COCO; faster-coco-eval gives the same area under the curve.)
    """
    seen = [image for image in annotations.images if image.image_id in detections]
    matched = [match_detections(image, detections[image.image_id], iou_threshold) for image in seen]
    counts = np.concatenate([one.counts for one in matched] or [np.zeros(0, dtype=bool)])
    is_hit = np.concatenate([one.is_hit for one in matched] or [np.zeros(0, dtype=bool)])[counts]
    scores = np.concatenate([detections[image.image_id].scores for image in seen] or [np.zeros(0)])[counts]
    class_ids = np.concatenate([detections[image.image_id].class_ids for image in seen] or [np.zeros(0)])[counts]
    curves = []
    for class_id, num_objects in enumerate(_objects_per_class(annotations)):
        if num_objects:
            own = class_ids == class_id
            name = annotations.categories.names[class_id]
            curves.append(_curve(name, scores[own].astype(np.float64), is_hit[own], int(num_objects)))
    return curves


def best_common_threshold(curves: Sequence[PrecisionRecall]) -> float:
    """The score, in thousandths, from which on F1 averaged over the classes is highest; the lowest such score."""
    if not curves:
        return 0.0
    return float(THRESHOLDS[np.mean([curve.f1(THRESHOLDS) for curve in curves], axis=0).argmax()])


def plot_losses(path: Path, steps: Sequence[Mapping[str, Any]]) -> None:
    """Total loss, its parts and the learning rate over the optimiser steps (the lines of steps.jsonl)."""
    with figure(path, num_panels=2) as (loss_axes, rate_axes):
        number = [entry["step"] for entry in steps]
        names = [name for name in steps[-1]["losses"] if name != "total"] if steps else []
        for name in ["total", *names]:
            values = np.array([entry["losses"].get(name, np.nan) for entry in steps], dtype=np.float64)
            loss_axes.plot(number, _smooth(values), label=name, linewidth=1.8 if name == "total" else 1.0)
        loss_axes.set(xlabel="step", ylabel=f"loss (mean of {SMOOTHING_STEPS} steps)", ylim=(0, None))
        if steps:
            loss_axes.legend(frameon=False)
        rate_axes.plot(number, [entry["lr"] for entry in steps])
        rate_axes.set(xlabel="step", ylabel="learning rate", ylim=(0, None))


def plot_metrics(path: Path, metrics: Sequence[Mapping[str, Any]]) -> None:
    """AP, AP50 and AP75 over the epochs (the lines of metrics.jsonl)."""
    with figure(path) as (axes,):
        epochs = [entry["epoch"] for entry in metrics]
        for name in ("AP", "AP50", "AP75"):
            axes.plot(epochs, [entry[name] for entry in metrics], marker="o", markersize=3, label=name)
        axes.set(xlabel="epoch", ylabel="validation", ylim=(0, 1))
        axes.legend(frameon=False, loc="lower right")


def plot_precision_recall(path: Path, curves: Sequence[PrecisionRecall], iou_threshold: float = 0.5) -> None:
    """Precision against recall of each class."""
    with figure(path) as (axes,):
        for curve in curves:
            axes.plot(curve.recall, curve.precision, label=f"{curve.class_name} {curve.average_precision:.3f}")
        axes.set(xlabel="recall", ylabel=f"precision at IoU {iou_threshold}", xlim=(0, 1), ylim=(0, 1.02))
        if 0 < len(curves) <= MAX_NAMED:
            axes.legend(frameon=False, loc="lower left")


def plot_f1(path: Path, curves: Sequence[PrecisionRecall], iou_threshold: float = 0.5) -> None:
    """F1 of each class against the lowest score that is kept, and their mean with the best common threshold."""
    with figure(path) as (axes,):
        for curve in curves:
            values = curve.f1(THRESHOLDS)
            axes.plot(THRESHOLDS, values, linewidth=1, label=f"{curve.class_name} from {curve.best_threshold:.2f}")
        if curves:
            best = best_common_threshold(curves)
            mean = np.mean([curve.f1(THRESHOLDS) for curve in curves], axis=0)
            axes.plot(THRESHOLDS, mean, color="black", linewidth=2, label=f"mean, {mean.max():.3f} from {best:.2f}")
            axes.axvline(best, color="black", linewidth=0.8, linestyle=":")
        axes.set(xlabel="lowest score", ylabel=f"F1 at IoU {iou_threshold}", xlim=(0, 1), ylim=(0, 1.02))
        if 0 < len(curves) <= MAX_NAMED:
            axes.legend(frameon=False, loc="lower left", fontsize=8)


@dataclass(frozen=True, slots=True, eq=False)
class ConfusionMatrix:
    """counts[annotated, detected], the last row and column being the background.

    counts[i, i] are hits, counts[i, j] objects of class i that only a detection of class j matches, counts[i, -1]
    missed objects, counts[-1, j] detections of class j that match nothing. counts[-1, -1] is 0.
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
    """Count every object (crowds left out) and every detection from `score_threshold` on once.

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
        matched = match_detections(image, found, iou_threshold)
        is_alone = matched.object_of < 0
        truth = np.where(is_alone, num_classes, np.append(image.boxes.class_ids, num_classes)[matched.object_of])
        np.add.at(counts, (truth[matched.counts], found.class_ids[matched.counts]), 1)
        is_covered = image.boxes.is_crowd.copy()
        is_covered[matched.object_of[~is_alone]] = True
        counts[:-1, -1] += np.bincount(image.boxes.class_ids[~is_covered], minlength=num_classes)
    return ConfusionMatrix(counts, annotations.categories.names, score_threshold, iou_threshold)


def plot_confusion(path: Path, matrix: ConfusionMatrix) -> None:
    """Colour is the share of the row (annotated class); counts are written where they can be read."""
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


def _objects_per_class(annotations: AnnotationSet) -> np.ndarray:
    """Count of objects of each class, crowds left out."""
    class_ids = [image.boxes.class_ids[~image.boxes.is_crowd] for image in annotations.images]
    return np.bincount(np.concatenate([np.zeros(0, np.int64), *class_ids]), minlength=len(annotations.categories))


def _curve(
    name: str, scores: Float[np.ndarray, " N"], is_hit: Bool[np.ndarray, " N"], num_objects: int
) -> PrecisionRecall:
    order = np.argsort(-scores, kind="stable")
    hits = is_hit[order].cumsum()
    return PrecisionRecall(name, hits / np.arange(1, len(hits) + 1), hits / num_objects, scores[order])


def _smooth(values: Float64[np.ndarray, " N"]) -> Float64[np.ndarray, " N"]:
    """Mean over the last SMOOTHING_STEPS values, of fewer at the start; gaps stay out of it."""
    known = np.isfinite(values)
    sums, counts = (np.cumsum(np.insert(numbers, 0, 0.0)) for numbers in (np.where(known, values, 0.0), known))
    last = np.arange(1, len(values) + 1)
    first = np.maximum(last - SMOOTHING_STEPS, 0)
    num_known = counts[last] - counts[first]
    return np.where(known, (sums[last] - sums[first]) / np.maximum(num_known, 1), np.nan)
