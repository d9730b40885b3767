"""Plots of a training run: losses, average precision over time, precision against recall.

Drawn without a display (matplotlib's Agg); every picture is whole or absent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vision.boxes.overlap import pairwise_iou
from vision.data.annotations import AnnotationSet, ImageAnnotations
from vision.files import replacing
from vision.runtime.detections import Detections

SMOOTHING_STEPS = 50
"""Window of the moving average drawn over the losses."""


@dataclass(frozen=True, slots=True, eq=False)
class PrecisionRecall:
    """One class at one IoU threshold: what the detections down to each score find, best score first."""

    class_name: str
    precision: Float64[np.ndarray, "N"]
    recall: Float64[np.ndarray, "N"]
    scores: Float64[np.ndarray, "N"]

    @property
    def average_precision(self) -> float:
        """Mean over recalls 0, 0.01, ..., 1 of the best precision at that recall or beyond, as COCO defines it."""
        if len(self.recall) == 0:
            return 0.0
        best_from_here = np.maximum.accumulate(self.precision[::-1])[::-1]
        first = np.searchsorted(self.recall, np.linspace(0, 1, 101), side="left")
        return float(np.append(best_from_here, 0.0)[first].mean())


def precision_recall(
    annotations: AnnotationSet, detections: Mapping[int, Detections], iou_threshold: float = 0.5
) -> list[PrecisionRecall]:
    """Curves of all annotated classes; `detections` by image id, their classes those of `annotations` in order.

    A detection takes the free object of its class that it overlaps most, best score first; one that only meets a
    crowd counts neither way. (The rule of COCO; faster-coco-eval gives the same area under the curve.)
    """
    curves = []
    for class_id, name in enumerate(annotations.categories.names):
        matched = [
            _match_class(image, detections[image.image_id], class_id, iou_threshold)
            for image in annotations.images
            if image.image_id in detections
        ]
        num_objects = sum(int(((image.class_ids == class_id) & ~image.is_crowd).sum()) for image in annotations.images)
        if num_objects:
            scores = np.concatenate([scores for scores, _ in matched] or [np.zeros(0)])
            is_hit = np.concatenate([hits for _, hits in matched] or [np.zeros(0, dtype=bool)])
            curves.append(_curve(name, scores, is_hit, num_objects))
    return curves


def plot_losses(path: Path, steps: Sequence[Mapping[str, Any]]) -> None:
    """Total loss, its parts and the learning rate over the optimiser steps (the lines of steps.jsonl)."""
    with _figure(path, num_panels=2) as (loss_axes, rate_axes):
        number = [entry["step"] for entry in steps]
        names = [name for name in steps[-1]["losses"] if name != "total"] if steps else []
        for name in ["total", *names]:
            values = np.array([entry["losses"].get(name, np.nan) for entry in steps], dtype=np.float64)
            loss_axes.plot(number, _smooth(values), label=name, linewidth=1.8 if name == "total" else 1.0)
        loss_axes.set(xlabel="step", ylabel=f"loss (mean of {SMOOTHING_STEPS} steps)", ylim=(0, None))
        if steps:
            loss_axes.legend(frameon=False)
        rate_axes.plot(number, [entry["rate"] for entry in steps])
        rate_axes.set(xlabel="step", ylabel="learning rate", ylim=(0, None))


def plot_metrics(path: Path, metrics: Sequence[Mapping[str, Any]]) -> None:
    """AP, AP50 and AP75 over the epochs (the lines of metrics.jsonl)."""
    with _figure(path) as (axes,):
        epochs = [entry["epoch"] for entry in metrics]
        for name in ("AP", "AP50", "AP75"):
            axes.plot(epochs, [entry[name] for entry in metrics], marker="o", markersize=3, label=name)
        axes.set(xlabel="epoch", ylabel="validation", ylim=(0, 1))
        axes.legend(frameon=False, loc="lower right")


def plot_precision_recall(path: Path, curves: Sequence[PrecisionRecall], iou_threshold: float = 0.5) -> None:
    """Precision against recall of each class."""
    with _figure(path) as (axes,):
        for curve in curves:
            axes.plot(curve.recall, curve.precision, label=f"{curve.class_name} {curve.average_precision:.3f}")
        axes.set(xlabel="recall", ylabel=f"precision at IoU {iou_threshold}", xlim=(0, 1), ylim=(0, 1.02))
        if 0 < len(curves) <= 20:
            axes.legend(frameon=False, loc="lower left")


def _match_class(
    image: ImageAnnotations, found: Detections, class_id: int, iou_threshold: float
) -> tuple[Float[np.ndarray, "N"], Bool[np.ndarray, "N"]]:
    """Scores of the detections that count, best first, and whether each hits an object."""
    own, others = image.class_ids == class_id, found.class_ids == class_id
    order = np.argsort(-found.scores[others], kind="stable")
    scores, boxes = found.scores[others][order].astype(np.float64), found.boxes_xyxy[others][order]
    objects, crowds = image.boxes_xyxy[own & ~image.is_crowd], image.boxes_xyxy[own & image.is_crowd]
    overlaps = np.asarray(pairwise_iou(boxes, objects))
    is_hit = np.zeros(len(boxes), dtype=bool)
    is_free = np.ones(len(objects), dtype=bool)
    for row in np.flatnonzero((overlaps >= iou_threshold).any(axis=1)):
        allowed = np.where(is_free, overlaps[row], -1.0)
        best = int(allowed.argmax())
        if allowed[best] >= iou_threshold:
            is_hit[row], is_free[best] = True, False
    counts = is_hit | ~_inside_a_crowd(boxes, crowds, iou_threshold)
    return scores[counts], is_hit[counts]


def _inside_a_crowd(
    boxes: Float[np.ndarray, "N 4"], crowds: Float[np.ndarray, "M 4"], iou_threshold: float
) -> Bool[np.ndarray, "N"]:
    """Whether at least `iou_threshold` of a box's own area lies in one crowd, COCO's overlap with crowds."""
    low = np.maximum(boxes[:, None, :2], crowds[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], crowds[None, :, 2:])
    shared = np.maximum(high - low, 0).prod(axis=-1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=-1)
    return (shared >= iou_threshold * np.maximum(areas, 1e-9)[:, None]).any(axis=1)


def _curve(
    name: str, scores: Float[np.ndarray, "N"], is_hit: Bool[np.ndarray, "N"], num_objects: int
) -> PrecisionRecall:
    order = np.argsort(-scores, kind="stable")
    hits = is_hit[order].cumsum()
    return PrecisionRecall(name, hits / np.arange(1, len(hits) + 1), hits / num_objects, scores[order])


def _smooth(values: Float64[np.ndarray, "N"]) -> Float64[np.ndarray, "N"]:
    """Mean over the last SMOOTHING_STEPS values, of fewer at the start; gaps stay out of it."""
    known = np.isfinite(values)
    sums, counts = (np.cumsum(np.insert(numbers, 0, 0.0)) for numbers in (np.where(known, values, 0.0), known))
    last = np.arange(1, len(values) + 1)
    first = np.maximum(last - SMOOTHING_STEPS, 0)
    num_known = counts[last] - counts[first]
    return np.where(known, (sums[last] - sums[first]) / np.maximum(num_known, 1), np.nan)


@contextmanager
def _figure(path: Path, num_panels: int = 1) -> Iterator[Sequence[Axes]]:
    """Axes in a row; written to `path` when the block ends. No pyplot: it would keep every figure in memory."""
    figure = Figure(figsize=(6.4 * num_panels, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, num_panels, squeeze=False)[0]
    for panel in axes:
        panel.grid(visible=True, alpha=0.3)
    yield list(axes)
    with replacing(path) as beside:
        figure.savefig(beside, dpi=120)
