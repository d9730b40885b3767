"""Record a run while it trains: loggers (TensorBoard, W&B, MLflow), images of batches and evaluations, the report."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from jaxtyping import UInt8

from handeye.vision.config import Config
from handeye.vision.data.annotations import AnnotationSet
from handeye.vision.data.batches import Batch
from handeye.vision.errors import MissingPackageError
from handeye.vision.evaluation.average_precision import defined
from handeye.vision.evaluation.matching import draw_matched_image, worst_images
from handeye.vision.evaluation.plots import (
    ConfusionMatrix,
    PrecisionRecall,
    best_common_threshold,
    confusion_matrix,
    plot_confusion,
    plot_f1,
    plot_losses,
    plot_metrics,
    plot_precision_recall,
    precision_recall,
)
from handeye.vision.files import whole_files, write_json
from handeye.vision.images import Preprocessing, write_image
from handeye.vision.runtime.detections import Detections
from handeye.vision.runtime.draw import class_colour, draw_box
from handeye.vision.training.config import TrainDetectorConfig
from handeye.vision.training.run_folder import RunFolder
from handeye.vision.training.run_report import write_run_report

DRAWN_BATCHES = 3
WORST_IMAGES = 8
IOU_THRESHOLD = 0.5
MAX_IMAGES = 16
SIDE_PX = 320
"""Longer side of an image as it is drawn."""
CROWD_COLOUR = (150, 150, 150)
PROJECT = "handeye"
"""Its name in the loggers."""


class RunRecord:
    """Records every step and evaluation; only the main process writes anything."""

    def __init__(
        self,
        config: TrainDetectorConfig,
        run: RunFolder,
        accelerator: Accelerator,
        preprocessing: Preprocessing,
        splits: Mapping[str, AnnotationSet],
    ) -> None:
        """`splits` are the annotations by split, "train" first."""
        self.config, self.run, self.accelerator, self.preprocessing = config, run, accelerator, preprocessing
        self.class_names = splits["train"].categories.names
        self.data = {split: _describe(annotations) for split, annotations in splits.items()}

    def begin(self, first_step: int) -> None:
        """Open the loggers and write the summary of the data."""
        start_loggers(self.accelerator, self.run.path, self.config, first_step)
        if self.accelerator.is_main_process:
            write_json(self.run.data, self.data)

    def after_step(self, entry: Mapping[str, Any], batch: Batch) -> None:
        """Log a step, given its line in the journal; draw the first batches (the main process's share)."""
        step = entry["step"]
        values = {f"loss/{name}": value for name, value in entry["losses"].items()}
        figures = values | {"lr": entry["lr"], "gradient_norm": entry["gradient_norm"]}
        self.accelerator.log(figures, step=step)
        if step < DRAWN_BATCHES:
            path = self.run.path / "batches" / f"{step:02d}.png"
            draw_batch(path, batch, self.class_names, self.preprocessing)

    def after_evaluation(
        self, entry: Mapping[str, Any], annotations: AnnotationSet, images: Path, detections: Mapping[int, Detections]
    ) -> None:
        """Log an evaluation, given its line in the journal; draw its curves and the worst images."""
        known = {
            key: value for key, value in entry.items() if key.startswith(("AP", "AR")) and isinstance(value, float)
        }
        figures = {f"validation/{key}": value for key, value in known.items() if defined(value) is not None}
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
        """Draw the losses so far and write the report."""
        if self.accelerator.is_main_process:
            plot_losses(self.run.path / "losses.png", self.run.steps.read())
            write_run_report(self.run)

    def finish(self) -> None:
        """Write the last report and flush the loggers."""
        self.write_page()
        finish_loggers(self.accelerator)


def _describe(annotations: AnnotationSet) -> dict[str, object]:
    per_class = zip(annotations.categories.names, annotations.boxes_per_class().tolist(), strict=True)
    return {
        "images": len(annotations),
        "boxes": annotations.num_boxes(),
        "left_out": dict(annotations.dropped),
        "boxes_of_class": dict(per_class),
    }


def _describe_class(curve: PrecisionRecall) -> dict[str, object]:
    """A class at its best threshold."""
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
    """Draw the worst images, delete those of an earlier evaluation; returns a description of each."""
    worst, described = worst_images(annotations, detections, score_threshold, WORST_IMAGES, IOU_THRESHOLD), []
    for number, matched in enumerate(worst):
        path = folder / f"{number:02d}.png"
        draw_matched_image(path, matched, images)
        described.append(
            {
                "picture": f"{folder.name}/{path.name}",
                "image": matched.image.file_name,
                "F1": matched.match.f1,
                "false": matched.match.num_false,
                "missed": matched.match.num_missed,
            }
        )
    for path in whole_files(folder, "*.png")[len(worst) :]:
        path.unlink()
    return described


def draw_batch(path: Path, batch: Batch, class_names: tuple[str, ...], preprocessing: Preprocessing) -> None:
    """Write a batch as the network sees it, augmented and with its target boxes: at most MAX_IMAGES images in a grid.

    Grey boxes are regions that the loss ignores.
    """
    images = batch.images[:MAX_IMAGES].permute(0, 2, 3, 1).cpu().numpy()
    if preprocessing.colour == "bgr":
        images = images[..., ::-1]
    tiles = [_tile(image, batch, number, class_names) for number, image in enumerate(images)]
    write_image(path, _grid(tiles))


def _tile(
    image: UInt8[np.ndarray, "h w 3"], batch: Batch, number: int, class_names: tuple[str, ...]
) -> UInt8[np.ndarray, "tile_h tile_w 3"]:
    scale = SIDE_PX / max(image.shape[:2])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    tile = cv2.resize(np.ascontiguousarray(image), None, fx=scale, fy=scale, interpolation=method)
    boxes = batch.boxes[number]
    for box, class_id, is_crowd in zip(boxes.xyxy, boxes.class_ids, boxes.is_crowd, strict=True):
        colour = CROWD_COLOUR if is_crowd else class_colour(int(class_id))
        draw_box(tile, box * scale, class_names[class_id], colour, thickness=2)
    return tile


def _grid(tiles: Sequence[UInt8[np.ndarray, "tile_h tile_w 3"]]) -> UInt8[np.ndarray, "h w 3"]:
    """Tiles of one size in rows, nearly square; white where none is left."""
    num_columns = math.ceil(math.sqrt(len(tiles)))
    missing = -len(tiles) % num_columns
    cells = [*tiles, *[np.full_like(tiles[0], 255)] * missing]
    rows = [np.hstack(cells[first : first + num_columns]) for first in range(0, len(cells), num_columns)]
    return np.vstack(rows)


def logger_options(names: Sequence[str], run: Path) -> dict[str, Any]:
    """Arguments of an Accelerator for these loggers. Raises MissingPackageError where accelerate would say nothing."""
    for name in names:
        if find_spec(name) is None:
            raise MissingPackageError(
                f"loggers: {name} is not installed; add it with: pip install {name}, or leave it out of loggers"
            )
    folders = ProjectConfiguration(project_dir=str(run), logging_dir=str(run / "loggers"))
    return {"log_with": list(names) or None, "project_config": folders}


def start_loggers(accelerator: Accelerator, run: Path, config: Config, first_step: int) -> None:
    """Open the loggers of the Accelerator; what TensorBoard has from `first_step` on is replaced."""
    options = {
        "tensorboard": {"purge_step": first_step},
        "wandb": {"name": run.name, "dir": str(run)},
        "mlflow": {"run_name": run.name},
    }
    accelerator.init_trackers(PROJECT, config=flat(config.model_dump(mode="json")), init_kwargs=options)


def finish_loggers(accelerator: Accelerator) -> None:
    """Flush them. (Accelerator.end_training would end the process group as well.)"""
    for logger in accelerator.trackers:
        logger.finish()


def flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, str | int | float]:
    """Nested values under dotted keys; what is neither a number nor text as JSON."""
    values: dict[str, str | int | float] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            values |= flat(value, f"{prefix}{key}.")
        else:
            values[prefix + key] = value if isinstance(value, str | int | float) else json.dumps(value)
    return values
