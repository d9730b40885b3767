"""Training in several processes: the same as in one, and an end to it when one of them is lost.

The norms are frozen or synchronised here: others see the images of their own process only.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import nn

from handeye.vision.config import dump_config, load_config
from handeye.vision.detector import Detector
from handeye.vision.evaluation.protocol import Protocol
from handeye.vision.training.bit_equality import PerImageConv2d, SynchronisedNorm2d
from handeye.vision.training.config import TrainDetectorConfig
from handeye.vision.training.distributed import (
    TrainingError,
    any_of_all,
    same_for_all,
    synchronise_processes,
    telling_lost_processes,
)
from handeye.vision.training.run_folder import RunFolder
from handeye.vision.training.training_data import read_split
from handeye.vision.training.validate import detect_all, detect_together
from tests.vision.training.conftest import train_to_step

REPOSITORY = Path(__file__).resolve().parents[3]
STEPS = 20
QUIET = Console(quiet=True)


def test_one_process_agrees_with_itself(tmp_path):
    assert any_of_all(True, torch.device("cpu"))
    assert not any_of_all(False, torch.device("cpu"))
    assert same_for_all(tmp_path) == tmp_path


def some_loss() -> float:
    return 0.0


def test_norms_of_one_gpu_need_no_others_and_cpus_have_norms_of_their_own(monkeypatch):
    model = nn.Sequential(nn.BatchNorm2d(2))
    assert synchronise_processes(model, some_loss, torch.device("cuda")) is some_loss
    assert type(model[0]) is nn.BatchNorm2d
    monkeypatch.setattr("handeye.vision.training.distributed.num_processes", lambda: 2)
    synchronise_processes(model, some_loss, torch.device("cuda"))
    assert type(model[0]) is nn.SyncBatchNorm
    monkeypatch.undo()
    model = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1)).eval()
    weight = model[0].weight
    loss = synchronise_processes(model, some_loss, torch.device("cpu"))
    assert loss is not some_loss
    assert [type(part) for part in model] == [SynchronisedNorm2d, PerImageConv2d]
    assert model[0].weight is weight
    assert not model[0].training


def test_the_loss_of_a_process_is_told_and_other_errors_are_left_alone(tmp_path, monkeypatch):
    def fail(words: str) -> None:
        with telling_lost_processes(tmp_path):
            raise RuntimeError(words)

    with pytest.raises(RuntimeError, match="closed by peer"):
        fail("[transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:1")
    monkeypatch.setattr("handeye.vision.training.distributed.process_state", lambda: SimpleNamespace(num_processes=2))
    with pytest.raises(TrainingError, match=f"was lost .*closed by peer.*--resume {re.escape(str(tmp_path))}"):
        fail("[transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:1\nmore")
    with pytest.raises(RuntimeError, match="shapes"):
        fail("shapes do not fit")


def test_each_process_measures_its_share_of_the_images(small_config, drawn_set, monkeypatch):
    # Nothing is suppressed: of near ties another batch could suppress the other.
    everything = Protocol("deployed", clip_boxes=True, score_threshold=0.0, iou_threshold=1.0)
    monkeypatch.setattr("handeye.vision.training.validate.PROTOCOLS", {"deployed": everything})
    config = small_config(evaluation={"batch_size": 4})
    annotations = read_split(config, drawn_set / "annotations.json", drawn_set / "images", "val", QUIET)
    torch.manual_seed(0)
    asked = (Detector(config.detector).eval(), annotations, drawn_set / "images", config.evaluation)
    alone = detect_all(*asked, torch.device("cpu"))
    shares: list[dict] = []
    monkeypatch.setattr("handeye.vision.training.validate.gather_object", lambda found: shares.extend(found) or shares)
    for index in (0, 1):
        process = SimpleNamespace(process_index=index, num_processes=2)
        monkeypatch.setattr("handeye.vision.training.validate.process_state", lambda process=process: process)
        together = detect_together(*asked, torch.device("cpu"))
    assert [len(share) for share in shares] == [5, 4]
    assert together.keys() == alone.keys()
    for image_id, found in alone.items():
        assert len(found) > 0
        np.testing.assert_allclose(together[image_id].scores, found.scores, atol=1e-6)


@pytest.fixture(scope="module")
def synchronised_config(small_config, drawn_set) -> TrainDetectorConfig:
    """A nano detector on the drawn set with mosaic; nothing is measured."""
    data = {"annotations": drawn_set / "annotations.json", "images": drawn_set / "images", "num_workers": 0}
    return small_config(max_steps=STEPS, epochs=STEPS, sync_batch_norm=True, data=data)


@pytest.fixture(scope="module")
def config_path(synchronised_config, tmp_path_factory) -> Path:
    """The same with frozen norms, as a file."""
    detector = Detector(synchronised_config.detector)
    norms = tuple(name for name, part in detector.named_modules() if isinstance(part, nn.BatchNorm2d))
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    path.write_text(dump_config(synchronised_config.model_copy(update={"freeze": norms})))
    return path


@pytest.fixture(scope="module")
def together(config_path, tmp_path_factory) -> RunFolder:
    """Two processes, from beginning to end."""
    return finished_run(tmp_path_factory.mktemp("together") / "run", config_path)


@pytest.fixture(scope="module")
def alone(config_path, tmp_path_factory) -> RunFolder:
    """The same in one process."""
    return train_to_step(load_config(TrainDetectorConfig, config_path), tmp_path_factory.mktemp("alone"), STEPS).run


def finished_run(path: Path, config_path: Path) -> RunFolder:
    subprocess.run(command(config_path, "--output", path), check=True, timeout=1800, **OPTIONS)
    return RunFolder(path)


def command(*words: str | Path) -> list[str]:
    """`handeye train` in two processes."""
    return [*TORCHRUN, "-m", "handeye", "train", *map(str, words)]


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
OPTIONS: dict[str, Any] = {
    "cwd": REPOSITORY,
    "env": {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
}


@pytest.mark.slow
def test_two_processes_are_one(alone, together):
    assert_same_training(together, alone)


@pytest.mark.long
def test_two_processes_with_synchronised_norms_are_one(synchronised_config, tmp_path):
    """To the last bit, and it must be: here a difference in the last bit is one in the first digit five steps later."""
    torch.set_num_threads(1)
    alone = train_to_step(synchronised_config, tmp_path, STEPS).run
    (tmp_path / "config.yaml").write_text(dump_config(synchronised_config))
    run = finished_run(tmp_path / "run", tmp_path / "config.yaml")
    assert_same_training(run, alone)
    ours, theirs = load_file(run.last), load_file(alone.last)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.slow
def test_two_processes_that_share_the_weights_go_on_where_one_was_and_are_one(config_path, alone, drawn_set, tmp_path):
    """From step 14 on, measured at the end; what they save is what one process saves."""
    measured = {"val_annotations": drawn_set / "annotations.json", "val_images": drawn_set / "images"}
    config = load_config(TrainDetectorConfig, config_path).model_copy(update={"shard_weights": True})
    config = config.model_copy(update={"data": config.data.model_copy(update=measured)})
    run = RunFolder.create(tmp_path / "run", config)
    train_to_step(config, run.path, 14)
    subprocess.run(command("--resume", run.path), check=True, timeout=1800, **OPTIONS)
    assert_same_training(run, alone)
    assert [entry["epoch"] for entry in run.metrics.read()] == [6, 7]
    ours, theirs = (torch.load(each.state, weights_only=True)["parts"] for each in (run, alone))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def assert_same_training(run: RunFolder, expected: RunFolder) -> None:
    pairs = list(zip(expected.steps.read(), run.steps.read(), strict=True))
    assert len(pairs) == STEPS
    for one, two in pairs:
        assert two["losses"] == pytest.approx(one["losses"], rel=1e-5, abs=1e-5)
        assert two["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=1e-4)
    ours, theirs = load_file(run.last), load_file(expected.last)
    assert max(float((ours[name].float() - theirs[name].float()).abs().max()) for name in theirs) < 1e-5


@pytest.mark.slow
def test_a_lost_process_ends_the_run_which_then_goes_on(config_path, together, tmp_path):
    run = RunFolder(tmp_path / "run")
    process = subprocess.Popen(command(config_path, "--output", run.path), stderr=subprocess.PIPE, text=True, **OPTIONS)
    assert process.stderr is not None
    wait_for_steps(run, 3, process)
    (second,) = (child for child in psutil.Process(process.pid).children() if child.environ().get("RANK") == "1")
    second.send_signal(signal.SIGKILL)
    _, told = process.communicate(timeout=600)
    assert process.returncode != 0
    # torchrun's own report; what the other process says of it races with the signals that torchrun sends it.
    assert "Signal 9 (SIGKILL)" in told
    assert 3 <= len(run.steps.read()) < STEPS
    subprocess.run(command("--resume", run.path), check=True, timeout=1800, **OPTIONS)
    assert run.steps.path.read_text() == together.steps.path.read_text()
    ours, theirs = load_file(run.last), load_file(together.last)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def wait_for_steps(run: RunFolder, number: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        assert process.poll() is None, "the run ended before a process could be lost"
        if len(run.steps.read()) >= number:
            return
        time.sleep(0.02)
    pytest.fail("the run made no steps")
