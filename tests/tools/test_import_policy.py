"""`handeye import-policy`: from the folder that LeRobot stores to an ONNX file that computes what LeRobot computed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from handeye.robot.datasets.format import Episode, numbers
from handeye.robot.datasets.writer import EpisodeWriter
from handeye.robot.learning.checkpoint import load_policy
from handeye.robot.policies.onnx_policy import OnnxPolicy
from handeye.robot.types import ACTION_KEY, STATE_KEY
from handeye.tools.command_line import run_command
from tests.robot.learning.test_import_lerobot import RECORDED, recorded_of, weights_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(RECORDED / "state", tmp_path / "theirs")
    save_file(weights_of("state"), tmp_path / "theirs/model.safetensors")
    return tmp_path / "theirs"


def test_imported_and_exported_it_gives_the_chunks_of_lerobot(folder: Path, tmp_path: Path) -> None:
    checkpoint, onnx, summary = (tmp_path / name for name in ("ours.safetensors", "ours.onnx", "summary.json"))
    words = ["import-policy", str(folder), "--fps", "25", "--output", str(checkpoint), "--json", str(summary)]
    assert run_command(words) == 0
    assert run_command(["export-policy", str(checkpoint), "--output", str(onnx)]) == 0
    recorded, policy = recorded_of("state"), OnnxPolicy.load(onnx, engine="onnxruntime", num_threads=1)
    state, environment = recorded["observation.state"], recorded["observation.environment_state"]
    for row, wanted in enumerate(recorded["chunk"]):
        np.testing.assert_allclose(policy.predict(state[row], {}, environment[row]), wanted, atol=2e-5)
    content = json.loads(summary.read_text())
    assert content["signature"]["fps"] == policy.fps == 25
    assert content["parameters"] > 10_000


def test_the_data_set_names_the_numbers_and_tells_their_rate(folder: Path, tmp_path: Path) -> None:
    """Its eight numbers of state are what the policy was given as five of state and three of environment."""
    features = {STATE_KEY: numbers(tuple("abcdefgh")), ACTION_KEY: numbers(("left", "right", "up", "grip"))}
    columns = {STATE_KEY: np.zeros((3, 8), np.float32), ACTION_KEY: np.zeros((3, 4), np.float32)}
    EpisodeWriter.open(tmp_path / "set", 30, features, "test arm").add(Episode(columns, "pick"))
    output = tmp_path / "ours.safetensors"
    words = ["import-policy", str(folder), "--dataset", str(tmp_path / "set"), "--output", str(output)]
    assert run_command(words) == 0
    signature = load_policy(output).signature
    assert signature.fps == 30
    assert (signature.state_names, signature.environment_names) == (tuple("abcde"), tuple("fgh"))
    assert signature.action_names == ("left", "right", "up", "grip")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--fps": "0"}, "--fps 0: expected at least 1"),
        ({"--dataset": "demonstrations"}, "demonstrations: not a data set of demonstrations: no such folder"),
        ({"--output": "ours.onnx"}, "ends in .safetensors"),
    ],
)
def test_wrong_options_are_told(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, str], message: str
) -> None:
    options = {"--fps": "25", "--output": str(tmp_path / "ours.safetensors")} | changes
    words = [word for pair in options.items() for word in pair]
    assert run_command(["import-policy", str(folder), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "ours.safetensors").exists()


def test_neither_data_set_nor_rate_is_told(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["import-policy", str(folder), "--output", str(tmp_path / "ours.safetensors")]) == 2
    assert "expected either --dataset" in capsys.readouterr().err


def test_a_folder_without_a_policy_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = str(tmp_path / "ours.safetensors")
    assert run_command(["import-policy", str(tmp_path), "--fps", "25", "--output", output]) == 2
    assert "config.json: cannot be read" in capsys.readouterr().err
