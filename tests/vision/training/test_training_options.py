"""Options of a run that change how it learns or when it ends, seen in whole runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

from handeye.vision.errors import ConfigError
from handeye.vision.evaluation.protocol import Protocol
from handeye.vision.training.distributed import TrainingError
from handeye.vision.training.run_folder import RunFolder
from handeye.vision.training.train_detector import Training, train_detector
from tests.vision.training.conftest import NANO

QUIET = Console(quiet=True)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def one_step(config, path) -> tuple[Training, dict[str, float]]:
    training = Training(config, RunFolder(path), QUIET)
    losses, _ = training.step(training.samples.make_batch(training.plan.requests(0)))
    return training, losses


def test_what_is_frozen_stays_as_it_was(small_config, tmp_path):
    config = small_config(detector=NANO, freeze=["backbone"])
    before = Training(config, RunFolder(tmp_path), QUIET).network.state_dict()
    training, _ = one_step(config, tmp_path)
    after = training.network.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert not [name for name in changed if name.startswith("backbone.")]
    assert {name.split(".")[0] for name in changed} == {"neck", "head"}
    assert any(name.endswith("running_mean") for name in changed)
    learning = sum(len(group["params"]) for group in training.optimizer.param_groups)
    assert learning == sum(not name.startswith("backbone.") for name, _ in training.network.named_parameters())


@pytest.mark.usefixtures("quick_figures")
def test_a_run_that_no_longer_improves_ends_and_stays_ended(small_config, tmp_path, monkeypatch):
    """From scratch AP stays 0 in the first epochs: the second measurement is no better than the first."""
    config = small_config(
        epochs=50,
        batch_size=9,
        evaluation={"every_epochs": 1, "batch_size": 9},
        early_stopping={"patience": 1},
    )
    nothing = Protocol("deployed", clip_boxes=True, score_threshold=1.0)  # no AP ever rises
    monkeypatch.setattr("handeye.vision.training.validate.PROTOCOLS", {"deployed": nothing})
    run = RunFolder.create(tmp_path / "run", config)
    told: list[str] = []
    monkeypatch.setattr("handeye.vision.training.console.ProgressDisplay.say", lambda _, text: told.append(text))
    result = train_detector(config, run, QUIET)
    assert result.is_finished
    assert result.progress.evaluated_epoch == 2
    assert told[-1] == "stopped early: no more gain; best epoch 2"  # of equal values the later one
    again = train_detector(config, run, QUIET)
    assert again.is_finished
    assert again.progress == result.progress


def test_early_stopping_without_measurements_is_refused(small_config, drawn_set):
    data = {"annotations": drawn_set / "annotations.json", "images": drawn_set / "images"}
    with pytest.raises(ConfigError, match="early_stopping needs evaluations"):
        small_config(data=data, early_stopping={})


@pytest.mark.usefixtures("quick_figures")
def test_someone_may_watch_the_measurements(small_config, tmp_path):
    seen: list[tuple[int, float]] = []
    config = small_config(batch_size=9, evaluation={"every_epochs": 1, "batch_size": 9})
    train_detector(config, RunFolder.create(tmp_path / "run", config), QUIET, lambda *what: seen.append(what))
    assert [epoch for epoch, _ in seen] == [1, 2, 3]


def compile_with(monkeypatch, backend: Any) -> None:
    def compile_module(module: nn.Module) -> None:
        module._compiled_call_impl = torch.compile(module._call_impl, backend=backend)

    monkeypatch.setattr(nn.Module, "compile", compile_module)


@pytest.mark.slow
def test_a_compiled_network_learns_the_same(small_config, tmp_path, monkeypatch):
    """With dynamo's own backend, which computes with torch's kernels: code generators need a compiler of the system."""
    compile_with(monkeypatch, "eager")
    plain, losses = one_step(small_config(), tmp_path)
    compiled, compiled_losses = one_step(small_config(compile=True), tmp_path)
    assert compiled_losses == pytest.approx(losses, rel=1e-5)
    ours, theirs = plain.network.state_dict(), compiled.network.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in ours)


@pytest.mark.slow
def test_a_network_that_cannot_be_compiled_is_told(small_config, tmp_path, monkeypatch):
    def no_compiler(*_: object) -> None:
        raise FileNotFoundError("no compiler on this machine")

    compile_with(monkeypatch, no_compiler)
    with pytest.raises(TrainingError, match="compile: .* leave it out .*no compiler on this machine"):
        one_step(small_config(compile=True), tmp_path)
