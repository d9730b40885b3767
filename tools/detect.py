"""Run a detector on an image, a folder, a quoted pattern, a video, a camera or a stream URL.

Writes annotated images or an annotated mp4, and detections.jsonl with one line per image, into --output.

examples:
  handeye detect vision/weights/tabletop_nano.onnx tests/data/video/cubes.mp4
  handeye detect yolox_s.safetensors "shots/*.jpg" --output runs/shots --score-threshold 0.4
  handeye detect model.onnx 0 --classes person,cup --frames 100
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

import handeye
from handeye.tools.stream_files import StreamFiles, box_rows
from handeye.tools.stream_run import StreamArguments, report_stream, run_stream
from handeye.vision.evaluation.torch_session import AttentionMaps
from handeye.vision.runtime.detections import Detections
from handeye.vision.runtime.draw import draw_attention
from handeye.vision.runtime.sources import StreamImage

LINES_NAME = "detections.jsonl"


@dataclass(frozen=True, kw_only=True)
class Arguments(StreamArguments):
    """Arguments of `handeye detect`."""

    output: Path = Path("runs/detect")
    """Folder for the annotated images or video and for detections.jsonl."""
    show: Literal["boxes", "attention"] = "boxes"
    """What to draw: boxes, or boxes and the attention of each query (checkpoints of detr, rtdetr and dfine only)."""


def run(arguments: Arguments) -> int:
    """Detect until the source ends; a source that breaks off keeps what was done and ends with an error.

    Images that cannot be read are named and skipped; then the exit code is 1.
    """
    output, source = arguments.output, arguments.source
    detector = arguments.load()
    with handeye.stream(detector, source, timeout_s=arguments.timeout_s, skip_broken=True) as frames:
        attention = None
        if arguments.show == "attention" and arguments.draw:
            attention = AttentionMaps(detector.image_detector)
        detector.warm_up()
        with StreamFiles(output, source, frames, lines_name=LINES_NAME, draw=arguments.draw) as files:
            writing = DetectionWriter(detector, attention, files)
            done = run_stream(arguments, frames, writing, "detecting")
    report_stream(arguments, detector, done, output, {"detections": writing.num_detections})
    if done.failure is not None:
        raise done.failure
    return 1 if done.num_broken else 0


@dataclass(slots=True)
class DetectionWriter:
    """Draws and writes the detections of each image."""

    detector: handeye.Detector
    attention: AttentionMaps | None
    files: StreamFiles
    num_detections: int = 0

    def __call__(self, image: StreamImage, detections: Detections) -> None:
        """Write one image."""
        drawn = self._drawn(image.image_rgb, detections) if self.files.draw else None
        self.files.write(image, {"detections": box_rows(detections)}, drawn)
        self.num_detections += len(detections)

    def _drawn(self, image_rgb: np.ndarray, detections: Detections) -> np.ndarray:
        if self.attention is None:
            return handeye.draw(image_rgb, detections)
        return draw_attention(image_rgb, detections, self.attention(image_rgb, self.detector.row_index))
