"""Show demonstrations on a self-contained HTML page: episodes, statistics, time series and frames.

examples:
  handeye show-demonstrations runs/demonstrations --output demonstrations.html
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from handeye.robot.datasets.reader import EpisodeDataset
from handeye.robot.viewer.demonstration_page import spread, write_demonstration_page
from handeye.tools.command_line import Positional
from handeye.vision.errors import DatasetError, UserError
from handeye.vision.files import write_json

SHOWN = 8


@dataclass(frozen=True)
class Arguments:
    """Arguments of `handeye show-demonstrations`."""

    dataset: Positional[Path]
    """Folder of the data set."""
    output: Path
    """HTML page to write."""
    episodes: tuple[int, ...] = ()
    """Episodes to show with time series and frames; by default a few, evenly spread."""
    fps: int | None = None
    """Frames per second where the files do not hold it: replay buffers; ACT's have 50 if nothing is said."""
    json: Path | None = None
    """Write a summary and the episodes shown to this file."""


def run(arguments: Arguments) -> int:
    """Write the page."""
    if arguments.output.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--output {arguments.output}: expected a name that ends in .html")
    dataset = EpisodeDataset.open(arguments.dataset, fps=arguments.fps)
    if not dataset.num_episodes:
        raise DatasetError(f"{arguments.dataset}: holds no episode")
    chosen = list(arguments.episodes) or spread(dataset.num_episodes, SHOWN)
    write_demonstration_page(arguments.output, dataset, chosen)
    if arguments.json is not None:
        counts = {"episodes": dataset.num_episodes, "frames": dataset.num_frames, "fps": dataset.fps}
        write_json(arguments.json, {"page": str(arguments.output), **counts, "shown": chosen})
    size_mb = arguments.output.stat().st_size / 1e6
    console = Console(highlight=False, soft_wrap=True)
    console.print(
        f"{arguments.output}: {len(chosen)} of {dataset.num_episodes} episodes, {size_mb:.1f} MB", markup=False
    )
    return 0
