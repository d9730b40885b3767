"""Train a detector from a configuration, or resume a run that was stopped or killed.

Any value of the configuration can be overridden behind it: `epochs=30` or `--epochs 30`.

examples:
  handeye train configs/detector/bccd_nano.yaml
  handeye train configs/detector/bccd_nano.yaml epochs=30 --data.images DIR
  handeye train --resume runs/bccd_nano
  torchrun --nproc-per-node 4 -m handeye train CONFIG   (batch_size is the total over all GPUs)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

import handeye
from handeye.tools.command_line import Positional
from handeye.vision.files import write_json
from handeye.vision.training.distributed import TrainingError, is_main_process


@dataclass(frozen=True)
class Arguments:
    """Arguments of `handeye train`."""

    config: Positional[Path | None] = None
    """Configuration file, for example configs/detector/bccd_nano.yaml; a run to resume has its own."""
    output: Path | None = None
    """Folder of the new run; by default runs/NAME, numbered where that exists."""
    resume: Path | None = None
    """Folder of a run to resume from its last saved state."""
    json: Path | None = None
    """Write the run folder and the best result to this file."""


def run(arguments: Arguments, overrides: list[str]) -> int:
    """Train; 0 when the run is finished, 1 when it was stopped or failed."""
    try:
        result = handeye.train(arguments.config, overrides, output=arguments.output, resume=arguments.resume)
    except TrainingError as error:
        Console(stderr=True).print(f"handeye: failed: {error}", markup=False, highlight=False, soft_wrap=True)
        return 1
    if is_main_process():
        if arguments.json is not None:
            write_json(arguments.json, result)
        print(_closing_line(result))
    return 0 if result["finished"] else 1


def _closing_line(result: Mapping[str, Any]) -> str:
    steps, best = result["steps"], result["best"]
    if not result["finished"]:
        return f"stopped after step {steps}; resume with: handeye train --resume {result['run_folder']}"
    if best is None:
        return f"finished {steps} steps: {result['last']}"
    score = f"best {best['metric']} {best['value']:.3f} at epoch {best['epoch']}"
    return f"finished {steps} steps; {score}: {result['best_weights']}"
