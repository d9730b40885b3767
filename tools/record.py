"""Record demonstrations of picking into a LeRobot data set: an expert, disturbed on purpose, in the simulated cell.

What does not succeed is played but not kept. A recording that was cut off goes on where it ended when the command is
given again. Any value of the configuration can be given behind it: `expert.disturbance.pulls_per_s=1`.
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
from handeye.robot.demonstrations import RecordConfig, next_seed, open_recording, play_episodes
from handeye.robot.pick import SHIPPED_DETECTOR
from handeye.robot.simulator.rendering import RendererKind
from handeye.tools.command_line import Positional
from handeye.vision.config import load_config
from handeye.vision.errors import UserError
from handeye.vision.files import write_json

SEEDS_FOR_EACH = 3
"""Gives up when so many times the wanted number of episodes have been played."""


@dataclass(frozen=True)
class Arguments:
    """What `handeye record` is told."""

    output: Path
    """Folder of the data set; an unfinished recording in it is continued."""
    config: Positional[Path | None] = None
    """Configuration of cell and expert; without one all defaults hold."""
    episodes: int = 50
    """How many episodes the data set shall hold."""
    seed: int = 0
    """Seed of the first episode played; the next have the seeds after it."""
    images: bool = False
    """Record the wrist camera, its depth and a scene camera too; much slower."""
    detector: Path | None = None
    """Detector as ONNX file; by default the one that comes with handeye."""
    renderer: Literal["auto", "gl", "rays"] = "auto"
    """How the simulated camera draws."""
    workers: int = 1
    """Processes that share the episodes; the data set does not depend on it."""
    json: Path | None = None
    """Write what was recorded to this file too."""


def run(arguments: Arguments, overrides: list[str]) -> int:
    """Record; 0 when the data set holds as many episodes as wanted, 1 when it does not."""
    for name, value in (("episodes", arguments.episodes), ("workers", arguments.workers)):
        if value < 1:
            raise UserError(f"--{name} {value}: expected at least 1")
    if arguments.seed < 0:
        raise UserError(f"--seed {arguments.seed}: expected 0 or more")
    config = _read_config(arguments, overrides)
    pictures = ImageSize(config.picture_height, config.picture_width) if arguments.images else None
    detector = arguments.detector or SHIPPED_DETECTOR
    writer = open_recording(config, arguments.output, detector, pictures)
    console = Console(highlight=False, soft_wrap=True)
    dropped = _record(arguments, config, writer, detector, pictures, console)
    report = _describe(writer, arguments, dropped)
    for reason, count in dropped.items():
        console.print(f"played but not kept, {reason}: {count}")
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
    pictures: ImageSize | None,
    console: Console,
) -> Counter[str]:
    """Play until there are enough; the reasons of what was not kept, counted."""
    dropped: Counter[str] = Counter()
    missing = arguments.episodes - writer.info.total_episodes
    if missing <= 0:
        return dropped
    first = next_seed(writer, arguments.seed)
    seeds = range(first, first + SEEDS_FOR_EACH * missing)
    with Progress(console=console) as progress:
        bar = progress.add_task("recording", total=arguments.episodes, completed=writer.info.total_episodes)
        for played in play_episodes(config, seeds, detector, pictures, workers=arguments.workers):
            if played.is_kept:
                writer.add(played.episode)
                progress.advance(bar)
            else:
                dropped[_why_dropped(played.result.reason, played.result.gate_violations)] += 1
            if writer.info.total_episodes >= arguments.episodes:
                break
    return dropped


def _why_dropped(reason: str | None, gate_violations: Any) -> str:
    return reason or "gates spoke: " + ", ".join(chain(gate_violations))


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
