"""COCO metrics of a model on an annotated data set, by the protocol with which detectors publish their figures.

Boxes are not clipped to the image, every score above 0.001 counts, overlapping boxes of a class are suppressed at
an IoU of 0.65 and COCO counts the best 100 of an image.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import replace as changed
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from handeye.tools.detector_arguments import DetectorArguments, print_stages
from handeye.vision.evaluation.average_precision import CocoMetrics, GroundTruth, evaluate_boxes
from handeye.vision.files import write_json
from handeye.vision.images import read_image
from handeye.vision.runtime.detections import Detections
from handeye.vision.runtime.image_detector import ImageDetector, stage_percentiles


@dataclass(frozen=True, kw_only=True)
class Arguments(DetectorArguments):
    """What `handeye evaluate` takes."""

    annotations: Path
    """COCO file with the true boxes."""
    images: Path
    """Folder of the images that it names."""
    score_threshold: float | None = 0.001
    """Drop detections with a lower score; the published protocols keep nearly all."""
    iou_threshold: float | None = 0.65
    """Of two boxes of a class that overlap more, drop the worse."""


def run(arguments: Arguments) -> int:
    """Detect in every image, compare with the annotations, print and write the figures."""
    console = Console()
    ground_truth = GroundTruth(arguments.annotations)
    detector = arguments.open(clip_boxes=False)
    ground_truth.category_of_class(detector.class_names)  # classes that do not match are told before the work
    detector.warm_up()
    found, stages_s = detect_in_images(detector, ground_truth, arguments.images)
    metrics = evaluate_boxes(ground_truth, found)
    stages = stage_percentiles(stages_s)
    print_metrics(console, metrics, title=f"{arguments.model.name}, {len(found)} images, {detector.engine}")
    print_stages(console, stages, title=f"time per image, {detector.session.num_threads} threads")
    if arguments.json is not None:
        conditions = {
            "images": len(found),
            "engine": detector.engine,
            "threads": detector.session.num_threads,
            "score_threshold": detector.score_threshold,
            "iou_threshold": detector.iou_threshold,
            "AP_of_class": metrics.AP_of_class,
            "stages": stages,
        }
        write_json(arguments.json, metrics.summary() | conditions)
    return 0


def detect_in_images(
    detector: ImageDetector, ground_truth: GroundTruth, folder: Path
) -> tuple[dict[int, Detections], list[Mapping[str, float]]]:
    """Detections by image id, and the seconds of each stage for each image. Raises SourceError for a bad image."""
    found: dict[int, Detections] = {}
    stages_s = []
    progress = Console(stderr=True)
    for image_id, file_name in track(
        ground_truth.file_names().items(),
        "detecting",
        console=progress,
        transient=True,
        disable=not progress.is_terminal,
    ):
        started = time.perf_counter()
        image_rgb = read_image(folder / file_name)
        read_s = time.perf_counter() - started
        found[image_id] = detector(image_rgb)
        stages_s.append(changed(detector.times, read=read_s).by_name())
    return found, stages_s


def print_metrics(console: Console, metrics: CocoMetrics, title: str) -> None:
    """The twelve figures in COCO's order; -1 means that nothing of that size is annotated."""
    table = Table(title=title, title_justify="left", show_header=False)
    figures = list(metrics.summary().items())
    for precision, recall in zip(figures[:6], figures[6:], strict=True):
        table.add_row(precision[0], f"{precision[1]:.4f}", recall[0], f"{recall[1]:.4f}")
    console.print(table)
