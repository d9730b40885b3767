"""The whole state of a run, so that going on is the same as never having stopped.

Written beside its place and renamed: whenever the process dies, the file is the old state or the new one, never half.
Read with weights_only, so that a stranger's run folder cannot run code.
"""

from __future__ import annotations

import pickle
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vision.errors import ModelFileError
from vision.files import replacing

FORMAT = "handeye-training-1"


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
    """Write progress, the state of every part (objects with `state_dict`) and all random generators."""
    content = {
        "format": FORMAT,
        "progress": vars(progress).copy(),
        "parts": {name: part.state_dict() for name, part in parts.items()},
        "random": _random_states(),
    }
    with replacing(path) as beside:
        torch.save(content, beside)


def load_state(path: Path, parts: dict[str, Any]) -> Progress:
    """Restore every part and all random generators; returns the progress.

    Raises ModelFileError when the file cannot be read or belongs to parts of other names.
    """
    content = _read(path)
    if set(content["parts"]) != set(parts):
        raise ModelFileError(f"{path}: holds the state of {sorted(content['parts'])}, expected {sorted(parts)}")
    for name, part in parts.items():
        part.load_state_dict(content["parts"][name])
    _restore_random(content["random"])
    return Progress(**content["progress"])


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
