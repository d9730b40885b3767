"""The whole loop: it learns, it writes what it promises, and going on equals never having stopped, bit for bit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from handeye.vision.config import dump_config
from handeye.vision.errors import ConfigError
from handeye.vision.training import loop
from handeye.vision.training import train_detector as module
from handeye.vision.training.distributed import TrainingError
from handeye.vision.training.run_folder import Journal, RunFolder
from handeye.vision.training.train_detector import Training, train_detector

QUIET = Console(quiet=True)
REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(small_config, tmp_path_factory, one_thread):
    """A run from beginning to end without a break, made once: what broken ones are compared with."""
    return train(small_config(), tmp_path_factory.mktemp("whole") / "run")


def train(config, path: Path):
    return train_detector(config, RunFolder.create(path, config), QUIET)


def same_weights(one: Path, other: Path) -> bool:
    first, second = load_file(one), load_file(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_leaves_what_it_promises(whole):
    run = whole.run
    assert whole.is_finished
    steps = run.steps.read()
    assert [entry["step"] for entry in steps] == list(range(9))
    assert {"total", "box", "objectness", "class"} <= set(steps[0]["losses"])
    assert "l1" in steps[-1]["losses"]
    assert "l1" not in steps[0]["losses"]
    measured = run.metrics.read()
    assert [(entry["epoch"], entry["step"]) for entry in measured] == [(2, 6), (3, 9)]
    assert all(0 <= entry["AP"] <= entry["AP50"] <= 1 for entry in measured)
    weights, plots = (
        ("last.safetensors", "best.safetensors"),
        ("losses", "metrics", "precision_recall", "f1", "confusion"),
    )
    for name in (*weights, *(f"{plot}.png" for plot in plots), "report.html", "constraints.txt"):
        assert (run.path / name).stat().st_size > 1000
    assert sorted(path.name for path in (run.path / "batches").iterdir()) == ["00.png", "01.png", "02.png"]
    assert json.loads(run.data.read_text())["train"]["boxes_of_class"].keys() == {"red", "green"}
    assert json.loads(run.evaluation.read_text())["epoch"] == 3
    assert run.report.read_text().count("data:image/png;base64,") >= len(plots) + 3
    assert not [path for path in run.path.iterdir() if "partial" in path.name]


@pytest.mark.parametrize(
    "stop_at", [pytest.param(1, marks=pytest.mark.slow), 6, pytest.param(8, marks=pytest.mark.slow)]
)
@pytest.mark.usefixtures("quick_figures")
def test_stopping_and_going_on_changes_nothing(small_config, whole, tmp_path, stop_at, monkeypatch):
    """Stopped by a signal: inside an epoch, before a measurement is made, among the weakly augmented epochs."""
    config = small_config()
    take_step = Training.step

    def step_and_signal(self, batch):
        outcome = take_step(self, batch)
        if self.progress.step == stop_at:
            signal.raise_signal(signal.SIGTERM)
        return outcome

    monkeypatch.setattr(Training, "step", step_and_signal)
    run = RunFolder.create(tmp_path / "parts", config)
    first = train_detector(config, run, QUIET)
    assert not first.is_finished
    assert first.progress.step == stop_at
    torch.manual_seed(1234)
    second = train_detector(config, run, QUIET)
    assert second.is_finished
    assert run.steps.path.read_text() == whole.run.steps.path.read_text()
    assert run.metrics.read() == whole.run.metrics.read()
    assert same_weights(run.last, whole.run.last)
    assert same_weights(run.best, whole.run.best)


QUERY_HEADS = {
    "detr": {"kind": "detr", "num_encoder_layers": 1, "dropout": 0.1},
    "rtdetr": {"kind": "rtdetr", "num_denoising": 8},
    "dfine": {"kind": "dfine", "num_denoising": 8},
}


@pytest.mark.parametrize(
    "head", ["rtdetr", *(pytest.param(name, marks=pytest.mark.slow) for name in ("detr", "dfine"))]
)
@pytest.mark.usefixtures("quick_figures")
def test_heads_of_queries_train_measure_and_go_on_as_if_never_stopped(small_config, tmp_path, head, monkeypatch):
    sizes = {"num_queries": 10, "hidden_dim": 16, "num_heads": 2, "num_decoder_layers": 2, "feed_forward_dim": 16}
    detector = {
        "backbone": {"kind": "cspdarknet", "depth": 0.33, "width": 0.125},
        "neck": {"kind": "levels", "num_levels": 1 if head == "detr" else 3},
        "head": QUERY_HEADS[head] | sizes,
        "preprocessing": {"size_hw": [96, 96]},
    }
    optimizer = {"kind": "adamw", "lr": 0.001, "backbone_lr_factor": 0.1}
    config = small_config(detector=detector, optimizer=optimizer, clip_norm=1.0, epochs=2)
    straight = train(config, tmp_path / "straight")
    assert straight.is_finished
    assert straight.progress.best_value is not None
    assert {"total", "class", "l1", "giou", "auxiliary"} <= set(straight.run.steps.read()[0]["losses"])
    take_step = Training.step

    def step_and_signal(self, batch):
        outcome = take_step(self, batch)
        if self.progress.step == 2:
            signal.raise_signal(signal.SIGTERM)
        return outcome

    run = RunFolder.create(tmp_path / "parts", config)
    with monkeypatch.context() as patched:
        patched.setattr(Training, "step", step_and_signal)
        assert not train_detector(config, run, QUIET).is_finished
    torch.manual_seed(99)
    assert train_detector(config, run, QUIET).is_finished
    assert run.steps.path.read_text() == straight.run.steps.path.read_text()
    assert same_weights(run.last, straight.run.last)


def test_going_on_after_the_end_does_nothing(small_config, whole):
    before = whole.run.last.read_bytes()
    again = train_detector(small_config(), whole.run, QUIET)
    assert again.is_finished
    assert again.progress == whole.progress
    assert whole.run.last.read_bytes() == before


@pytest.mark.usefixtures("quick_figures")
def test_a_kill_between_measuring_and_saving_leaves_no_double_entry(small_config, whole, tmp_path, monkeypatch):
    """The journal has the measurement, the state does not know of it yet: it is made again, not twice."""
    run = RunFolder.create(tmp_path / "run", small_config())
    save = Training.save

    def die_after_measuring(self):
        if self.progress.evaluated_epoch == 2:
            raise KeyboardInterrupt
        save(self)

    with monkeypatch.context() as patched:
        patched.setattr(Training, "save", die_after_measuring)
        with pytest.raises(KeyboardInterrupt):
            train_detector(small_config(), run, QUIET)
    assert len(run.metrics.read()) == 1
    assert train_detector(small_config(), run, QUIET).is_finished
    assert run.metrics.read() == whole.run.metrics.read()
    assert same_weights(run.best, whole.run.best)


@pytest.mark.usefixtures("quick_figures")
def test_a_full_disk_is_told_and_costs_no_good_file(small_config, tmp_path, monkeypatch):
    run = RunFolder.create(tmp_path / "run", small_config())
    save_state = loop.save_state

    def no_space_later(path, progress, states):
        if progress.step > 2:
            raise OSError(28, "No space left on device")
        save_state(path, progress, states)

    monkeypatch.setattr(loop, "save_state", no_space_later)
    with pytest.raises(TrainingError, match=r"No space left.*--resume"):
        train_detector(small_config(), run, QUIET)
    assert torch.load(run.state, weights_only=True)["progress"]["step"] == 2


def test_a_disk_without_room_is_told_before_the_weights_are_touched(small_config, tmp_path, monkeypatch):
    training = Training(small_config(), RunFolder.create(tmp_path / "run", small_config()), QUIET)
    training.save()
    weights, state = training.run.last.read_bytes(), training.run.state.read_bytes()
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=2**20))
    with pytest.raises(TrainingError, match=r"No space left.* are needed, 1 MiB are free.*--resume"):
        training.save()
    assert (training.run.last.read_bytes(), training.run.state.read_bytes()) == (weights, state)


@pytest.mark.usefixtures("quick_figures")
def test_a_disk_that_fills_up_between_two_saves_is_told(small_config, tmp_path, monkeypatch):
    run = RunFolder.create(tmp_path / "run", small_config())
    append = Journal.append

    def no_space_at_step_3(self, entry):
        if entry["step"] == 3:
            raise OSError(28, "No space left on device", str(self.path))
        append(self, entry)

    monkeypatch.setattr(Journal, "append", no_space_at_step_3)
    with pytest.raises(TrainingError, match=r"steps\.jsonl: No space left on device; .*--resume"):
        train_detector(small_config(), run, QUIET)
    assert torch.load(run.state, weights_only=True)["progress"]["step"] == 3


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "handeye", "train", *map(str, words)]


def wait_for_steps(run: RunFolder, number: int, process: subprocess.Popen) -> None:
    """Until so many steps are in the journal; the process must not end by itself before."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        assert process.poll() is None, "the run ended before it could be killed"
        if run.steps.path.exists() and run.steps.path.read_bytes().count(b"\n") >= number:
            return
        time.sleep(0.01)
    pytest.fail("the run made no steps")


@pytest.fixture(scope="module")
def kept_alive(small_config, tmp_path_factory) -> RunFolder:
    """A run by the command, with a loader worker, that nobody killed; config.yaml beside it is what it was told."""
    folder = tmp_path_factory.mktemp("alive")
    (folder / "config.yaml").write_text(dump_config(small_config(epochs=6)))
    words = command(folder / "config.yaml", "data.num_workers=1", "--output", folder / "run")
    subprocess.run(words, check=True, timeout=1800, **IN_SILENCE)
    return RunFolder(folder / "run")


IN_SILENCE: dict[str, Any] = {
    "cwd": REPOSITORY,
    "env": {**os.environ, "OMP_NUM_THREADS": "1"},
    "stdout": subprocess.DEVNULL,
    "stderr": subprocess.DEVNULL,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "kill_after", [pytest.param(1, marks=pytest.mark.long), 4, pytest.param(9, marks=pytest.mark.long)]
)
def test_kill_9_and_resume_equal_an_uninterrupted_run(kept_alive, tmp_path, kill_after):
    """In processes of their own, with loader workers, as a user's run is killed."""
    killed, config_path = RunFolder(tmp_path / "killed"), kept_alive.path.parent / "config.yaml"
    process = subprocess.Popen(command(config_path, "data.num_workers=1", "--output", killed.path), **IN_SILENCE)
    wait_for_steps(killed, kill_after, process)
    process.kill()
    process.wait()
    result = tmp_path / "result.json"
    subprocess.run(command("--resume", killed.path, "--json", result), check=True, timeout=1800, **IN_SILENCE)
    assert killed.steps.path.read_text() == kept_alive.steps.path.read_text()
    assert same_weights(killed.last, kept_alive.last)
    assert same_weights(killed.best, kept_alive.best)
    assert json.loads(result.read_text())["best"]["metric"] == "AP"


@pytest.mark.slow
def test_a_signal_to_the_whole_process_group_saves_the_state(small_config, tmp_path):
    """As a terminal or a batch system sends it: loader workers receive it too, and must not die of it first."""
    config_path, run = tmp_path / "config.yaml", RunFolder(tmp_path / "run")
    config_path.write_text(dump_config(small_config(epochs=200, save_every_steps=10_000)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command(config_path, "data.num_workers=2", "--output", run.path),
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for_steps(run, 4, process)
    os.killpg(process.pid, signal.SIGTERM)
    told, _ = process.communicate(timeout=600)
    assert process.returncode == 1
    steps_done = torch.load(run.state, weights_only=True)["progress"]["step"]
    assert steps_done == len(run.steps.read())
    assert told.startswith(f"stopped after step {steps_done}; resume with: handeye train --resume")


def test_a_loss_that_is_not_finite_stops_before_the_weights(small_config, tmp_path, monkeypatch):
    config = small_config()
    normalise = module.normalise_images
    calls = []

    def spoil_the_third(images, preprocessing):
        calls.append(1)
        values = normalise(images, preprocessing)
        return values * float("nan") if len(calls) == 3 else values

    monkeypatch.setattr(module, "normalise_images", spoil_the_third)
    run = RunFolder.create(tmp_path / "run", config)
    with pytest.raises(TrainingError, match="step 2: the loss is not finite") as caught:
        train_detector(config, run, QUIET)
    assert "bad_batch.pt" in str(caught.value)
    assert len(run.steps.read()) == 2
    kept = torch.load(run.path / "bad_batch.pt", weights_only=True)
    assert kept["images"].dtype == torch.uint8
    assert all(torch.isfinite(value).all() for value in load_file(run.last).values() if value.is_floating_point())


@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_a_step_is_as_long_as_its_clipped_gradients(small_config, tmp_path, clip_norm):
    """Plain gradient descent moves the weights by rate times the norm, or times clip_norm where that is smaller."""
    optimizer = {"kind": "sgd", "lr_per_image": 0.001, "momentum": 0.0, "weight_decay": 0.0}
    training = Training(small_config(optimizer=optimizer, clip_norm=clip_norm), RunFolder(tmp_path), QUIET)
    before = [parameter.detach().clone() for parameter in training.network.parameters()]
    _, rate = training.step(training.samples.make_batch(training.plan.requests(0)))
    pairs = zip(before, training.network.parameters(), strict=True)
    moved = sum(float((new.detach() - old).double().square().sum()) for old, new in pairs) ** 0.5
    (entry,) = training.run.steps.read()
    assert entry["gradient_norm"] > 0.5
    assert moved == pytest.approx(rate * (clip_norm or entry["gradient_norm"]), rel=1e-2)


def test_gradients_that_are_not_finite_stop_before_the_weights(small_config, tmp_path, monkeypatch):
    training = Training(small_config(), RunFolder(tmp_path), QUIET)
    before = [parameter.detach().clone() for parameter in training.network.parameters()]
    monkeypatch.setattr(training.accelerator, "backward", lambda loss: (loss * float("inf")).backward())
    with pytest.raises(TrainingError, match="the gradients are not finite"):
        training.step(training.samples.make_batch(training.plan.requests(0)))
    assert all(torch.equal(old, new) for old, new in zip(before, training.network.parameters(), strict=True))


def test_the_classes_come_from_the_annotations_or_must_agree(small_config, tmp_path):
    training = Training(small_config(), RunFolder(tmp_path), QUIET)
    assert training.network.config.class_names == ("red", "green")
    wrong = small_config(detector={"class_names": ["red", "blue"]})
    with pytest.raises(ConfigError, match=r"class_names is \['red', 'blue'\], but .* has \['red', 'green'\]"):
        Training(wrong, RunFolder(tmp_path), QUIET)


@pytest.mark.usefixtures("quick_figures")
def test_without_validation_images_it_trains_and_measures_nothing(small_config, drawn_set, tmp_path):
    data = {"annotations": drawn_set / "annotations.json", "images": drawn_set / "images", "num_workers": 0}
    result = train(small_config(data=data, epochs=1), tmp_path / "run")
    assert result.is_finished
    assert result.progress.best_value is None
    assert result.run.metrics.read() == []
    assert result.run.last.exists()
    assert not result.run.best.exists()


@pytest.mark.long
def test_it_overfits_a_few_images(small_config, tmp_path):
    # Colours alone tell the classes apart, so they stay as they are; seeds 0 and 2 reach an AP50 of 0.98 and 1.
    config = small_config(
        epochs=120,
        seed=0,
        augmentation={
            "mosaic": {"probability": 0},
            "flip_probability": 0,
            "hsv": {"hue": 0, "saturation": 0, "value": 0},
            "weak_last_epochs": 120,
        },
        l1_last_epochs=40,
        optimizer={"kind": "adamw", "lr": 0.003, "betas": [0.9, 0.99]},
        clip_norm=5.0,
        schedule={"warmup_epochs": 5, "constant_last_epochs": 0, "final_fraction": 0.02},
        ema={"decay": 0.95, "ramp_steps": 20},
        evaluation={"every_epochs": 120, "metric": "AP50"},
        save_every_steps=1000,
    )
    result = train(config, tmp_path / "run")
    assert result.progress.best_value is not None
    assert result.progress.best_value > 0.9
