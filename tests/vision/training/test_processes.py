"""Training in several processes: the same as in one, and an end to it when one of them is lost.

The norms are frozen here: a batch norm sees the images of its own process only, and torch has synchronised ones for
GPUs only.
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

import psutil
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from vision.config import dump_config
from vision.detector import Detector
from vision.errors import ConfigError
from vision.training.processes import TrainingError, any_of_all, same_for_all, synchronise_norms, telling_lost_processes
from vision.training.run_folder import RunFolder

REPOSITORY = Path(__file__).resolve().parents[3]
STEPS = 20


def test_one_process_agrees_with_itself(tmp_path):
    assert any_of_all(True, torch.device("cpu"))
    assert not any_of_all(False, torch.device("cpu"))
    assert same_for_all(tmp_path) == tmp_path


def test_one_process_needs_no_synchronised_norms_and_cpus_have_none(monkeypatch):
    model = nn.Sequential(nn.BatchNorm2d(2))
    synchronise_norms(model, torch.device("cpu"))
    assert type(model[0]) is nn.BatchNorm2d
    monkeypatch.setattr("vision.training.processes.num_processes", lambda: 2)
    with pytest.raises(ConfigError, match="sync_batch_norm: .* GPUs"):
        synchronise_norms(model, torch.device("cpu"))
    synchronise_norms(model, torch.device("cuda"))
    assert type(model[0]) is nn.SyncBatchNorm


def test_the_loss_of_a_process_is_told_and_other_errors_are_left_alone(tmp_path, monkeypatch):
    def fail(words: str) -> None:
        with telling_lost_processes(tmp_path):
            raise RuntimeError(words)

    with pytest.raises(RuntimeError, match="closed by peer"):
        fail("[transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:1")
    monkeypatch.setattr("vision.training.processes.process_state", lambda: SimpleNamespace(num_processes=2))
    with pytest.raises(TrainingError, match=f"was lost .*closed by peer.*--resume {re.escape(str(tmp_path))}"):
        fail("[transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:1\nmore")
    with pytest.raises(RuntimeError, match="shapes"):
        fail("shapes do not fit")


@pytest.fixture(scope="module")
def config_path(small_config, drawn_set, tmp_path_factory) -> Path:
    """A nano detector whose norms are frozen, on the drawn set with mosaic; nothing is measured."""
    config = small_config(
        max_steps=STEPS,
        epochs=STEPS,
        data={"annotations": drawn_set / "annotations.json", "images": drawn_set / "images", "num_workers": 0},
    )
    norms = [name for name, part in Detector(config.detector).named_modules() if isinstance(part, nn.BatchNorm2d)]
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    path.write_text(dump_config(config.model_copy(update={"freeze": tuple(norms)})))
    return path


@pytest.fixture(scope="module")
def together(config_path, tmp_path_factory) -> RunFolder:
    """Two processes, from beginning to end."""
    return finished_run(tmp_path_factory.mktemp("together") / "run", config_path, num_processes=2)


def finished_run(path: Path, config_path: Path, num_processes: int) -> RunFolder:
    subprocess.run(
        command(config_path, "--output", path, num_processes=num_processes), check=True, timeout=500, **OPTIONS
    )
    return RunFolder(path)


def command(*words: str | Path, num_processes: int) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_processes}"]
    program = ["-m", "tools.command_line", "train", *map(str, words)]
    return [sys.executable, *(launcher if num_processes > 1 else []), *program]


OPTIONS: dict[str, Any] = {
    "cwd": REPOSITORY,
    "env": {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
}


@pytest.mark.slow
def test_two_processes_are_one(config_path, together, tmp_path):
    alone = finished_run(tmp_path / "alone", config_path, num_processes=1)
    pairs = list(zip(alone.steps.read(), together.steps.read(), strict=True))
    assert len(pairs) == STEPS
    for one, two in pairs:
        assert two["losses"] == pytest.approx(one["losses"], rel=1e-5, abs=1e-5)
        assert two["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=1e-4)
    ours, theirs = load_file(alone.last), load_file(together.last)
    assert max(float((ours[name].float() - theirs[name].float()).abs().max()) for name in ours) < 1e-5


@pytest.mark.slow
def test_a_lost_process_ends_the_run_which_then_goes_on(config_path, together, tmp_path):
    run = RunFolder(tmp_path / "run")
    process = subprocess.Popen(
        command(config_path, "--output", run.path, num_processes=2), stderr=subprocess.PIPE, text=True, **OPTIONS
    )
    assert process.stderr is not None
    wait_for_steps(run, 3, process)
    (second,) = (child for child in psutil.Process(process.pid).children() if child.environ().get("RANK") == "1")
    second.send_signal(signal.SIGKILL)
    _, told = process.communicate(timeout=60)
    assert process.returncode != 0
    # torchrun's own report; what the other process says of it races with the signals that torchrun sends it.
    assert "Signal 9 (SIGKILL)" in told
    assert 3 <= len(run.steps.read()) < STEPS
    subprocess.run(command("--resume", run.path, num_processes=2), check=True, timeout=500, **OPTIONS)
    assert run.steps.path.read_text() == together.steps.path.read_text()
    ours, theirs = load_file(run.last), load_file(together.last)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def wait_for_steps(run: RunFolder, number: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert process.poll() is None, "the run ended before a process could be lost"
        if len(run.steps.read()) >= number:
            return
        time.sleep(0.02)
    pytest.fail("the run made no steps")
