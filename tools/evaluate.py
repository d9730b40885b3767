"""COCO metrics (AP, AR) of a model on an annotated data set.

Measured is what `handeye detect` runs: boxes end at the edges of the image, and NMS has the model's own threshold.
--protocol published measures as the literature does: boxes are not cut, and NMS has an IoU threshold of 0.65. By either
protocol AP ranks every score above 0.001, and COCO counts the best 100 detections of each class in an image; precision
and recall are those at the model's score threshold.

examples:
  handeye evaluate model.onnx --annotations instances_val2017.json --images val2017
  handeye evaluate model.onnx --annotations instances_val2017.json --images val2017 --protocol published
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
from handeye.tools.detector_arguments import DetectorArguments, print_stages
from handeye.vision.evaluation.protocol import ProtocolName
from handeye.vision.files import write_json

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


@dataclass(frozen=True, kw_only=True)
class Arguments(DetectorArguments):
    """Arguments of `handeye evaluate`."""

    annotations: Path
    """The ground truth: a COCO file, a Pascal VOC folder or image list, a YOLO data.yaml (its split val) or folder."""
    images: Path
    """Folder of the images that it names."""
    protocol: ProtocolName = "deployed"
    """deployed measures the boxes as `handeye detect` gives them, published as the literature does."""
    score_threshold: float | None = None
    """Where precision and recall are taken; by default the model's own threshold."""
    iou_threshold: float | None = None
    """IoU threshold of NMS; by default the protocol's."""


def run(arguments: Arguments) -> int:
    """Evaluate, print and write the metrics."""
    result = handeye.evaluate(
        arguments.model,
        arguments.annotations,
        arguments.images,
        engine=arguments.engine,
        model_format=arguments.model_format,
        protocol=arguments.protocol,
        score_threshold=arguments.score_threshold,
        iou_threshold=arguments.iou_threshold,
        threads=arguments.threads,
        show_progress=True,
    )
    console = Console()
    title = f"{arguments.model.name}, {result['images']} images, protocol {result['protocol']}, {result['engine']}"
    print_metrics(console, result, title)
    print_stages(console, result["stages"], title=f"time per image, {result['threads']} threads")
    if arguments.json is not None:
        write_json(arguments.json, result)
    return 0


def print_metrics(console: Console, result: Mapping[str, Any], title: str) -> None:
    """The twelve metrics in COCO's order; -1 means that nothing of that size is annotated."""
    table = Table(title=title, title_justify="left", show_header=False)
    for precision, recall in zip(METRICS[:6], METRICS[6:], strict=True):
        table.add_row(precision, f"{result[precision]:.4f}", recall, f"{result[recall]:.4f}")
    for name in ("precision", "recall"):
        value = "undefined" if result[name] is None else f"{result[name]:.4f}"
        table.add_row(name, value, "at score", f"{result['score_threshold']:.2f}")
    console.print(table)
