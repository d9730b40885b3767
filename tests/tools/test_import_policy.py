"""`handeye import-policy`: from the folder that LeRobot stores to an ONNX file that computes what LeRobot computed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from robot.policy.onnx_policy import OnnxPolicy
from tests.robot.policy.test_lerobot_checkpoint import RECORDED, recorded_of, weights_of
from tools.command_line import run_command


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--fps": "0"}, "--fps 0: expected at least 1"),
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


def test_a_folder_without_a_policy_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = str(tmp_path / "ours.safetensors")
    assert run_command(["import-policy", str(tmp_path), "--fps", "25", "--output", output]) == 2
    assert "config.json: cannot be read" in capsys.readouterr().err
