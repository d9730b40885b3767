"""What verbs that run a detector along a stream share: their arguments, the loop over frames, the report of times."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

import handeye
from handeye._stream import FrameStream
from handeye.tools.command_line import Positional
from handeye.tools.detector_arguments import DetectorArguments, print_stages
from handeye.vision.errors import SourceError
from handeye.vision.files import write_json
from handeye.vision.runtime.image_detector import stage_percentiles
from handeye.vision.runtime.sources import StreamImage

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class StreamArguments(DetectorArguments):
    """The source beside the model."""

    source: Positional[str]
    """Image, folder, quoted pattern ("shots/*.png"), video file, camera index (0) or URL (rtsp://...)."""
    classes: str | None = None
    """Keep only these classes: names separated by commas."""
    draw: bool = True
    """Write annotated images or video; --no-draw writes only the JSON lines."""
    frames: int | None = None
    """Stop after this many frames; a camera otherwise runs until Ctrl-C."""
    timeout_s: float = 10.0
    """How long a camera may take to open or to give its next frame, in seconds."""

    def load(self) -> handeye.Detector:
        """The detector that these arguments ask for, with the chosen classes."""
        names = None if self.classes is None else [name.strip() for name in self.classes.split(",")]
        return handeye.load(
            self.model,
            engine=self.engine,
            model_format=self.model_format,
            score_threshold=self.score_threshold,
            iou_threshold=self.iou_threshold,
            classes=names,
            threads=self.threads,
        )


@dataclass(slots=True)
class StreamRun:
    """The stages of each frame and the whole run, in seconds; how many images could not be read; how the source broke
    off if it did."""

    stages_s: list[Mapping[str, float]] = field(default_factory=list)
    wall_s: float = 0.0
    num_broken: int = 0
    failure: SourceError | None = None


def run_stream(
    arguments: StreamArguments, stream: FrameStream[Result], step: Callable[[StreamImage, Result], None], doing: str
) -> StreamRun:
    """Give the step each frame and its result until the source ends, breaks off (SourceError) or Ctrl-C is pressed.

    A source that gives no frame at all raises its SourceError.
    """
    errors, done, num_told = Console(stderr=True, soft_wrap=True, highlight=False, markup=False), StreamRun(), 0

    def tell() -> int:
        for note in stream.notes[num_told:]:
            errors.print(f"handeye: {note}")
        return len(stream.notes)

    started = time.perf_counter()
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as progress:
        task = progress.add_task(doing, total=arguments.frames or stream.num_images)
        try:
            for frame, result in islice(stream, arguments.frames):
                step(frame, result)
                done.stages_s.append(stream.stage_times_s)
                progress.advance(task)
                num_told = tell()
        except SourceError as error:
            done.failure = error
        except KeyboardInterrupt:
            errors.print("stopped")
        num_told = tell()
    done.num_broken = stream.num_broken
    done.wall_s = time.perf_counter() - started
    if not done.stages_s:
        raise done.failure or SourceError(f"{arguments.source}: stopped before the first image")
    return done


def report_stream(
    arguments: StreamArguments, detector: handeye.Detector, done: StreamRun, output: Path, found: Mapping[str, int]
) -> None:
    """Print times and counts (`found` is {what: how many}), and write --json."""
    stages, num_images = stage_percentiles(done.stages_s), len(done.stages_s)
    fps = num_images / sum(sum(call.values()) for call in done.stages_s)
    console = Console(highlight=False, soft_wrap=True)
    print_stages(console, stages, title=f"{detector.engine}, {detector.threads} threads")
    counted = {"images": num_images} | ({"skipped": done.num_broken} if done.num_broken else {}) | dict(found)
    counts = ", ".join(f"{number} {what}" for what, number in counted.items())
    console.print(f"{counts}: {fps:.1f} fps; {num_images / done.wall_s:.1f} fps with drawing and writing")
    console.print(f"results in {output}")
    if arguments.json is not None:
        result = {
            "images": num_images,
            "skipped": done.num_broken,
            "fps": fps,
            "wall_fps": num_images / done.wall_s,
            "engine": detector.engine,
            "threads": detector.threads,
            **found,
            "output": str(output),
            "stages": stages,
        }
        write_json(arguments.json, result)
