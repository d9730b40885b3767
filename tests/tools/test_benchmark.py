"""`handeye benchmark`: every engine, every stage, in JSON; wrong requests are one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from handeye.tools.command_line import run_command


@pytest.fixture
def model(sample) -> list[str]:
    return [str(sample("yolox/blood_cells_raw.onnx")), "--model-format", "yolox", "--threads", "1"]


def test_every_installed_engine_is_measured_and_the_fastest_leads(model: list[str], tmp_path: Path, capsys):
    options = ["--repeats", "5", "--pause-s", "0", "--json", str(tmp_path / "r.json")]
    assert run_command(["benchmark", *model, *options]) == 0
    result = json.loads((tmp_path / "r.json").read_text())
    assert {entry["engine"].split()[0] for entry in result["engines"]} == {"openvino", "onnxruntime"}
    assert result["fps"] == max(entry["fps"] for entry in result["engines"])
    assert result["images"] == 5
    assert result["threads"] == 1
    assert result["input_hw"] == [224, 224]
    assert list(result["stages"]) == ["read", "preprocess", "infer", "postprocess", "total"]
    assert all(times["p50_ms"] > 0 for times in result["stages"].values())
    assert "openvino" in capsys.readouterr().out


def test_one_engine_on_real_images(model: list[str], sample, tmp_path: Path):
    images = ["--images", str(sample("bccd/JPEGImages")), "--repeats", "3", "--engine", "onnxruntime"]
    assert run_command(["benchmark", *model, *images, "--json", str(tmp_path / "r.json")]) == 0
    engines = json.loads((tmp_path / "r.json").read_text())["engines"]
    assert [entry["engine"].split()[0] for entry in engines] == ["onnxruntime"]


def test_a_folder_without_images_is_one_line(model: list[str], tmp_path: Path, capfd):
    for folder, told in ((tmp_path, "contains no image"), (tmp_path / "absent", "not a folder of images")):
        assert run_command(["benchmark", *model, "--images", str(folder)]) == 2
        assert told in capfd.readouterr().err
