"""The folder of a run: its configuration, journals, state and weights.

config.yaml     the resolved configuration           run.json        command, code version, machine
constraints.txt every package's version, for pip     data.json       summary of the training data
steps.jsonl     a line for each optimizer step       metrics.jsonl   a line for each evaluation
state.pt        everything needed to resume          last.safetensors, best.safetensors
report.html     all of it on one page                evaluation.json, *.png, batches/, worst/
"""

from __future__ import annotations

import functools
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Any

from handeye.vision.config import Config, dump_config
from handeye.vision.errors import UserError
from handeye.vision.files import replacing, write_json

PACKAGES = ("torch", "torchvision", "numpy", "opencv-python-headless", "accelerate", "handeye")
"""Whose versions are recorded with a run."""


class RunFolder:
    """Paths inside a run folder, and its two journals."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.state = self.path / "state.pt"
        self.last = self.path / "last.safetensors"
        self.best = self.path / "best.safetensors"
        self.origin = self.path / "run.json"
        self.constraints = self.path / "constraints.txt"
        self.data = self.path / "data.json"
        self.evaluation = self.path / "evaluation.json"
        self.report = self.path / "report.html"
        self.steps = Journal(self.path / "steps.jsonl")
        self.metrics = Journal(self.path / "metrics.jsonl")

    @staticmethod
    def create(path: Path, config: Config) -> RunFolder:
        """Begin a run; raises UserError when the folder holds a run already."""
        run = RunFolder(path)
        if run.config.exists():
            raise UserError(
                f"{run.path} holds a run already; continue it with --resume {run.path}, or name another with --output"
            )
        if run.path.exists() and not run.path.is_dir():
            raise UserError(f"{run.path} is a file; --output names the folder of the run")
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            write_json(run.origin, describe_origin())
            with replacing(run.constraints) as beside:
                beside.write_text(describe_packages(), encoding="utf-8")
            # Last, because its presence is what makes a folder a run.
            run.keep_config(config)
        except OSError as error:
            raise UserError(f"{run.path}: the run folder cannot be written: {error.strerror or error}") from error
        return run

    def keep_config(self, config: Config) -> None:
        """Write the resolved configuration, replacing the one that is there."""
        with replacing(self.config) as beside:
            beside.write_text(dump_config(config), encoding="utf-8")

    @contextmanager
    def kept_once_begun(self) -> Iterator[None]:
        """For a new run: a UserError before its first step removes the folder, so that its name is free again."""
        try:
            yield
        except UserError:
            if not (self.state.exists() or self.steps.path.exists()):
                self._withdraw()
            raise

    def _withdraw(self) -> None:
        """Take back what `create` wrote, and the folder where it holds nothing else."""
        for path in (self.config, self.origin, self.constraints, self.data):
            path.unlink(missing_ok=True)
        with suppress(OSError):
            self.path.rmdir()

    @staticmethod
    def open(path: Path) -> RunFolder:
        """A run that exists; raises UserError when there is none."""
        run = RunFolder(path)
        if not run.config.is_file():
            raise UserError(f"{path} holds no run to resume: there is no {run.config.name}")
        return run

    @staticmethod
    def free_name(parent: Path, stem: str) -> Path:
        """parent/stem, or the first of parent/stem-2, parent/stem-3, ... that does not exist."""
        number, path = 1, parent / stem
        while path.exists():
            number += 1
            path = parent / f"{stem}-{number}"
        return path


class Journal:
    """A file of JSON lines, appended to; a resumed run drops the lines after its saved state."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, entry: Mapping[str, object]) -> None:
        """Add one line. It survives the end of the process; a power cut may cost the newest lines."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """All whole lines; a line cut off by a kill is left out."""
        return list(self._whole_lines())

    def keep(self, is_wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Drop the other entries, which the resumed run makes again."""
        if not self.path.exists():
            return
        kept = [entry for entry in self._whole_lines() if is_wanted(entry)]
        with replacing(self.path) as beside:
            beside.write_text("".join(json.dumps(entry) + "\n" for entry in kept), encoding="utf-8")

    def _whole_lines(self) -> Iterator[dict[str, Any]]:
        if not self.path.exists():
            return
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                return


def describe_origin() -> dict[str, object]:
    """Provenance of a run: the command, the git state of the code, versions of the main packages."""
    return {
        "command": sys.argv,
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "git": _git_state(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "packages": {name: found for name in PACKAGES if (found := _version(name)) is not None},
    }


@functools.cache
def describe_packages() -> str:
    """The version of every installed package but this one, as `pip install --constraint` reads it."""
    described = [one.metadata for one in distributions()]  # read again at every access
    found = {str(one["Name"]).lower(): one["Version"] for one in described if one["Name"]}
    return "".join(f"{name}=={found[name]}\n" for name in sorted(found) if name != "handeye")


def _git_state() -> dict[str, object] | None:
    """Commit and whether tracked files differ from it; None where the code is not a git checkout."""
    try:
        commit = _git("rev-parse", "HEAD")
        return {"commit": commit, "modified": bool(_git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*words: str) -> str:
    folder = Path(__file__).parent
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
