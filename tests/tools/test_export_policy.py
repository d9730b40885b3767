"""`handeye export-policy`: a file that computes what the checkpoint does, or a reason why there is none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from handeye.export.graph.operator_support import SUPPORTED
from handeye.robot.learning.act_policy import Observations
from handeye.robot.learning.checkpoint import save_policy
from handeye.robot.policies.onnx_policy import OnnxPolicy, read_policy_manifest
from handeye.tools import export_policy
from handeye.tools.command_line import run_command
from tests.robot.learning.small_policy import small_policy


def test_the_file_computes_what_the_checkpoint_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = small_policy(relative=2)
    save_policy(tmp_path / "best.safetensors", policy)
    output, summary = tmp_path / "pick.onnx", tmp_path / "summary.json"
    words = ["export-policy", str(tmp_path / "best.safetensors"), "--output", str(output), "--json", str(summary)]
    assert run_command(words) == 0
    state, environment = np.array([0.4, -0.2, 1.0], dtype=np.float32), np.array([0.3, 0.1], dtype=np.float32)
    with torch.no_grad():
        wanted = policy(Observations(torch.from_numpy(state[None]), torch.from_numpy(environment[None])))[0]
    found = OnnxPolicy.load(output, engine="onnxruntime", num_threads=1).predict(state, {}, environment)
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-5)
    assert "best.safetensors" in read_policy_manifest(output).made_by
    content = json.loads(summary.read_text())
    assert content["faithful"] is True
    assert content["bytes"]["float32"] == output.stat().st_size
    assert str(output) in capsys.readouterr().out


def test_an_engine_that_computes_something_else_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_policy(tmp_path / "best.safetensors", small_policy())
    monkeypatch.setattr(export_policy, "PARITY_LIMIT", -1.0)
    assert run_command(["export-policy", str(tmp_path / "best.safetensors"), "--output", str(tmp_path / "p.onnx")]) == 1
    assert "; not faithful in " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "output", "message"),
    [
        ("best.safetensors", "pick.engine", "ends in .onnx"),
        ("absent.safetensors", "pick.onnx", "no such file"),
        ("text.safetensors", "pick.onnx", "not a readable safetensors file"),
    ],
)
def test_mistakes_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, output: str, message: str
) -> None:
    save_policy(tmp_path / "best.safetensors", small_policy())
    (tmp_path / "text.safetensors").write_text("no weights")
    assert run_command(["export-policy", str(tmp_path / name), "--output", str(tmp_path / output)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / output).exists()


def test_a_layer_that_tensorrt_does_not_take_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(SUPPORTED, "Softmax")
    save_policy(tmp_path / "best.safetensors", small_policy())
    output = tmp_path / "pick.onnx"
    assert run_command(["export-policy", str(tmp_path / "best.safetensors"), "--output", str(output)]) == 2
    told = capsys.readouterr().err
    assert "(Softmax)" in told
    assert "layer '/" in told
    assert not output.exists()
