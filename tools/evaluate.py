"""COCO metrics (AP, AR) of a model on an annotated data set.

The protocol is that of published results: boxes are not clipped to the image, every score above 0.001 counts, NMS has
an IoU threshold of 0.65, and COCO counts the best 100 detections of an image.

examples:
  handeye evaluate model.onnx --annotations instances_val2017.json --images val2017
  handeye evaluate runs/bccd_nano/best.safetensors --annotations val.json --images images --json metrics.json
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import handeye
from handeye._detect import EVALUATION_IOU, EVALUATION_SCORE
from handeye.tools.detector_arguments import DetectorArguments, print_stages
from handeye.vision.files import write_json

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


@dataclass(frozen=True, kw_only=True)
class Arguments(DetectorArguments):
    """Arguments of `handeye evaluate`."""

    annotations: Path
    """The ground truth: a COCO file, a Pascal VOC folder or image list, a YOLO data.yaml (its split val) or folder."""
    images: Path
    """Folder of the images that it names."""
    score_threshold: float | None = EVALUATION_SCORE
    """Drop detections with a lower score; published protocols keep nearly all."""
    iou_threshold: float | None = EVALUATION_IOU
    """IoU threshold of NMS."""


def run(arguments: Arguments) -> int:
    """Evaluate, print and write the metrics."""
    result = handeye.evaluate(
        arguments.model,
        arguments.annotations,
        arguments.images,
        engine=arguments.engine,
        model_format=arguments.model_format,
        score_threshold=arguments.score_threshold,
        iou_threshold=arguments.iou_threshold,
        threads=arguments.threads,
        show_progress=True,
    )
    console = Console()
    print_metrics(console, result, title=f"{arguments.model.name}, {result['images']} images, {result['engine']}")
    print_stages(console, result["stages"], title=f"time per image, {result['threads']} threads")
    if arguments.json is not None:
        write_json(arguments.json, result)
    return 0


def print_metrics(console: Console, result: Mapping[str, Any], title: str) -> None:
    """The twelve metrics in COCO's order; -1 means that nothing of that size is annotated."""
    table = Table(title=title, title_justify="left", show_header=False)
    for precision, recall in zip(METRICS[:6], METRICS[6:], strict=True):
        table.add_row(precision, f"{result[precision]:.4f}", recall, f"{result[recall]:.4f}")
    console.print(table)
