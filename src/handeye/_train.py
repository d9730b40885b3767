"""Train a detector: the public function, and opening the folder of a new or resumed run for every kind of training."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from handeye.vision.config import Config, dump_config, load_config
from handeye.vision.errors import ConfigError
from handeye.vision.training.config import TrainDetectorConfig
from handeye.vision.training.distributed import is_main_process, same_for_all
from handeye.vision.training.precision import with_settled
from handeye.vision.training.run_folder import RunFolder
from handeye.vision.training.train_detector import TrainingResult, train_detector

C = TypeVar("C", bound=Config)
EXAMPLE = "configs/detector/bccd_nano.yaml"


def train(
    config: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    output: str | Path | None = None,
    resume: str | Path | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train a detector from a configuration file, or resume a run that was stopped.

    overrides: values that replace those of the file, as on the command line: ["epochs=30", "optimizer.lr=1e-3"].
    output: folder of the new run; by default runs/NAME, numbered where that exists.
    resume: folder of the run to resume; it keeps its configuration and needs no `config`.
    quiet: print no progress to stderr.

    Returns run_folder, best {metric, value, epoch} (None without an evaluation), steps, finished (False when a signal
    stopped it) and last and best_weights, the paths of the weights. Raises ConfigError (a UserError) for a wrong
    configuration and TrainingError when the training fails, for example on a loss that is not finite.
    """
    settings, folder = open_run(
        TrainDetectorConfig, _path(config), _path(output), _path(resume), list(overrides), EXAMPLE
    )
    with nullcontext() if resume else folder.kept_once_begun():
        result = train_detector(settings, folder, Console(stderr=True, quiet=quiet or not is_main_process()))
    return _summary(settings, result)


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
            raise ConfigError("--resume continues in the folder of the run; leave --output out")
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


def _summary(config: TrainDetectorConfig, result: TrainingResult) -> dict[str, Any]:
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
        "best_weights": None if best is None else str(result.run.best),
    }


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)
