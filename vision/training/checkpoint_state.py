"""The whole state of a run, so that going on is the same as never having stopped.

Written beside its place and renamed: whenever the process dies, the file is the old state or the new one, never half.
A disk without room for it is told before anything is written.
Read with weights_only, so that a stranger's run folder cannot run code.
"""

from __future__ import annotations

import errno
import pickle
import random
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from handeye.vision.errors import ModelFileError
from handeye.vision.files import replacing
from handeye.vision.training.distributed import TrainingError

FORMAT = "handeye-training-1"
SPARE_BYTES = 16 * 2**20
"""Room that is left beside what is about to be written, for the journals and pictures of the run."""

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass
class Progress:
    """Where a run is; what it has achieved so far."""

    step: int = 0
    """Optimiser steps done; the batches follow from it."""
    evaluated_epoch: int = 0
    """Epochs that were done when the weights were last measured."""
    best_value: float | None = None
    best_epoch: int | None = None


def save_state(path: Path, progress: Progress, parts: dict[str, Any]) -> None:
    """Write progress, the state of every part (objects with `state_dict`) and all random generators.

    Raises OSError as `write_state`.
    """
    write_state(path, progress, {name: part.state_dict() for name, part in parts.items()})


def write_state(path: Path, progress: Progress, states: Mapping[str, Any]) -> None:
    """The same for states that have been asked for.

    Raises OSError when the disk is full or the file cannot be written; the file before it is whole then.
    """
    content = {
        "format": FORMAT,
        "progress": vars(progress).copy(),
        "parts": dict(states),
        "random": _random_states(),
    }
    require_space(path.parent, content)
    with replacing(path) as beside, beside.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            # torch ends its archive even after a write that failed, and hides that failure behind one of its own.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def require_space(folder: Path, content: Any) -> None:
    """Raise OSError (ENOSPC) when the disk of `folder` has no room for the tensors in `content`, nested as they are."""
    needed, free = _num_bytes(content) + SPARE_BYTES, shutil.disk_usage(folder).free
    if free < needed:
        told = f"No space left on device: {needed / 2**20:.0f} MiB are needed, {free / 2**20:.0f} MiB are free"
        raise OSError(errno.ENOSPC, told, str(folder))


def load_state(path: Path, parts: dict[str, Any]) -> Progress:
    """Restore every part and all random generators; returns the progress.

    Raises ModelFileError when the file cannot be read or belongs to parts of other names or shapes.
    """
    content = _read(path)
    if set(content["parts"]) != set(parts):
        raise ModelFileError(f"{path}: holds the state of {sorted(content['parts'])}, expected {sorted(parts)}")
    for name, part in parts.items():
        try:
            part.load_state_dict(content["parts"][name])
        except (RuntimeError, ValueError, KeyError) as error:
            why = " ".join(str(error).split()[:40])
            raise ModelFileError(
                f"{path}: its {name} does not fit what the configuration builds; has a file that the run began with "
                f"(start_from, distillation.teacher) changed since? ({why})"
            ) from error
    _restore_random(content["random"])
    return Progress(**content["progress"])


@contextmanager
def telling_full_disk(run: Path) -> Iterator[None]:
    """Turn the error about a disk without room, whatever was being written, into one that says how to go on."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        raise TrainingError(
            f"{error.filename or run}: {error.strerror}; the last saved state is whole: make room and go on from it "
            f"with --resume {run}"
        ) from error


def _num_bytes(content: Any) -> int:
    """Bytes of all tensors in nested mappings, lists and tuples."""
    if isinstance(content, torch.Tensor):
        return content.numel() * content.element_size()
    if isinstance(content, Mapping):
        return sum(_num_bytes(value) for value in content.values())
    return sum(_num_bytes(value) for value in content) if isinstance(content, list | tuple) else 0


def _read(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ModelFileError(f"{path}: the state of the run cannot be read: {_first_line(error)}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ModelFileError(f"{path}: is no state of a training run of this version (expected {FORMAT!r})")
    return content


def _first_line(error: Exception) -> str:
    """What went wrong without torch's advice to switch its protection off; EOFError has no text at all."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _random_states() -> dict[str, Any]:
    """Python's, numpy's and torch's generators as plain values; arrays become tensors, which weights_only accepts."""
    name, key, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (str(name), torch.from_numpy(np.asarray(key).astype(np.int64)), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _restore_random(states: dict[str, Any]) -> None:
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    name, key, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, key.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"])
    if states["cuda"] and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
