"""Training: it learns, it is exact when it goes on, it stops when asked, and it refuses what would spoil it."""

from __future__ import annotations

import io
import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from handeye.robot.learning import data as train_data
from handeye.robot.learning.checkpoint import load_policy
from handeye.robot.learning.config import LeRobotDataConfig, SplitConfig, TrainPolicyConfig
from handeye.robot.learning.data import (
    EpisodeSource,
    PolicyBatch,
    open_source,
    read_frames,
    signature_of,
    split_episodes,
    wanted_actions,
)
from handeye.robot.learning.train import PolicyTraining, PolicyTrainingResult, train_policy
from handeye.robot.types import ENVIRONMENT_KEY, STATE_KEY
from handeye.vision.config import load_config
from handeye.vision.errors import ConfigError, DatasetError, UserError
from handeye.vision.training import precision
from handeye.vision.training.distributed import TrainingError
from handeye.vision.training.precision import Bf16
from handeye.vision.training.run_folder import RunFolder
from tests.robot.learning.small_policy import MadeDemonstrations, small_network
from tests.robot.learning.test_data import numbered_frames


def small_config(**changes: Any) -> TrainPolicyConfig:
    content: dict[str, Any] = {
        "policy": {"network": small_network().model_dump(), "relative_actions": 2},
        "data": {"kind": "replay_buffer", "root": "unused", "fps": 10, "state": {"array": "state"}},
        "split": {"validation_fraction": 0.3},
        "steps": 12,
        "batch_size": 6,
        "optimizer": {"kind": "adamw", "lr": 3e-3},
        "schedule": {"warmup_epochs": 0, "constant_last_epochs": 0},
        "ema": {"decay": 0.5, "ramp_steps": 2},
        "evaluate_every_steps": 5,
        "save_every_steps": 4,
    }
    return TrainPolicyConfig.model_validate(content | changes)


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> MadeDemonstrations:
    made = MadeDemonstrations(cameras=("wrist", "scene"))

    def open_made(config: object) -> EpisodeSource:
        return made

    monkeypatch.setattr(train_data, "open_source", open_made)
    return made


def train(config: TrainPolicyConfig, folder: Path) -> PolicyTrainingResult:
    run = RunFolder.open(folder) if (folder / "config.yaml").exists() else RunFolder.create(folder, config)
    return train_policy(config, run, Console(quiet=True))


def journal(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]


def test_it_learns_what_the_demonstrations_do(source: MadeDemonstrations, tmp_path: Path) -> None:
    result = train(small_config(steps=60, batch_size=16, evaluate_every_steps=30), tmp_path / "run")
    steps = journal(tmp_path / "run")
    assert result.is_finished
    assert [entry["step"] for entry in steps] == list(range(60))
    assert np.mean([one["losses"]["l1"] for one in steps[-10:]]) < 0.6 * steps[0]["losses"]["l1"]
    assert result.best_step in (30, 60)
    assert load_policy(tmp_path / "run/best.safetensors").signature.fps == 10


@pytest.mark.parametrize("changes", [{"input_noise": 0.1}, {"ema": None}])
def test_going_on_is_as_if_it_had_never_stopped(
    source: MadeDemonstrations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    network = small_network(dropout=0.1).model_dump()
    config = small_config(policy={"network": network, "relative_actions": 2}, **changes)
    train(config, tmp_path / "whole")
    step = PolicyTraining.step

    def dies_at_seven(training: PolicyTraining, batch: PolicyBatch) -> tuple[dict[str, float], float]:
        if training.progress.step == 7:
            raise KeyboardInterrupt
        return step(training, batch)

    monkeypatch.setattr(PolicyTraining, "step", dies_at_seven)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "halved")
    monkeypatch.setattr(PolicyTraining, "step", step)
    train(config, tmp_path / "halved")
    for name in ("last.safetensors", "best.safetensors"):
        whole, halved = (load_file(tmp_path / folder / name) for folder in ("whole", "halved"))
        assert all(torch.equal(value, halved[key]) for key, value in whole.items())
    assert journal(tmp_path / "whole") == journal(tmp_path / "halved")
    metrics = [(tmp_path / folder / "metrics.jsonl").read_text() for folder in ("whole", "halved")]
    assert metrics[0] == metrics[1]


def test_auto_is_said_stored_and_kept_on_another_machine(
    source: MadeDemonstrations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capable, other = Bf16(is_fast=True, why="AMX"), Bf16(is_fast=False, why="none here")
    autocast = torch.autocast
    enabled = []

    def listening(*names: Any, **settings: Any) -> torch.autocast:
        enabled.append(settings["enabled"])
        return autocast(*names, **settings)

    monkeypatch.setattr(torch, "autocast", listening)
    for bf16, first in ((capable, "precision bf16 (AMX)"), (other, "precision bf16: slow here")):
        monkeypatch.setattr(precision, "bf16_of_device", lambda device, bf16=bf16: bf16)
        run = RunFolder(tmp_path / "run")
        config = small_config(precision="auto", steps=2)
        words = io.StringIO()
        console = Console(file=words, width=200)
        training = PolicyTraining(config, run if run.config.exists() else RunFolder.create(run.path, config), console)
        training.step(next(training.batches()))
        assert words.getvalue().splitlines()[-1].startswith(first)
        assert load_config(TrainPolicyConfig, run.config) == config.model_copy(update={"precision": "bf16"})
    assert enabled == [True, True]


def test_a_signal_ends_it_after_a_whole_step(
    source: MadeDemonstrations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = PolicyTraining.step

    def asked_to_stop(training: PolicyTraining, batch: PolicyBatch) -> tuple[dict[str, float], float]:
        if training.progress.step == 2:
            signal.raise_signal(signal.SIGTERM)
        return step(training, batch)

    monkeypatch.setattr(PolicyTraining, "step", asked_to_stop)
    result = train(small_config(), tmp_path / "run")
    assert not result.is_finished
    assert result.step == 3
    assert train(small_config(), tmp_path / "run").is_finished


@pytest.mark.slow
def test_images_are_learnt_from(source: MadeDemonstrations, tmp_path: Path) -> None:
    images = {"cameras": ["wrist", "scene"], "size_hw": [32, 48]}
    result = train(small_config(images=images, steps=4), tmp_path / "run")
    assert result.is_finished
    assert load_policy(result.run.last).signature.cameras == ("wrist", "scene")


def test_other_demonstrations_are_refused_when_it_goes_on(source: MadeDemonstrations, tmp_path: Path) -> None:
    train(small_config(steps=4), tmp_path / "run")
    source._episodes[0][STATE_KEY][3] += 1.0
    source._episodes[1][STATE_KEY][3] += 1.0
    with pytest.raises(UserError, match="statistics are those of another data set: q1"):
        train(small_config(steps=4), tmp_path / "run")
    source.fps = 20
    with pytest.raises(UserError, match="was started with other demonstrations: signature"):
        train(small_config(steps=4), tmp_path / "run")


def test_values_that_are_not_finite_are_refused(source: MadeDemonstrations, tmp_path: Path) -> None:
    for number in range(3):
        source._episodes[number][ENVIRONMENT_KEY][2, 1] = np.nan
    with pytest.raises(DatasetError, match=r"observation.environment_state: .* environment_state_1 = nan"):
        train(small_config(), tmp_path / "run")


def test_a_loss_that_is_not_finite_ends_it_before_the_weights_are_spoilt(
    source: MadeDemonstrations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = PolicyTraining.losses

    def explode_at_six(training: PolicyTraining, batch: Any) -> dict[str, torch.Tensor]:
        values = losses(training, batch)
        return values if training.progress.step < 6 else {**values, "total": values["total"] * np.inf}

    monkeypatch.setattr(PolicyTraining, "losses", explode_at_six)
    with pytest.raises(TrainingError, match="step 6: the loss is not finite"):
        train(small_config(), tmp_path / "run")
    assert all(value.isfinite().all() for value in load_file(tmp_path / "run/last.safetensors").values())


def test_episodes_are_split_by_the_seed() -> None:
    learnt, kept = split_episodes(40, SplitConfig(validation_fraction=0.1), seed=3)
    assert len(kept) == 4
    assert sorted([*learnt, *kept]) == list(range(40))
    assert split_episodes(40, SplitConfig(validation_fraction=0.1), seed=3) == (learnt, kept)
    assert split_episodes(40, SplitConfig(validation_fraction=0.1), seed=4) != (learnt, kept)
    few, none = split_episodes(40, SplitConfig(max_episodes=5, validation_fraction=0), seed=3)
    assert len(few) == 5
    assert not none
    with pytest.raises(DatasetError, match="none is left to train on"):
        split_episodes(1, SplitConfig(), seed=0)


def test_relative_actions_are_measured_from_the_chunks_own_state() -> None:
    frames = numbered_frames((3, 2))  # state and action are the number of the frame
    assert sorted(wanted_actions(frames, 2, relative=1)[:, 0].tolist()) == [0, 0, 0, 0, 0, 1, 1, 1]
    assert wanted_actions(frames, 2, relative=0)[:, 0].tolist() == [0, 1, 2, 3, 4]


def test_a_backbone_without_cameras_is_refused(source: MadeDemonstrations, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no cameras"):
        train(small_config(backbone_weights="resnet18.pth"), tmp_path / "run")


def test_a_data_set_that_lerobot_wrote_is_learnt_from_with_its_names_rate_and_images() -> None:
    source = open_source(LeRobotDataConfig(root=Path(__file__).parents[1] / "datasets" / "lerobot_dataset"))
    signature = signature_of(source, ["top"], (32, 48))
    assert (signature.state_names, signature.action_names, signature.fps) == (("a", "b", "c"), ("x", "y"), 10)
    frames = read_frames(source, [0, 1], signature)
    assert len(frames) == 9
    assert frames.num_episodes == 2
    assert frames.images[0].shape == (9, 32, 48, 3)
    np.testing.assert_array_equal(frames.actions[frames.ends[0] :], source.read_episode(1).columns["action"])


def test_a_folder_that_is_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="not a data set of demonstrations"):
        open_source(LeRobotDataConfig(root=tmp_path))
