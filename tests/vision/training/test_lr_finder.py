"""The sweep of learning rates, on losses that are known and on a real detector."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from rich.console import Console

from handeye.tools.command_line import run_command
from handeye.vision.config import dump_config, load_config
from handeye.vision.errors import UserError
from handeye.vision.training.config import TrainDetectorConfig
from handeye.vision.training.lr_finder import FEWEST_STEPS, Sweep, find_lr, override_of, smooth, steepest_descent


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_rates_grow_by_the_same_factor():
    factors = [Sweep(1e-4, 1.0, 9).factor(step) for step in range(9)]
    assert (factors[0], factors[-1]) == pytest.approx((1e-4, 1.0))
    assert [new / old for old, new in zip(factors, factors[1:], strict=False)] == pytest.approx([10**0.5] * 8)


def test_smoothing_keeps_a_constant_and_halves_noise():
    assert smooth([3.0] * 20) == pytest.approx(np.full(20, 3.0))
    noise = np.random.default_rng(0).normal(size=2000)
    assert smooth(noise.tolist())[100:].std() < 0.25 * noise.std()


@pytest.mark.parametrize("middle", [1e-4, 1e-2])
def test_the_steepest_point_of_a_known_curve_is_found(middle):
    """A logistic fall in log(rate) is steepest in its middle; where it explodes afterwards does not matter."""
    rates = np.geomspace(1e-6, 1, 121)
    losses = 2 / (1 + np.exp(3 * np.log(rates / middle)))
    losses[rates > 0.3] = 50.0
    assert steepest_descent(rates, losses) == pytest.approx(middle, rel=0.15)


def test_a_sweep_ends_where_the_loss_explodes_and_leaves_nothing(small_config, tmp_path):
    config = small_config()
    sweep = find_lr(config, Console(quiet=True), num_steps=30, lowest=1e-4, highest=1e6)
    assert sweep.has_diverged
    assert FEWEST_STEPS <= len(sweep.rates) == len(sweep.losses) < 30
    assert sweep.rates[0] == pytest.approx(1e-4)
    assert sweep.rates[0] < sweep.suggested_lr < sweep.rates[-1]
    assert override_of(config, sweep.suggested_lr).startswith("optimizer.lr_per_image=")


def test_the_command_suggests_an_override_that_train_takes(small_config, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(dump_config(small_config(optimizer={"kind": "adamw"})))
    words = ["find-lr", "config.yaml", "--steps", "10", "--lowest", "1e-5", "--highest", "1e-2", "batch_size=2"]
    assert run_command([*words, "--plot", "sweep.png", "--json", "sweep.json"]) == 0
    result = json.loads((tmp_path / "sweep.json").read_text())
    assert result["steps"] == 10
    assert result["rates"] == sorted(result["rates"])
    assert result["override"] in capsys.readouterr().out
    config = load_config(TrainDetectorConfig, tmp_path / "config.yaml", [result["override"]])
    assert config.optimizer.lr == pytest.approx(result["suggested_lr"], rel=1e-2)
    assert (tmp_path / "sweep.png").stat().st_size > 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "sweep.json", "sweep.png"]


def test_no_range_is_told(small_config):
    with pytest.raises(UserError, match="0 < lowest < highest and at least 10 steps"):
        find_lr(small_config(), Console(quiet=True), num_steps=5, lowest=1e-4, highest=1.0)
