"""What verbs that run a detector along a stream share: their arguments, the loop over images, the report of times."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TypeAlias

from rich.console import Console
from rich.progress import Progress

from handeye.tools.command_line import Positional
from handeye.tools.detector_arguments import DetectorArguments, print_stages
from handeye.vision.errors import SourceError
from handeye.vision.files import write_json
from handeye.vision.runtime.image_detector import ImageDetector, stage_percentiles
from handeye.vision.runtime.sources import Stream, StreamImage

Step: TypeAlias = Callable[[StreamImage, float], Mapping[str, float]]
"""Does all that is to be done with one image, which took so many seconds to come; returns its seconds by stage."""


@dataclass(frozen=True, kw_only=True)
class StreamArguments(DetectorArguments):
    """The source beside the model."""

    source: Positional[str]
    """Image, folder, quoted pattern ("shots/*.png"), video file, camera index (0) or address (rtsp://...)."""
    draw: bool = True
    """Write annotated images or video; --no-draw leaves only the JSON lines."""
    frames: int | None = None
    """Stop after this many images; a camera otherwise runs until Ctrl-C."""
    timeout_s: float = 10.0
    """How long a camera may take to open or to give its next frame, in seconds."""


@dataclass(slots=True)
class StreamRun:
    """What was done: the stages of each image and the whole, in seconds, and how the source broke off if it did."""

    stages_s: list[Mapping[str, float]] = field(default_factory=list)
    wall_s: float = 0.0
    failure: SourceError | None = None


def run_stream(arguments: StreamArguments, stream: Stream, step: Step, doing: str) -> StreamRun:
    """Give the step image after image until the source ends, breaks off (SourceError) or Ctrl-C is pressed.

    A source that gives no image at all raises its SourceError.
    """
    errors, done = Console(stderr=True), StreamRun()
    started = time.perf_counter()
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as progress:
        task = progress.add_task(doing, total=arguments.frames or stream.num_images)
        try:
            for image, read_s in islice(_timed(stream), arguments.frames):
                done.stages_s.append(step(image, read_s))
                progress.advance(task)
        except SourceError as error:
            done.failure = error
        except KeyboardInterrupt:
            errors.print("stopped", highlight=False)
    done.wall_s = time.perf_counter() - started
    if not done.stages_s:
        raise done.failure or SourceError(f"{arguments.source}: stopped before the first image")
    return done


def _timed(stream: Stream) -> Iterator[tuple[StreamImage, float]]:
    """Each image and the seconds it took to come, which for a camera includes waiting for it."""
    images = iter(stream)
    while True:
        started = time.perf_counter()
        image = next(images, None)
        if image is None:
            return
        yield image, time.perf_counter() - started


def report_stream(
    arguments: StreamArguments, detector: ImageDetector, done: StreamRun, output: Path, found: Mapping[str, int]
) -> None:
    """Print times and what was `found` ({what: how many}), and write --json."""
    stages, num_images = stage_percentiles(done.stages_s), len(done.stages_s)
    fps = num_images / sum(sum(call.values()) for call in done.stages_s)
    console = Console(highlight=False, soft_wrap=True)
    print_stages(console, stages, title=f"{detector.engine}, {detector.session.num_threads} threads")
    counts = ", ".join(f"{number} {what}" for what, number in ({"images": num_images} | dict(found)).items())
    console.print(f"{counts}: {fps:.1f} fps; {num_images / done.wall_s:.1f} fps with drawing and writing")
    console.print(f"results in {output}")
    if arguments.json is not None:
        result = {
            "images": num_images,
            "fps": fps,
            "wall_fps": num_images / done.wall_s,
            "engine": detector.engine,
            "threads": detector.session.num_threads,
            **found,
            "output": str(output),
            "stages": stages,
        }
        write_json(arguments.json, result)
