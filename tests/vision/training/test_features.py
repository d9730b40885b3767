"""The features of a training run in one order, and what is out of order or does not go together is refused by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import nn

from handeye.vision.errors import ConfigError
from handeye.vision.training.config import TrainDetectorConfig
from handeye.vision.training.console import ProgressDisplay
from handeye.vision.training.detector_features import Accumulation, Placement, SyncBatchNorm, detector_features
from handeye.vision.training.features import (
    ORDER,
    EmaFeature,
    Feature,
    Losses,
    Setup,
    require_compatible,
    require_order,
)
from handeye.vision.training.loop import LoopConfig, TrainingLoop
from handeye.vision.training.optimizer import EmaConfig, SgdConfig
from handeye.vision.training.run_folder import RunFolder
from handeye.vision.training.schedules import CosineScheduleConfig
from handeye.vision.training.train_detector import Training

QUIET = Console(quiet=True)
LOOP = LoopConfig(10, 5, 2, 5, None, SgdConfig(), CosineScheduleConfig())


class Recorded(Feature[nn.Module]):
    """Notes which of its hooks is called; doubles a loss or adds one to it, which do not commute."""

    def __init__(self, key: str, calls: list[tuple[str, str]], factor: float, shift: float) -> None:
        self.key = key  # pyright: ignore[reportAttributeAccessIssue] - a class variable of real features
        self.calls, self.factor, self.shift = calls, factor, shift

    def before_training(self, setup: Setup[nn.Module]) -> None:
        self.calls.append(("before_training", self.key))

    def before_step(self, network: nn.Module) -> None:
        self.calls.append(("before_step", self.key))

    def losses(self, losses_of: Callable[[Any], Losses], output: Any, inputs: Any) -> Losses:
        return {"total": self.factor * losses_of(output)["total"] + self.shift}

    def after_step(self, network: nn.Module) -> None:
        self.calls.append(("after_step", self.key))


class Squares(TrainingLoop[nn.Module, torch.Tensor]):
    """Learns that its one layer answers nothing."""

    network_key, unit = "network", "rows"

    def batches(self) -> list[torch.Tensor]:
        return [torch.ones(2, 3)] * 10

    def losses(self, batch: torch.Tensor) -> Losses:
        return self.joined_losses(lambda output: {"total": output.square().mean()}, self.model(batch), batch)

    def is_evaluation_due(self) -> bool:
        return False

    def evaluate(self, display: ProgressDisplay) -> None:
        raise AssertionError("nothing is due")

    def is_in_state(self, metrics: Mapping[str, Any]) -> bool:
        return True

    def save_weights(self, path: Path, network: nn.Module) -> None:
        save_file(network.state_dict(), path)


def squares(tmp_path: Path, features: Sequence[Feature[nn.Module]]) -> Squares:
    torch.manual_seed(0)
    network: nn.Module = nn.Linear(3, 1)
    setup = Setup(network, torch.device("cpu"), lambda output: {"total": output})
    return Squares(RunFolder(tmp_path), LOOP, setup, features)


def test_hooks_run_in_the_order_and_later_losses_wrap_earlier_ones(tmp_path: Path) -> None:
    calls: list[tuple[str, str]] = []
    training = squares(tmp_path, [Recorded("freeze", calls, 2.0, 0.0), Recorded("distillation", calls, 1.0, 1.0)])
    plain = training.model(torch.ones(2, 3)).square().mean().item()
    losses, _ = training.step(torch.ones(2, 3))
    hooks = ("before_training", "before_step", "after_step")
    assert calls == [(hook, key) for hook in hooks for key in ("freeze", "distillation")]
    assert losses["total"] == pytest.approx(2 * plain + 1, rel=1e-6)


def test_a_bare_loop_trains_saves_and_goes_on(tmp_path: Path) -> None:
    whole = squares(tmp_path / "whole", [EmaFeature(EmaConfig(decay=0.5, ramp_steps=1))])
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole.restore()
    assert whole.train(QUIET)
    losses = [entry["losses"]["total"] for entry in whole.run.steps.read()]
    assert len(losses) == 10
    assert losses[-1] < losses[0]
    for _ in range(2):
        part = squares(tmp_path / "parts", [EmaFeature(EmaConfig(decay=0.5, ramp_steps=1))])
        part.restore()
        for batch in part.batches()[:5]:
            part.step(batch)
        part.save()
    part = RunFolder(tmp_path / "parts")
    assert part.steps.path.read_text() == whole.run.steps.path.read_text()
    saved = load_file(part.last)
    assert torch.equal(saved["weight"], whole.weights_to_save().get_parameter("weight"))
    assert not torch.equal(saved["weight"], whole.network.get_parameter("weight"))


def test_the_wrong_order_is_refused_by_name(tmp_path: Path) -> None:
    average, norms = EmaFeature(EmaConfig()), SyncBatchNorm()
    require_order([Placement(channels_last=True), average, norms])
    with pytest.raises(ValueError, match="feature ema must come before sync_batch_norm"):
        require_order([norms, average])
    with pytest.raises(ValueError, match="feature ema must come before ema, and only once"):
        squares(tmp_path, [average, average])
    with pytest.raises(ValueError, match="feature 'nothing' has no place in ORDER"):
        require_order([Recorded("nothing", [], 1.0, 0.0)])


def test_what_does_not_go_together_is_refused_by_name() -> None:
    require_compatible({"shard_weights", "ema"}, has_trained_weights=False)
    require_compatible({"pruning"}, has_trained_weights=True)
    with pytest.raises(ValueError, match="shard_weights does not go together with distillation, compile; leave"):
        require_compatible({"shard_weights", "compile", "distillation"}, has_trained_weights=True)
    with pytest.raises(ValueError, match="quantization_aware judges trained weights: name a checkpoint as start_from"):
        require_compatible({"quantization_aware"}, has_trained_weights=False)


def test_a_configuration_turns_its_features_on_in_order(
    small_config: Callable[..., TrainDetectorConfig], tmp_path: Path
) -> None:
    config = small_config(accumulate_steps=2, sync_batch_norm=True, freeze=["backbone"], channels_last=False)
    keys = [feature.key for feature in detector_features(config, Accelerator(cpu=True), QUIET)]
    assert keys == ["channels_last", "freeze", "accumulate_steps", "ema", "sync_batch_norm"]
    assert keys == sorted(keys, key=ORDER.index)
    training = Training(config, RunFolder(tmp_path), QUIET)
    assert [type(feature) for feature in training.features][2] is Accumulation
    with pytest.raises(ConfigError, match="shard_weights does not go together with compile"):
        small_config(shard_weights=True, compile=True)
