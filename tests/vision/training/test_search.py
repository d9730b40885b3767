"""Searching: what can be asked, that trials are counted, pruned, gone on with, and that the best one is written."""

from __future__ import annotations

import builtins
import io
import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from handeye.tools.command_line import run_command
from handeye.vision.config import dump_config, load_config
from handeye.vision.errors import ConfigError, UserError
from handeye.vision.training import precision
from handeye.vision.training import search as module
from handeye.vision.training.config import TrainDetectorConfig
from handeye.vision.training.precision import Bf16
from handeye.vision.training.search import Choice, Range, Search, parse_space, run_search

optuna = pytest.importorskip("optuna", reason="the extra tune is not installed")
QUIET = Console(quiet=True)


@pytest.mark.parametrize(
    ("text", "key", "space"),
    [
        ("optimizer.lr=log:1e-4..1e-2", "optimizer.lr", Range(1e-4, 1e-2, True, False)),
        ("batch-size=8..64", "batch_size", Range(8.0, 64.0, False, True)),
        ("ema.decay=.9..0.999", "ema.decay", Range(0.9, 0.999, False, False)),
        ("precision=fp32|bf16", "precision", Choice(("fp32", "bf16"))),
        ("augmentation.multi_scale=null|[0.5, 1.5]", "augmentation.multi_scale", Choice(("null", "[0.5, 1.5]"))),
    ],
)
def test_spaces_are_read(text, key, space):
    assert parse_space(text) == (key, space)


@pytest.mark.parametrize("text", ["rate", "=1..2", "a=", "a=2..1", "a=log:0..1", "a=1..1", "a=x", "a=x|x", "a=x||y"])
def test_what_is_no_space_is_told(text):
    with pytest.raises(ConfigError, match="--search"):
        parse_space(text)


@pytest.fixture
def search(small_config, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(small_config(optimizer={"kind": "adamw"})))

    def make(**changes: Any) -> Search:
        content = {
            "config": path,
            "overrides": ("epochs=2",),
            "spaces": {"optimizer.lr": Range(1e-4, 1e-2, True, False), "batch_size": Range(2.0, 8.0, False, True)},
            "folder": tmp_path / "search",
            "num_trials": 8,
            "sampler": "tpe",
            "prune": True,
            "seed": 0,
        }
        return Search(**{**content, **changes})

    return make


@pytest.fixture
def pretended(monkeypatch):
    """In place of training: three measurements, the better the nearer the rate is to 1e-3."""
    seen: list[TrainDetectorConfig] = []
    outcome = SimpleNamespace(seen=seen, interrupt_at=None)

    def train(config, run, console, after_evaluation):
        seen.append(config)
        if len(seen) == outcome.interrupt_at:
            return SimpleNamespace(is_finished=False, progress=SimpleNamespace(best_value=None))
        rate = config.optimizer.lr
        value = 1 / (1 + abs(torch.log10(torch.tensor(rate)).item() + 3))
        for epoch in (1, 2, 3):
            after_evaluation(epoch, value * epoch / 3)
        return SimpleNamespace(is_finished=True, progress=SimpleNamespace(best_value=value))

    monkeypatch.setattr(module, "train_detector", train)
    return outcome


def test_trials_differ_only_in_what_is_searched_and_the_best_is_written(search, pretended):
    result = run_search(search(), QUIET)
    assert result.is_finished
    assert result.num_finished + result.num_pruned == len(pretended.seen) == 8
    assert len({config.optimizer.lr for config in pretended.seen}) == 8
    assert all(1e-4 <= config.optimizer.lr <= 1e-2 and 2 <= config.batch_size <= 8 for config in pretended.seen)
    assert {config.epochs for config in pretended.seen} == {2}
    best = load_config(TrainDetectorConfig, result.best_config)
    nearest = min(pretended.seen, key=lambda config: abs(torch.log10(torch.tensor(config.optimizer.lr)).item() + 3))
    assert best == nearest


def test_hopeless_trials_are_given_up(search, pretended):
    result = run_search(search(num_trials=9), QUIET)
    assert result.num_pruned > 0
    assert result.num_finished >= 5
    unpruned = run_search(search(num_trials=9, prune=False, folder=search().folder / "other"), QUIET)
    assert unpruned.num_pruned == 0


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_the_same_seed_proposes_the_same(search, pretended, sampler, tmp_path):
    for name in ("one", "two"):
        run_search(search(num_trials=4, sampler=sampler, folder=tmp_path / name), QUIET)
    rates = [config.optimizer.lr for config in pretended.seen]
    assert rates[:4] == rates[4:]


def test_a_stopped_search_goes_on_and_loses_no_trial(search, pretended):
    pretended.interrupt_at = 3
    stopped = run_search(search(num_trials=5), QUIET)
    assert not stopped.is_finished
    assert stopped.num_finished == 2
    finished = run_search(search(num_trials=5), QUIET)
    assert finished.is_finished
    assert len(pretended.seen) == 6
    assert pretended.seen[3] == pretended.seen[2]  # what was interrupted is tried again
    again = run_search(search(num_trials=5), QUIET)
    assert (again.value, len(pretended.seen)) == (finished.value, 6)
    with pytest.raises(ConfigError, match="holds a search over optimizer.lr, batch_size"):
        run_search(search(spaces={"batch_size": Range(2.0, 8.0, False, True)}), QUIET)


def test_trials_compute_alike_also_when_another_machine_goes_on(search, pretended, monkeypatch):
    """`auto` is settled once for all of them, unless the precision itself is searched."""
    shared = {"overrides": ("precision=auto",), "spaces": {"optimizer.lr": Range(1e-4, 1e-2, True, False)}}
    monkeypatch.setattr(precision, "bf16_of_device", lambda device: Bf16(is_fast=True, why="AMX"))
    printed = io.StringIO()
    console = Console(file=printed, width=200)
    run_search(search(num_trials=1, **shared), console)
    monkeypatch.setattr(precision, "bf16_of_device", lambda device: Bf16(is_fast=False, why="none here"))
    result = run_search(search(num_trials=2, **shared), console)
    assert [config.precision for config in pretended.seen] == ["bf16", "bf16"]
    assert load_config(TrainDetectorConfig, result.best_config).precision == "bf16"
    said = [line for line in printed.getvalue().splitlines() if line.startswith("precision")]
    assert said[0] == "precision bf16 (AMX)"
    assert said[1].startswith("precision bf16: slow here, none here")
    spaces = {"precision": Choice(("auto", "fp32"))}
    run_search(search(num_trials=4, spaces=spaces, overrides=(), folder=search().folder / "other"), QUIET)
    assert {config.precision for config in pretended.seen[2:]} == {"auto", "fp32"}


def test_a_killed_trial_is_tried_again(search, pretended, monkeypatch):
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "_train", die)
        with pytest.raises(KeyboardInterrupt):
            run_search(search(num_trials=2), QUIET)
    assert run_search(search(num_trials=2), QUIET).num_finished == 2
    study = optuna.load_study(study_name="handeye", storage=f"sqlite:///{search().folder / 'study.db'}")
    killed, retried, _ = study.trials
    assert killed.state.name == "FAIL"
    assert retried.params == killed.params


def test_values_that_the_configuration_refuses_are_told_before_the_first_trial(search, pretended):
    with pytest.raises(ConfigError, match="batch_size"):
        run_search(search(spaces={"batch_size": Range(0.0, 8.0, False, True)}), QUIET)
    with pytest.raises(ConfigError, match="did you mean"):
        run_search(search(spaces={"optimizer.lr_per_imag": Range(1.0, 2.0, False, False)}), QUIET)
    with pytest.raises(ConfigError, match="nothing to search"):
        run_search(search(spaces={}), QUIET)
    with pytest.raises(ConfigError, match="val_annotations"):
        run_search(search(overrides=("data.val_annotations=null",)), QUIET)
    assert not pretended.seen


def test_without_optuna_the_extra_is_named(search, monkeypatch, capsys):
    importing = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "optuna":
            raise ModuleNotFoundError("No module named 'optuna'", name="optuna")
        return importing(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    asked = search()
    words = ["tune", str(asked.config), "--search", "batch_size=1..2", "--output", str(asked.folder)]
    assert run_command(words) == 2
    assert "pip install 'handeye[tune]'" in capsys.readouterr().err


def test_no_finished_trial_is_told(search, pretended):
    pretended.interrupt_at = 1
    with pytest.raises(UserError, match="no trial"):
        run_search(search(), QUIET)


@pytest.mark.slow
def test_the_command_searches_with_real_trainings(search, tmp_path, capsys):
    asked, result = search(), tmp_path / "result.json"
    words = ["tune", str(asked.config), "--output", str(asked.folder), "--trials", "2", "--json", str(result)]
    searched = ["--search", "optimizer.lr=log:1e-4..1e-2", "--search", "augmentation.flip_probability=0.0|0.5"]
    assert run_command([*words, *searched, "max_steps=2", "batch_size=2"]) == 0
    told = json.loads(result.read_text())
    assert told["trials"] + told["pruned"] == 2
    assert set(told["best"]["overrides"]) == {"optimizer.lr", "augmentation.flip_probability"}
    assert load_config(TrainDetectorConfig, asked.folder / "best.yaml").max_steps == 2
    assert "best 0." in capsys.readouterr().out
