"""Run a model on an image, a folder, a quoted pattern, a video, a camera index or a stream address.

Writes annotated images or an annotated mp4, and one JSON line for each image with its detections, into --output.
Without --model-format the model is a checkpoint or an ONNX file that handeye exported.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from dataclasses import replace as changed
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from tools.command_line import Positional
from tools.detection_files import DetectionFiles
from tools.detector_arguments import DetectorArguments, print_stages
from vision.errors import SourceError
from vision.evaluation.speed import stage_percentiles
from vision.files import write_json
from vision.runtime.camera_stream import StreamImage
from vision.runtime.image_detector import ImageDetector
from vision.runtime.stream import Stream, open_stream


@dataclass(frozen=True, kw_only=True)
class Arguments(DetectorArguments):
    """What `handeye detect` takes."""

    source: Positional[str]
    """Image, folder, quoted pattern ("shots/*.png"), video file, camera index (0) or address (rtsp://...)."""
    output: Path = Path("runs/detect")
    """Folder for the annotated images or video and for detections.jsonl."""
    draw: bool = True
    """Write annotated images or video; --no-draw leaves only the JSON lines."""
    frames: int | None = None
    """Stop after this many images; a camera otherwise runs until Ctrl-C."""
    timeout_s: float = 10.0
    """How long a camera may take to open or to give its next frame, in seconds."""


@dataclass
class Tally:
    """What was done so far: the stages of each image in seconds."""

    stages_s: list[Mapping[str, float]]
    num_detections: int = 0


def run(arguments: Arguments) -> int:
    """Detect until the source ends; a source that breaks off keeps what was done and ends with an error."""
    tally = Tally([])
    with open_stream(arguments.source, arguments.timeout_s) as stream:
        detector = arguments.open()
        detector.warm_up()
        started = time.perf_counter()
        failure = detect_stream(arguments, stream, detector, tally)
        wall_s = time.perf_counter() - started
    if not tally.stages_s:
        raise SourceError(f"{arguments.source}: stopped before the first image")
    _report(arguments, detector, tally, wall_s)
    if failure is not None:
        raise failure
    return 0


def detect_stream(arguments: Arguments, stream: Stream, detector: ImageDetector, tally: Tally) -> SourceError | None:
    """Detect in image after image into files; returns the error with which the source broke off, if it did.

    A source that gives no image at all leaves no file: its SourceError is raised.
    """
    errors = Console(stderr=True)
    with (
        DetectionFiles(arguments.output, arguments.source, fps=stream.fps, draw=arguments.draw) as files,
        Progress(console=errors, transient=True, disable=not errors.is_terminal) as progress,
    ):
        task = progress.add_task("detecting", total=arguments.frames or stream.num_images)
        try:
            for image, read_s in islice(_timed(stream), arguments.frames):
                detections = detector(image.image_rgb)
                tally.stages_s.append(changed(detector.times, read=read_s).by_name())
                tally.num_detections += len(detections)
                files.write(image, detections)
                progress.advance(task)
        except SourceError as error:
            if not tally.stages_s:
                raise
            return error
        except KeyboardInterrupt:
            errors.print("stopped", highlight=False)
    return None


def _timed(stream: Stream) -> Iterator[tuple[StreamImage, float]]:
    """Each image and the seconds it took to come, which for a camera includes waiting for it."""
    images = iter(stream)
    while True:
        started = time.perf_counter()
        image = next(images, None)
        if image is None:
            return
        yield image, time.perf_counter() - started


def _report(arguments: Arguments, detector: ImageDetector, tally: Tally, wall_s: float) -> None:
    stages = stage_percentiles(tally.stages_s)
    num_images = len(tally.stages_s)
    fps = num_images / sum(sum(call.values()) for call in tally.stages_s)
    console = Console()
    print_stages(console, stages, title=f"{detector.engine}, {detector.session.num_threads} threads")
    console.print(
        f"{num_images} images, {tally.num_detections} detections: {fps:.1f} fps; "
        f"{num_images / wall_s:.1f} fps with drawing and writing",
        highlight=False,
    )
    console.print(f"results in {arguments.output}", highlight=False, soft_wrap=True)
    if arguments.json is not None:
        result = {
            "images": num_images,
            "fps": fps,
            "wall_fps": num_images / wall_s,
            "engine": detector.engine,
            "threads": detector.session.num_threads,
            "detections": tally.num_detections,
            "output": str(arguments.output),
            "stages": stages,
        }
        write_json(arguments.json, result)
