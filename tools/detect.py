"""Run a model on an image, a folder, a quoted pattern, a video, a camera index or a stream address.

Writes annotated images or an annotated mp4, and one JSON line for each image with its detections, into --output.
Without --model-format the model is a checkpoint or an ONNX file that handeye exported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import replace as changed
from pathlib import Path
from typing import Literal

import numpy as np

from handeye.tools.stream_files import StreamFiles, box_rows
from handeye.tools.stream_run import StreamArguments, report_stream, run_stream
from handeye.vision.evaluation.torch_session import AttentionMaps
from handeye.vision.runtime.detections import Detections
from handeye.vision.runtime.draw import draw_attention, draw_detections
from handeye.vision.runtime.image_detector import ImageDetector
from handeye.vision.runtime.sources import StreamImage, open_stream

LINES_NAME = "detections.jsonl"


@dataclass(frozen=True, kw_only=True)
class Arguments(StreamArguments):
    """What `handeye detect` takes."""

    output: Path = Path("runs/detect")
    """Folder for the annotated images or video and for detections.jsonl."""
    show: Literal["boxes", "attention"] = "boxes"
    """What is drawn: boxes, or also where each object's query looked (checkpoints of detr, rtdetr and dfine only)."""


def run(arguments: Arguments) -> int:
    """Detect until the source ends; a source that breaks off keeps what was done and ends with an error."""
    output, source = arguments.output, arguments.source
    with open_stream(source, arguments.timeout_s) as stream:
        detector = arguments.open()
        attention = AttentionMaps(detector) if arguments.show == "attention" and arguments.draw else None
        detector.warm_up()
        with StreamFiles(output, source, lines_name=LINES_NAME, fps=stream.fps, draw=arguments.draw) as files:
            detecting = Detecting(detector, attention, files)
            done = run_stream(arguments, stream, detecting, "detecting")
    report_stream(arguments, detector, done, output, {"detections": detecting.num_detections})
    if done.failure is not None:
        raise done.failure
    return 0


@dataclass(slots=True)
class Detecting:
    """What is done with each image: detect, draw, write."""

    detector: ImageDetector
    attention: AttentionMaps | None
    files: StreamFiles
    num_detections: int = 0

    def __call__(self, image: StreamImage, read_s: float) -> Mapping[str, float]:
        """Seconds by stage."""
        detections = self.detector(image.image_rgb)
        stages_s = changed(self.detector.times, read=read_s).by_name()
        drawn = self._drawn(image.image_rgb, detections) if self.files.draw else None
        self.files.write(image, {"detections": box_rows(detections)}, drawn)
        self.num_detections += len(detections)
        return stages_s

    def _drawn(self, image_rgb: np.ndarray, detections: Detections) -> np.ndarray:
        if self.attention is None:
            return draw_detections(image_rgb, detections)
        return draw_attention(image_rgb, detections, self.attention(image_rgb, self.detector.row_index))
