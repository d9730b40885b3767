"""Download published weights from their official address; resumes, checks the hash, and caches.

examples:
  handeye download rtdetr_r18vd
  handeye download yolox_nano --cache weights
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from handeye.tools.command_line import Positional
from handeye.vision.checkpoints.download import PublishedFile, cache_folder, download, mirrored
from handeye.vision.checkpoints.torchvision_backbones import published_backbones
from handeye.vision.checkpoints.zoo import published_models
from handeye.vision.errors import UserError
from handeye.vision.files import write_json


@dataclass
class Arguments:
    """Arguments of `handeye download`."""

    name: Positional[str]
    """A published detector or backbone, for example rtdetr_r18vd or resnet50; `handeye models` lists them."""
    cache: Path | None = None
    """Download folder; by default $HANDEYE_CACHE, else the cache folder of this platform."""
    mirror: str | None = None
    """URL of a mirror that holds the same files under the same names."""
    timeout_s: float = 30.0
    """Give up when the server sends nothing for this long, in seconds."""
    json: Path | None = None
    """Write path, address and size to this file."""


def run(arguments: Arguments) -> int:
    """Fetch, check, say where it is and what to do with it."""
    if arguments.timeout_s <= 0:
        raise UserError(f"--timeout-s {arguments.timeout_s:g}: expected a time above 0")
    file = file_of(arguments.name)
    if arguments.mirror is not None:
        file = mirrored(file, arguments.mirror)
    path = fetch_with_progress(file, cache_folder(arguments.cache), arguments.timeout_s)
    is_checked = file.sha256_start is not None or file.size_bytes is not None
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{path}: {'checked' if is_checked else 'whole; its authors publish no hash to check it against'}")
    if arguments.name in published_models():
        console.print(f"Next: handeye import {arguments.name} {path} --output {arguments.name}.safetensors")
    if arguments.json is not None:
        summary = {"name": arguments.name, "path": str(path), "address": file.address, "checked": is_checked}
        write_json(arguments.json, {**summary, "bytes": path.stat().st_size})
    return 0


def file_of(name: str) -> PublishedFile:
    """The published weights of that name. Raises UserError for an unknown one."""
    known = {**published_models(), **published_backbones()}
    if name not in known:
        raise UserError(f"{name!r} is no published model known here; expected one of {', '.join(known)}")
    return known[name].weights


def fetch_with_progress(file: PublishedFile, folder: Path, timeout_s: float) -> Path:
    """`download`, with a bar on the error stream where that is a terminal."""
    columns = TextColumn(file.name), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(file.name, total=None)
        return download(
            file,
            folder,
            timeout_s=timeout_s,
            report=lambda here, total: progress.update(task, completed=here, total=total),
        )
