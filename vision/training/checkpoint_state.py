"""Save and load the whole state of a training, so that a resumed run is the same as one that never stopped.

The file is written atomically: whenever the process dies, it is the old state or the new one. A full disk is reported
before anything is written. It is read with weights_only, so that a run folder from elsewhere cannot run code.
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
"""Room to leave besides what is about to be written, for the journals and images of the run."""

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass
class Progress:
    """The step a run has reached, and its best evaluation."""

    step: int = 0
    """Optimizer steps done; they determine the batches."""
    evaluated_epoch: int = 0
    """Epochs done at the last evaluation."""
    best_value: float | None = None
    best_epoch: int | None = None


def save_state(path: Path, progress: Progress, states: Mapping[str, Any]) -> None:
    """Write progress, states by name and all random generators.

    Raises OSError when the disk is full or the file cannot be written; the previous file is intact then.
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
        message = f"No space left on device: {needed / 2**20:.0f} MiB are needed, {free / 2**20:.0f} MiB are free"
        raise OSError(errno.ENOSPC, message, str(folder))


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
    """Turn the error about a full disk, whatever was being written, into one that says how to continue."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        raise TrainingError(
            f"{error.filename or run}: {error.strerror}; the last saved state is intact: free some space and continue "
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
        raise ModelFileError(f"{path}: is not a training state of this version (expected {FORMAT!r})")
    return content


def _first_line(error: Exception) -> str:
    """The message without torch's advice to turn its protection off; EOFError has none."""
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
