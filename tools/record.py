"""Record demonstrations of picking as a LeRobot data set: an expert with injected disturbances in the simulator.

Failed episodes are dropped. Giving the command again resumes a recording that was interrupted. Any value of the
configuration can be overridden behind it: `expert.disturbance.pulls_per_s=1`.

examples:
  handeye record --output runs/demonstrations --episodes 50 --workers 4
  handeye record --output runs/demonstrations --images
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import Progress

from handeye.robot.datasets.writer import EpisodeWriter
from handeye.robot.demonstration_sink import ImageSize
from handeye.robot.demonstrations import RecordConfig, next_seed, open_recording, record_episodes
from handeye.robot.pick import SHIPPED_DETECTOR
from handeye.robot.simulator.renderers import RendererKind
from handeye.tools.command_line import Positional
from handeye.vision.config import load_config
from handeye.vision.errors import UserError
from handeye.vision.files import write_json

SEEDS_FOR_EACH = 3
"""Gives up after this many times the wanted number of episodes."""


@dataclass(frozen=True)
class Arguments:
    """Arguments of `handeye record`."""

    output: Path
    """Folder of the data set; an unfinished recording in it is resumed."""
    config: Positional[Path | None] = None
    """Configuration of cell and expert; the defaults without one."""
    episodes: int = 50
    """Episodes that the data set is to hold."""
    seed: int = 0
    """Seed of the first episode; the next episodes take the seeds after it."""
    images: bool = False
    """Record the wrist camera, its depth and the scene camera too; much slower."""
    detector: Path | None = None
    """Detector as ONNX file; by default the one that ships with handeye."""
    renderer: Literal["auto", "gl", "rays"] = "auto"
    """How the simulated camera renders."""
    workers: int = 1
    """Number of processes; the data set does not depend on it."""
    json: Path | None = None
    """Write a summary to this file."""


def run(arguments: Arguments, overrides: list[str]) -> int:
    """Record; 0 when the data set is complete, 1 when it is not."""
    for name, value in (("episodes", arguments.episodes), ("workers", arguments.workers)):
        if value < 1:
            raise UserError(f"--{name} {value}: expected at least 1")
    if arguments.seed < 0:
        raise UserError(f"--seed {arguments.seed}: expected 0 or more")
    config = _read_config(arguments, overrides)
    image_size = ImageSize(config.image_height, config.image_width) if arguments.images else None
    detector = arguments.detector or SHIPPED_DETECTOR
    writer = open_recording(config, arguments.output, detector, image_size)
    console = Console(highlight=False, soft_wrap=True)
    dropped = _record(arguments, config, writer, detector, image_size, console)
    report = _describe(writer, arguments, dropped)
    for reason, count in dropped.items():
        console.print(f"dropped, {reason}: {count}")
    console.print(
        f"{arguments.output}: {report['episodes']} episodes, {report['frames']} frames, {report['hours']:.2f} h"
    )
    if arguments.json is not None:
        write_json(arguments.json, report)
    return 0 if report["episodes"] >= arguments.episodes else 1


def _read_config(arguments: Arguments, overrides: list[str]) -> RecordConfig:
    words = list(overrides)
    if arguments.renderer != RendererKind.AUTO.value:
        words.append(f"simulator.renderer={arguments.renderer}")
    return load_config(RecordConfig, arguments.config, words)


def _record(
    arguments: Arguments,
    config: RecordConfig,
    writer: EpisodeWriter,
    detector: Path,
    image_size: ImageSize | None,
    console: Console,
) -> Counter[str]:
    """Record until the data set is complete; counts the reasons why episodes were not kept."""
    dropped: Counter[str] = Counter()
    missing = arguments.episodes - writer.info.total_episodes
    if missing <= 0:
        return dropped
    first = next_seed(writer, arguments.seed)
    seeds = range(first, first + SEEDS_FOR_EACH * missing)
    with Progress(console=console) as progress:
        bar = progress.add_task("recording", total=arguments.episodes, completed=writer.info.total_episodes)
        for recorded in record_episodes(config, seeds, detector, image_size, workers=arguments.workers):
            if recorded.is_kept:
                writer.add(recorded.episode)
                progress.advance(bar)
            else:
                dropped[_why_dropped(recorded.result.reason, recorded.result.gate_violations)] += 1
            if writer.info.total_episodes >= arguments.episodes:
                break
    return dropped


def _why_dropped(reason: str | None, gate_violations: Any) -> str:
    return reason or "safety gates: " + ", ".join(chain(gate_violations))


def _describe(writer: EpisodeWriter, arguments: Arguments, dropped: Counter[str]) -> dict[str, Any]:
    info = writer.info
    return {
        "dataset": str(arguments.output),
        "episodes": info.total_episodes,
        "frames": info.total_frames,
        "hours": info.total_frames / info.fps / 3600,
        "fps": info.fps,
        "features": {key: list(feature.shape) for key, feature in info.recorded.items()},
        "dropped": dict(dropped),
    }
