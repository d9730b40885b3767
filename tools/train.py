"""Train a detector from a configuration, or go on with a run that was stopped or killed.

Any value of the configuration can be given behind it: `epochs=30`, `--data.annotations FILE`, `--data.images DIR`.
On several GPUs: `torchrun --nproc-per-node 4 -m handeye train CONFIG`; batch_size counts all of them.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from handeye.tools.command_line import Positional
from handeye.vision.config import Config, dump_config, load_config
from handeye.vision.errors import ConfigError
from handeye.vision.files import write_json
from handeye.vision.training.config import TrainDetectorConfig
from handeye.vision.training.distributed import TrainingError, is_main_process, same_for_all
from handeye.vision.training.precision import with_settled
from handeye.vision.training.run_folder import RunFolder
from handeye.vision.training.train_detector import TrainingResult, train_detector

C = TypeVar("C", bound=Config)
EXAMPLE = "configs/detector/bccd_nano.yaml"


@dataclass(frozen=True)
class Arguments:
    """What `handeye train` is told besides the configuration."""

    config: Positional[Path | None] = None
    """Configuration file, for example configs/detector/bccd_nano.yaml; a run to resume has its own."""
    output: Path | None = None
    """Folder of the new run; by default runs/NAME, numbered where that exists."""
    resume: Path | None = None
    """Folder of a run to go on with, from its last saved state."""
    json: Path | None = None
    """Write the run folder and the best result to this file."""


def run(arguments: Arguments, overrides: list[str]) -> int:
    """Train; 0 when the run is finished, 1 when it was stopped or failed."""
    console = Console(stderr=True)
    config, folder = open_run(
        TrainDetectorConfig, arguments.config, arguments.output, arguments.resume, overrides, EXAMPLE
    )
    try:
        with nullcontext() if arguments.resume else folder.kept_once_begun():
            result = train_detector(config, folder, Console(stderr=True, quiet=not is_main_process()))
    except TrainingError as error:
        console.print(f"handeye: failed: {error}", markup=False, highlight=False, soft_wrap=True)
        return 1
    if is_main_process():
        if arguments.json is not None:
            write_json(arguments.json, _summary(config, result))
        print(_closing_line(config, result))
    return 0 if result.is_finished else 1


def open_run(
    config_type: type[C],
    config_path: Path | None,
    output: Path | None,
    resume: Path | None,
    overrides: list[str],
    example: str,
) -> tuple[C, RunFolder]:
    """The configuration and folder of a new run, or of the one to resume; `example` names a configuration of the kind.

    Raises ConfigError and UserError for what does not go together.
    """
    if resume is not None:
        if output is not None:
            raise ConfigError("--resume goes on in its own folder; leave --output out")
        folder = RunFolder.open(resume)
        config = load_config(config_type, folder.config)
        if config_path is not None or overrides:
            asked = load_config(config_type, config_path or folder.config, overrides)
            _check_unchanged(with_settled(asked, config), config)
        return config, folder
    if config_path is None:
        raise ConfigError(f"name a configuration, for example {example}, or a run to --resume")
    config = load_config(config_type, config_path, overrides)
    output = output or RunFolder.free_name(Path("runs"), config_path.stem)
    if is_main_process():
        RunFolder.create(output, config)
    return config, RunFolder.open(same_for_all(output))


def _check_unchanged(asked: Config, stored: Config) -> None:
    """A resumed run keeps its configuration: with another one its first and second half would not fit."""
    pairs = zip(dump_config(asked).splitlines(), dump_config(stored).splitlines(), strict=False)
    changed = [f"{new.strip()!r} instead of {old.strip()!r}" for new, old in pairs if new != old]
    if changed:
        raise ConfigError(f"a resumed run keeps its configuration, but this one has {changed[0]}; leave it out")


def _summary(config: TrainDetectorConfig, result: TrainingResult) -> dict[str, object]:
    progress = result.progress
    best = None
    if progress.best_value is not None:
        best = {"metric": config.evaluation.metric, "value": progress.best_value, "epoch": progress.best_epoch}
    return {
        "run_folder": str(result.run.path),
        "best": best,
        "steps": progress.step,
        "finished": result.is_finished,
        "last": str(result.run.last),
    }


def _closing_line(config: TrainDetectorConfig, result: TrainingResult) -> str:
    progress = result.progress
    if not result.is_finished:
        return f"stopped after step {progress.step}; go on with: handeye train --resume {result.run.path}"
    if progress.best_value is None:
        return f"finished {progress.step} steps: {result.run.last}"
    best = f"best {config.evaluation.metric} {progress.best_value:.3f} at epoch {progress.best_epoch}"
    return f"finished {progress.step} steps; {best}: {result.run.best}"
