"""Figures sent to TensorBoard, Weights & Biases or MLflow, through accelerate; the run folder has them all anyway."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration

from vision.config import Config
from vision.errors import MissingPackageError

PROJECT = "handeye"


def tracker_options(names: Sequence[str], run: Path) -> dict[str, Any]:
    """What an Accelerator is to be made with. Raises MissingPackageError where accelerate would say nothing."""
    for name in names:
        if find_spec(name) is None:
            raise MissingPackageError(
                f"trackers: {name} is not installed; add it with: pip install {name}, or leave it out of trackers"
            )
    folders = ProjectConfiguration(project_dir=str(run), logging_dir=str(run / "trackers"))
    return {"log_with": list(names) or None, "project_config": folders}


def start_trackers(accelerator: Accelerator, run: Path, config: Config, first_step: int) -> None:
    """Open the trackers that the Accelerator was made with; what TensorBoard has from `first_step` on is replaced."""
    options = {
        "tensorboard": {"purge_step": first_step},
        "wandb": {"name": run.name, "dir": str(run)},
        "mlflow": {"run_name": run.name},
    }
    accelerator.init_trackers(PROJECT, config=flat(config.model_dump(mode="json")), init_kwargs=options)


def finish_trackers(accelerator: Accelerator) -> None:
    """Write out what they hold back. (Accelerator.end_training would end the group of processes as well.)"""
    for tracker in accelerator.trackers:
        tracker.finish()


def flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, str | int | float]:
    """Nested values under dotted keys; what is neither number nor text as JSON."""
    values: dict[str, str | int | float] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            values |= flat(value, f"{prefix}{key}.")
        else:
            values[prefix + key] = value if isinstance(value, str | int | float) else json.dumps(value)
    return values
