"""What every verb that runs a detector is told: the model, the engine, the thresholds; and the table of its times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from handeye.tools.command_line import Positional
from handeye.vision.evaluation.torch_session import open_detector
from handeye.vision.runtime.engines import EngineChoice
from handeye.vision.runtime.image_detector import ImageDetector, ModelFormat


@dataclass(frozen=True, kw_only=True)
class DetectorArguments:
    """The model and how it is run."""

    model: Positional[Path]
    """A native checkpoint (.safetensors), an ONNX file or TensorRT engine that handeye exported, or a foreign ONNX file
    with --model-format."""
    engine: EngineChoice = "auto"
    """Inference engine; auto takes the one that is usually fastest here. Checkpoints run in torch."""
    model_format: ModelFormat | None = None
    """Format of an ONNX file that another program exported: yolox has raw head values as its output; rtdetr, also of
    D-FINE's exporter, has boxes, scores and labels, and a second input with the size of the image."""
    score_threshold: float | None = None
    """Drop detections with a lower score; the default comes with the model."""
    iou_threshold: float | None = None
    """Of two boxes of a class that overlap more, drop the worse; the default comes with the model. Queries need none
    of it."""
    threads: int | None = None
    """Threads of the engine; by default one for each processor."""
    json: Path | None = None
    """Write the result to this file."""

    def open(self, *, clip_boxes: bool = True) -> ImageDetector:
        """The detector that these arguments ask for."""
        return open_detector(
            self.model,
            engine=self.engine,
            model_format=self.model_format,
            score_threshold=self.score_threshold,
            iou_threshold=self.iou_threshold,
            num_threads=self.threads,
            clip_boxes=clip_boxes,
        )


def print_stages(console: Console, stages: Mapping[str, Mapping[str, float]], title: str) -> None:
    """A table of time per stage: `stages` is {stage: {p50_ms, p95_ms, p99_ms}}."""
    table = Table(title=title, title_justify="left")
    for heading in ("stage", "p50 ms", "p95 ms", "p99 ms"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    for stage, times in stages.items():
        table.add_row(stage, *(f"{times[key]:.2f}" for key in ("p50_ms", "p95_ms", "p99_ms")))
    console.print(table)
