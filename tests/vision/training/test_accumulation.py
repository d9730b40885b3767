"""A batch in parts teaches what the whole batch teaches, and a run in parts goes on as exactly as any other."""

from __future__ import annotations

import signal

import pytest
import torch
from rich.console import Console
from torch import nn

from handeye.vision.errors import ConfigError
from handeye.vision.training.run_folder import RunFolder
from handeye.vision.training.train_detector import Training, train_detector

QUIET = Console(quiet=True)
QUERIES = {
    "backbone": {"kind": "cspdarknet", "depth": 0.33, "width": 0.125},
    "neck": {"kind": "levels", "num_levels": 3},
    "head": {
        "kind": "rtdetr",
        "num_denoising": 0,
        "num_queries": 10,
        "hidden_dim": 16,
        "num_heads": 2,
        "num_decoder_layers": 2,
        "feed_forward_dim": 16,
    },
    "preprocessing": {"size_hw": [96, 96]},
}
PLAIN = {"kind": "sgd", "lr_per_image": 0.001, "momentum": 0.0, "weight_decay": 0.0}


def without_batch_statistics(training: Training) -> Training:
    """Norms with the statistics that they begin with: parts of a batch have other ones than the whole."""
    for module in training.network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train = lambda mode=True, module=module: module  # stays as eval() leaves it
            module.training = False
    return training


def one_step(config, path) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Losses and gradients, the latter read off the weights: plain descent moves them by rate times gradient."""
    training = without_batch_statistics(Training(config, RunFolder(path), QUIET))
    before = {name: value.detach().double() for name, value in training.network.named_parameters()}
    losses, rate = training.step(training.samples.make_batch(training.plan.requests(0)))
    after = dict(training.network.named_parameters())
    return losses, {name: (before[name] - after[name].detach().double()) / rate for name in before}


GRID = {
    "backbone": {"kind": "cspdarknet", "depth": 0.33, "width": 0.125},
    "neck": {"kind": "levels", "num_levels": 3},
    "head": {"kind": "yolo_grid", "version": "v5"},
    "preprocessing": {"size_hw": [96, 96]},
}


def test_a_loss_that_grows_with_the_batch_is_added_not_averaged(small_config, tmp_path):
    """Its means are of each part and not of the batch, but what is learnt has the same size."""
    changes = {"optimizer": PLAIN, "ema": None, "detector": GRID}
    losses, _ = one_step(small_config(**changes), tmp_path)
    other_losses, _ = one_step(small_config(**changes, accumulate_steps=2), tmp_path)
    assert other_losses["total"] == pytest.approx(losses["total"], rel=0.2)
    assert other_losses["objectness"] == pytest.approx(losses["objectness"], rel=0.02)


@pytest.mark.parametrize("detector", [None, QUERIES], ids=["yolox", "rtdetr"])
def test_parts_add_up_to_the_whole_batch(small_config, tmp_path, detector):
    changes = {"optimizer": PLAIN, "ema": None, **({} if detector is None else {"detector": detector})}
    losses, gradients = one_step(small_config(**changes), tmp_path)
    other_losses, other_gradients = one_step(small_config(**changes, accumulate_steps=4), tmp_path)
    assert other_losses == pytest.approx(losses, rel=1e-5)
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    worst = max(float((gradients[name] - other_gradients[name]).abs().max()) for name in gradients)
    assert largest > 1e-3
    # The weights, out of which the gradients are read, are rounded to about 1e-7 of themselves.
    rate = 0.001 * 4 / 3
    assert worst * rate < 1e-6


@pytest.mark.usefixtures("quick_figures")
def test_a_run_in_parts_goes_on_as_if_never_stopped(small_config, tmp_path, monkeypatch):
    config = small_config(epochs=1, accumulate_steps=2)
    whole = RunFolder.create(tmp_path / "whole", config)
    assert train_detector(config, whole, QUIET).is_finished
    losses_of = Training.losses
    calls = []

    def signal_inside(self, batch):
        calls.append(1)
        if len(calls) == 3:  # the first part of the second step
            signal.raise_signal(signal.SIGTERM)
        return losses_of(self, batch)

    run = RunFolder.create(tmp_path / "parts", config)
    with monkeypatch.context() as patched:
        patched.setattr(Training, "losses", signal_inside)
        stopped = train_detector(config, run, QUIET)
    assert (stopped.is_finished, stopped.progress.step) == (False, 2)
    assert train_detector(config, run, QUIET).is_finished
    assert run.steps.path.read_text() == whole.steps.path.read_text()
    first, second = (torch.load(each.state, weights_only=True)["parts"]["detector"] for each in (whole, run))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_batch_that_cannot_be_shared_out_is_told(small_config, tmp_path):
    with pytest.raises(ConfigError, match=r"batch_size 4 does not divide by 1 processes times 3 parts"):
        Training(small_config(accumulate_steps=3), RunFolder(tmp_path), QUIET)
