"""TensorBoard gets the figures through accelerate; a logger that is not installed is reported at once."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from accelerate import Accelerator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from handeye.vision.errors import MissingPackageError
from handeye.vision.training.config import TrainDetectorConfig
from handeye.vision.training.run_record import finish_loggers, flat, logger_options, start_loggers

CONFIG = TrainDetectorConfig.model_validate(
    {"detector": {"num_classes": 2}, "data": {"annotations": "a.json", "images": "images"}}
)


def log(run, first_step: int, values: dict[int, float]) -> None:
    accelerator = Accelerator(**logger_options(["tensorboard"], run))
    start_loggers(accelerator, run, CONFIG, first_step)
    for step, value in values.items():
        accelerator.log({"loss/total": value}, step=step)
    finish_loggers(accelerator)


def test_tensorboard_reads_what_was_logged_and_a_resumed_run_replaces_it(tmp_path):
    log(tmp_path, 0, {0: 3.0, 1: 2.0, 2: 1.0})
    log(tmp_path, 2, {2: 0.5})
    events = EventAccumulator(str(tmp_path / "loggers" / "handeye"))
    events.Reload()
    assert [(one.step, one.value) for one in events.Scalars("loss/total")] == [(0, 3.0), (1, 2.0), (2, 0.5)]


def test_without_loggers_nothing_is_written(tmp_path):
    accelerator = Accelerator(**logger_options([], tmp_path))
    start_loggers(accelerator, tmp_path, CONFIG, 0)
    accelerator.log({"loss/total": 1.0}, step=0)
    finish_loggers(accelerator)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_an_absent_logger_is_named_with_its_remedy(tmp_path, name):
    if find_spec(name) is not None:
        pytest.skip(f"{name} is installed here")
    with pytest.raises(MissingPackageError, match=f"loggers: {name} is not installed.*pip install {name}"):
        logger_options([name], tmp_path)


def test_a_configuration_becomes_flat():
    content = {"a": 1, "b": {"c": [1, 2], "d": {"e": None, "f": "text"}}}
    assert flat(content) == {"a": 1, "b.c": "[1, 2]", "b.d.e": "null", "b.d.f": "text"}
