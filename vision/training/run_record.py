"""What a run shows of itself while it goes on: trackers, the first batches, pictures of each evaluation, one page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator

from vision.data.annotations import AnnotationSet
from vision.data.batches import Batch
from vision.evaluation.confusion import ConfusionMatrix, confusion_matrix, plot_confusion
from vision.evaluation.plots import (
    PrecisionRecall,
    best_common_threshold,
    plot_f1,
    plot_losses,
    plot_metrics,
    plot_precision_recall,
    precision_recall,
)
from vision.evaluation.worst_images import draw_judged, worst_images
from vision.files import whole_files, write_json
from vision.images import Preprocessing
from vision.runtime.detections import Detections
from vision.training.batch_picture import draw_batch
from vision.training.config import TrainDetectorConfig
from vision.training.run_folder import RunFolder
from vision.training.run_report import write_run_report
from vision.training.trackers import finish_trackers, start_trackers

DRAWN_BATCHES = 3
WORST_IMAGES = 8
IOU_THRESHOLD = 0.5


class RunRecord:
    """Told of each step and evaluation; only the main process's writes anything."""

    def __init__(
        self,
        config: TrainDetectorConfig,
        run: RunFolder,
        accelerator: Accelerator,
        preprocessing: Preprocessing,
        splits: Mapping[str, AnnotationSet],
    ) -> None:
        """`splits` are the annotations by their part in the training, "train" first."""
        self.config, self.run, self.accelerator, self.preprocessing = config, run, accelerator, preprocessing
        self.class_names = splits["train"].categories.names
        self.data = {split: _describe(annotations) for split, annotations in splits.items()}

    def begin(self, first_step: int) -> None:
        """Open the trackers and write down what there is to learn from."""
        start_trackers(self.accelerator, self.run.path, self.config, first_step)
        if self.accelerator.is_main_process:
            write_json(self.run.data, self.data)

    def after_step(self, entry: Mapping[str, Any], batch: Batch) -> None:
        """`entry` is the step's line in the journal; the main process's share of the first batches is drawn."""
        step = entry["step"]
        values = {f"loss/{name}": value for name, value in entry["losses"].items()}
        figures = values | {"rate": entry["rate"], "gradient_norm": entry["gradient_norm"]}
        self.accelerator.log(figures, step=step)
        if step < DRAWN_BATCHES:
            path = self.run.path / "batches" / f"{step:02d}.png"
            draw_batch(path, batch, self.class_names, self.preprocessing)

    def after_evaluation(
        self, entry: Mapping[str, Any], annotations: AnnotationSet, images: Path, detections: Mapping[int, Detections]
    ) -> None:
        """`entry` is the evaluation's line in the journal; draws what the detector does well and badly."""
        scores = {f"validation/{key}": value for key, value in entry.items() if key.startswith(("AP", "AR"))}
        figures = {key: value for key, value in scores.items() if isinstance(value, float)}
        self.accelerator.log(figures, step=entry["step"])
        folder = self.run.path
        plot_metrics(folder / "metrics.png", self.run.metrics.read())
        curves = precision_recall(annotations, detections, IOU_THRESHOLD)
        plot_precision_recall(folder / "precision_recall.png", curves, IOU_THRESHOLD)
        plot_f1(folder / "f1.png", curves, IOU_THRESHOLD)
        threshold = best_common_threshold(curves)
        matrix = confusion_matrix(annotations, detections, threshold, IOU_THRESHOLD)
        plot_confusion(folder / "confusion.png", matrix)
        description = {
            "epoch": entry["epoch"],
            "iou_threshold": IOU_THRESHOLD,
            "score_threshold": threshold,
            "classes": [_describe_class(curve) for curve in curves],
            "confusion": _describe_confusion(matrix),
            "worst": _draw_worst(folder / "worst", annotations, images, detections, threshold),
        }
        write_json(self.run.evaluation, description)

    def write_page(self) -> None:
        """The losses so far and the page; both replace those before them."""
        if self.accelerator.is_main_process:
            plot_losses(self.run.path / "losses.png", self.run.steps.read())
            write_run_report(self.run)

    def finish(self) -> None:
        """The last page, and whatever the trackers hold back."""
        self.write_page()
        finish_trackers(self.accelerator)


def _describe(annotations: AnnotationSet) -> dict[str, object]:
    per_class = zip(annotations.categories.names, annotations.boxes_per_class().tolist(), strict=True)
    return {
        "images": len(annotations),
        "boxes": annotations.num_boxes(),
        "left_out": dict(annotations.dropped),
        "boxes_of_class": dict(per_class),
    }


def _describe_class(curve: PrecisionRecall) -> dict[str, object]:
    """A class at its own best threshold."""
    best = np.array([curve.best_threshold])
    (precision,), (recall,) = curve.at(best)
    return {
        "name": curve.class_name,
        "AP50": curve.average_precision,
        "threshold": float(best[0]),
        "F1": float(curve.f1(best)[0]),
        "precision": float(precision),
        "recall": float(recall),
    }


def _describe_confusion(matrix: ConfusionMatrix) -> dict[str, object]:
    return {"labels": list(matrix.labels), "counts": matrix.counts.tolist()}


def _draw_worst(
    folder: Path,
    annotations: AnnotationSet,
    images: Path,
    detections: Mapping[int, Detections],
    score_threshold: float,
) -> list[dict[str, object]]:
    """Draw the worst images, drop pictures of an earlier evaluation, and tell what is on each."""
    worst, described = worst_images(annotations, detections, score_threshold, WORST_IMAGES, IOU_THRESHOLD), []
    for number, judged in enumerate(worst):
        path = folder / f"{number:02d}.png"
        draw_judged(path, judged, images)
        described.append(
            {
                "picture": f"{folder.name}/{path.name}",
                "image": judged.image.file_name,
                "F1": judged.judgement.f1,
                "false": judged.judgement.num_false,
                "missed": judged.judgement.num_missed,
            }
        )
    for path in whole_files(folder, "*.png")[len(worst) :]:
        path.unlink()
    return described
