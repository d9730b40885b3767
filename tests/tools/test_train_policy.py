"""`handeye train-policy` from a recorded set with two cameras: it trains, goes on, exports, and the file acts."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from handeye.robot.datasets.format import Episode, colour_video, numbers
from handeye.robot.datasets.reader import EpisodeDataset
from handeye.robot.datasets.writer import EpisodeWriter
from handeye.robot.errors import PolicyInputError
from handeye.robot.learning.act_policy import ActPolicyConfig, Observations
from handeye.robot.learning.checkpoint import load_policy
from handeye.robot.learning.config import ImagesConfig, LeRobotDataConfig, TrainPolicyConfig
from handeye.robot.learning.data import PolicyBatch
from handeye.robot.learning.train import PolicyTraining
from handeye.robot.policies.onnx_policy import OnnxPolicy
from handeye.tools.command_line import run_command
from handeye.vision.config import dump_config
from tests.robot.learning.small_policy import CHUNK, small_network

FPS, LENGTH, SIZE_HW = 10, 8, (48, 64)
WRIST, SCENE = "observation.images.wrist", "observation.images.scene"
STEPS, STOPPED_AFTER = 4, 2


def write_demonstrations(folder: Path) -> None:
    names = ("q1", "q2", "grip")
    features = {"observation.state": numbers(names), "action": numbers(names)}
    features |= {WRIST: colour_video(*SIZE_HW), SCENE: colour_video(*SIZE_HW)}
    writer = EpisodeWriter.open(folder, FPS, features, "test arm")
    for number in range(4):
        rng = np.random.default_rng(number)
        states = np.cumsum(rng.normal(size=(LENGTH + 1, 3)), axis=0).astype(np.float32)
        columns: dict[str, np.ndarray] = {"observation.state": states[:-1], "action": states[1:]}
        for camera in (WRIST, SCENE):
            columns[camera] = rng.integers(0, 256, (LENGTH, *SIZE_HW, 3), dtype=np.uint8)
        writer.add(Episode(columns, "lift"))


def write_config(path: Path, root: Path) -> None:
    config = TrainPolicyConfig(
        policy=ActPolicyConfig(network=small_network(), relative_actions=2),
        data=LeRobotDataConfig(root=root),
        images=ImagesConfig(cameras=("wrist", "scene"), size_hw=(24, 32)),
        steps=STEPS,
        batch_size=3,
        evaluate_every_steps=2,
        save_every_steps=2,
    )
    path.write_text(dump_config(config), encoding="utf-8")


@pytest.mark.slow
def test_images_from_the_recording_to_a_file_that_acts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_demonstrations(tmp_path / "set")
    write_config(tmp_path / "act.yaml", tmp_path / "set")
    step = PolicyTraining.step

    def asked_to_stop(training: PolicyTraining, batch: PolicyBatch) -> tuple[dict[str, float], float]:
        if training.progress.step == STOPPED_AFTER - 1:
            signal.raise_signal(signal.SIGTERM)
        return step(training, batch)

    run = tmp_path / "run"
    monkeypatch.setattr(PolicyTraining, "step", asked_to_stop)
    assert run_command(["train-policy", str(tmp_path / "act.yaml"), "--output", str(run)]) == 1
    monkeypatch.setattr(PolicyTraining, "step", step)
    assert run_command(["train-policy", "--resume", str(run), "--json", str(tmp_path / "result.json")]) == 0
    steps = [json.loads(line)["step"] for line in (run / "steps.jsonl").read_text().splitlines()]
    assert steps == list(range(STEPS))

    result = json.loads((tmp_path / "result.json").read_text())
    assert result["finished"]
    assert result["export"]["parity"]["float32"] < 1e-3
    policy = OnnxPolicy.load(Path(result["export"]["files"]["float32"]), num_threads=1)
    assert policy.image_keys == (WRIST, SCENE)
    dataset = EpisodeDataset.open(tmp_path / "set")
    state = dataset.read_episode(0).columns["observation.state"][3]
    images = {key: dataset.read_images(0, key)[3] for key in policy.image_keys}
    chunk = policy.predict(state, images)
    assert chunk.shape == (CHUNK, 3)
    trained = load_policy(run / "best.safetensors").eval()
    seen = tuple(torch.from_numpy(policy._image(key, images[key])) for key in policy.image_keys)
    with torch.no_grad():
        wanted = trained(Observations(torch.from_numpy(state[None]), None, seen))[0]
    np.testing.assert_allclose(chunk, wanted.numpy(), atol=1e-4)
    swapped = policy.predict(state, {WRIST: images[SCENE], SCENE: images[WRIST]})
    assert np.abs(swapped - chunk).max() > 1e-4
    with pytest.raises(PolicyInputError, match="it was given"):
        policy.predict(state, {WRIST: images[WRIST]})


def test_a_camera_that_was_not_recorded_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_demonstrations(tmp_path / "set")
    write_config(tmp_path / "act.yaml", tmp_path / "set")
    words = ["train-policy", str(tmp_path / "act.yaml"), "--output", str(tmp_path / "run"), "images.cameras=[left]"]
    assert run_command(words) == 2
    assert "the demonstrations have no observation.images.left" in capsys.readouterr().err
