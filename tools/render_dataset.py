"""Render labelled images of cubes on a table in the simulator, with domain randomisation, as a COCO data set.

examples:
  handeye render-dataset --output runs/cubes --images 1000 --workers 4
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from handeye.vision.errors import ConfigError
from handeye.vision.files import write_json

console = Console()


@dataclass(frozen=True)
class Arguments:
    """Arguments of `handeye render-dataset`; the same command resumes an interrupted one."""

    output: Path
    """Folder for annotations.json and images/."""
    images: int = 1000
    """Number of images."""
    seed: int = 0
    """Seed; image i depends on it and i only."""
    profile: Literal["train", "held_out"] = "train"
    """Split of clutter, textures and lights; the two share none."""
    renderer: Literal["auto", "gl", "rays"] = "auto"
    """auto mixes OpenGL with and without shadows and ray casting; gl needs OpenGL; rays needs none."""
    label_clutter: bool = False
    """Also label distractors, as a fifth class, clutter; speeds up training."""
    workers: int = min(2, os.cpu_count() or 1)
    """Number of processes."""
    json: Path | None = None
    """Write counts to this file."""


def run(arguments: Arguments) -> int:
    """Render and report how many cubes of each colour are in the images."""
    from handeye.robot.simulator.dataset import DatasetSettings, render_dataset
    from handeye.robot.simulator.objects import Profile
    from handeye.robot.simulator.renderers import RendererKind

    for name in ("images", "workers"):
        if getattr(arguments, name) < 1:
            raise ConfigError(f"--{name} must be at least 1, got {getattr(arguments, name)}")
    if arguments.seed < 0:
        raise ConfigError(f"--seed must not be negative, got {arguments.seed}")
    kinds = Profile(arguments.profile), RendererKind(arguments.renderer)
    settings = DatasetSettings(arguments.images, arguments.seed, *kinds, label_clutter=arguments.label_clutter)
    columns = (TextColumn("rendering"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("rendering", total=arguments.images)
        annotations = render_dataset(
            arguments.output, settings, workers=arguments.workers, on_image=lambda: progress.advance(bar)
        )
    result = summarise(annotations)
    console.print(f"{result['images']} images, {result['boxes']} in {arguments.output}")
    if arguments.json is not None:
        write_json(arguments.json, {**result, "output": str(arguments.output)})
    return 0


def summarise(annotations: dict[str, Any]) -> dict[str, Any]:
    """Counts: images, boxes of each category, ignored boxes, images without boxes."""
    names = {category["id"]: category["name"] for category in annotations["categories"]}
    boxes = annotations["annotations"]
    counted = Counter(names[box["category_id"]] for box in boxes if not box["iscrowd"])
    return {
        "images": len(annotations["images"]),
        "boxes": {name: counted[name] for name in names.values()},
        "ignored": sum(box["iscrowd"] for box in boxes),
        "empty_images": len(annotations["images"]) - len({box["image_id"] for box in boxes}),
    }
