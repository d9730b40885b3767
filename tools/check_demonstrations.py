"""Find errors in recorded demonstrations: numbers, clocks, video streams, joint limits and statistics.

Reads a data set of LeRobot (v3.0, v2.1, v2.0) or ACT (HDF5) whole. Exit code 0: nothing found; 1: problems, which are
listed; 2: no data set that can be read.

examples:
  handeye check-demonstrations runs/demonstrations --json report.json
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from handeye.robot.config import WorkCellConfig
from handeye.robot.datasets.dataset_checks import DemonstrationReport, check_demonstrations
from handeye.robot.datasets.episode_checks import CheckSettings, number_names
from handeye.robot.datasets.format import BOOK_KEEPING
from handeye.robot.datasets.reader import EpisodeDataset
from handeye.robot.types import ACTION_KEY, STATE_KEY
from handeye.tools.command_line import Positional
from handeye.vision.errors import DatasetError, UserError
from handeye.vision.files import write_json

LISTED = 10


@dataclass(frozen=True)
class Arguments:
    """Arguments of `handeye check-demonstrations`."""

    dataset: Positional[Path]
    """Folder of the data set."""
    shortest_s: float = 1.0
    """List episodes shorter than this."""
    frozen_s: float = 1.0
    """List video streams that freeze for this long while others continue."""
    state_key: str = STATE_KEY
    """Name of the state in the data set."""
    action_key: str = ACTION_KEY
    """Name of the actions."""
    fps: int | None = None
    """Frames per second where the files do not hold it: replay buffers; ACT's have 50 if nothing is said."""
    json: Path | None = None
    """Write the result to this file."""


def run(arguments: Arguments) -> int:
    """Check and print; 1 for problems."""
    if arguments.shortest_s < 0 or arguments.frozen_s <= 0:
        raise UserError("--shortest-s must not be negative, --frozen-s must be above 0")
    keys = {STATE_KEY: arguments.state_key, ACTION_KEY: arguments.action_key}
    dataset = EpisodeDataset.open(arguments.dataset, keys, arguments.fps)
    if not dataset.num_episodes:
        raise DatasetError(f"{arguments.dataset}: holds no episode")
    settings = CheckSettings(arguments.shortest_s, arguments.frozen_s)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("reading the episodes", total=dataset.num_episodes)
        report = check_demonstrations(dataset, WorkCellConfig(), settings, lambda: progress.advance(bar))
    result = summarise(dataset, report)
    _print_result(arguments.dataset, result, report)
    if arguments.json is not None:
        write_json(arguments.json, result)
    return 1 if report.findings else 0


def summarise(dataset: EpisodeDataset, report: DemonstrationReport) -> dict[str, Any]:
    """What --json holds."""
    frames = sum(report.lengths.values())
    kinds = Counter(finding.kind for finding in report.findings)
    return {
        "episodes": dataset.num_episodes,
        "readable_episodes": len(report.lengths),
        "frames": frames,
        "hours": frames / dataset.fps / 3600,
        "fps": dataset.fps,
        "shortest_s": min(report.lengths.values(), default=0) / dataset.fps,
        "longest_s": max(report.lengths.values(), default=0) / dataset.fps,
        "tasks": dataset.tasks,
        "cameras": [key for key, feature in dataset.features.items() if feature.holds_images],
        "numbers": _describe_numbers(dataset, report),
        "problems": dict(kinds.most_common()),
        "findings": [asdict(finding) for finding in report.findings],
    }


def _describe_numbers(dataset: EpisodeDataset, report: DemonstrationReport) -> dict[str, dict[str, float]]:
    """Minimum, maximum, mean and standard deviation of each recorded number, over the readable frames."""
    described = {}
    for key, row in report.statistics.items():
        feature = dataset.features[key]
        if key in BOOK_KEEPING or feature.holds_images:
            continue
        columns = [np.asarray(row[name]).reshape(-1).tolist() for name in ("min", "max", "mean", "std")]
        for name, *values in zip(number_names(key, feature), *columns, strict=True):
            label = name if name.startswith(key) else f"{key} {name}"
            described[label] = dict(zip(("min", "max", "mean", "std"), values, strict=True))
    return described


def _print_result(origin: Path, result: dict[str, Any], report: DemonstrationReport) -> None:
    """The numbers, then the first findings of each kind."""
    console = Console(highlight=False, soft_wrap=True)
    length = f"{result['shortest_s']:.1f} to {result['longest_s']:.1f} s"
    console.print(
        f"{origin}: {result['episodes']} episodes of {length}, {result['frames']} frames at {result['fps']} Hz; "
        f"cameras: {', '.join(result['cameras']) or 'none'}",
        markup=False,
    )
    table = Table("number", "smallest", "largest", "mean", "deviation")
    for name, values in result["numbers"].items():
        table.add_row(name, *(f"{values[column]:.4g}" for column in ("min", "max", "mean", "std")))
    console.print(table)
    for kind, count in result["problems"].items():
        console.print(f"{count} x {kind}", markup=False)
        found = [finding for finding in report.findings if finding.kind == kind]
        for finding in found[:LISTED]:
            where = "" if finding.episode is None else f"episode {finding.episode}: "
            console.print(f"  {where}{finding.item}", markup=False)
        if count > LISTED:
            console.print(f"  and {count - LISTED} more")
    if not report.findings:
        console.print("nothing wrong found")
