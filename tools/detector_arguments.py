"""Arguments of every verb that runs a detector: the model, the engine, the thresholds; and the table of its times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

import handeye
from handeye.tools.command_line import Positional
from handeye.vision.runtime.engines import EngineChoice
from handeye.vision.runtime.image_detector import ModelFormat


@dataclass(frozen=True, kw_only=True)
class DetectorArguments:
    """The model and how it is run."""

    model: Positional[Path]
    """Native checkpoint (.safetensors), ONNX file, or TensorRT engine. An ONNX file that another program exported needs
    --model-format."""
    engine: EngineChoice = "auto"
    """Inference engine; auto takes the fastest that is installed. Checkpoints run in torch."""
    model_format: ModelFormat | None = None
    """Format of an ONNX file that another program exported: yolox, of which the first run shows whether its boxes
    are decoded (yolox-raw and yolox-decoded state it where it does not show); rtdetr (and D-FINE) gives boxes, scores
    and labels, and takes the size of the image as second input."""
    score_threshold: float | None = None
    """Drop detections with a lower score; the default comes with the model."""
    iou_threshold: float | None = None
    """IoU threshold of NMS; the default comes with the model. Query-based detectors need no NMS."""
    threads: int | None = None
    """Threads of the engine; by default one per processor."""
    json: Path | None = None
    """Write the result to this file."""

    def load(self) -> handeye.Detector:
        """The detector that these arguments ask for."""
        return handeye.load(
            self.model,
            engine=self.engine,
            model_format=self.model_format,
            score_threshold=self.score_threshold,
            iou_threshold=self.iou_threshold,
            threads=self.threads,
        )


def print_stages(console: Console, stages: Mapping[str, Mapping[str, float]], title: str) -> None:
    """A table of time per stage: `stages` is {stage: {p50_ms, p95_ms, p99_ms}}."""
    table = Table(title=title, title_justify="left")
    for heading in ("stage", "p50 ms", "p95 ms", "p99 ms"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    for stage, times in stages.items():
        table.add_row(stage, *(f"{times[key]:.2f}" for key in ("p50_ms", "p95_ms", "p99_ms")))
    console.print(table)
