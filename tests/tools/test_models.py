"""`handeye models` and `handeye import`: from the published file to a detector that runs."""

from __future__ import annotations

import json

import pytest
import torch

from handeye.tools.command_line import run_command
from handeye.vision.checkpoints.native import load_detector, load_metadata
from handeye.vision.checkpoints.published import official_names, official_state_dict
from handeye.vision.checkpoints.torchvision_backbones import published_backbones
from handeye.vision.checkpoints.yolox import yolox_config
from handeye.vision.detector import Detector


def publish(path, num_classes: int) -> Detector:
    """A checkpoint file such as YOLOX's training writes, of a fresh nano detector."""
    torch.manual_seed(0)
    names = tuple(f"class_{index}" for index in range(num_classes))
    detector = Detector(yolox_config("nano", names)).eval()
    torch.save({"model": official_state_dict(detector), "start_epoch": 300}, path)
    return detector


def test_models_lists_every_model_with_its_licences(tmp_path, capsys):
    assert run_command(["models", "--json", str(tmp_path / "models.json")]) == 0
    content = json.loads((tmp_path / "models.json").read_text())
    assert [row["name"] for row in content["models"]] == official_names()
    assert [row["name"] for row in content["backbones"]] == list(published_backbones())
    assert content["models"][0]["parameters"] == 912_159
    assert content["backbones"][0]["parameters"] == 11_689_512
    assert {row["weights_licence"] for row in content["models"]} == {"Apache-2.0"}
    printed = capsys.readouterr().out
    assert "…" not in printed, "eighty columns must do"
    for row in (*content["models"], *content["backbones"]):
        assert row["name"] in printed
        mark = " " if row["weights_sha256_start"] else "*"
        assert f" {mark} {row['weights']}" in printed


def test_import_gives_a_native_checkpoint_of_the_same_function(tmp_path):
    published = publish(tmp_path / "yolox_nano.pth", 80)
    output = tmp_path / "nano.safetensors"
    words = ["import", "yolox_nano", str(tmp_path / "yolox_nano.pth"), "--output", str(output)]
    assert run_command([*words, "--json", str(tmp_path / "r.json")]) == 0
    detector = load_detector(output)
    images = torch.rand(1, 3, 64, 96) * 255
    with torch.no_grad():
        torch.testing.assert_close(detector(images).raw, published(images).raw)
    assert detector.config.class_names[0] == "person"
    assert load_metadata(output)["imported_as"] == "yolox_nano"
    assert json.loads((tmp_path / "r.json").read_text())["parameters"] == 912_159


@pytest.mark.parametrize(
    ("flags", "names"),
    [(["--num-classes", "2"], ("class_0", "class_1")), (["--class-names", "cup", "spoon"], ("cup", "spoon"))],
)
def test_import_of_weights_for_other_classes(tmp_path, flags, names):
    publish(tmp_path / "own.pth", 2)
    output = tmp_path / "own.safetensors"
    assert run_command(["import", "yolox_nano", str(tmp_path / "own.pth"), "--output", str(output), *flags]) == 0
    assert load_detector(output).config.class_names == names


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--output", "x.pth"], "ends in .safetensors"),
        (["--output", "x.safetensors"], "misshapen"),
        (["--output", "x.safetensors", "--num-classes", "3", "--class-names", "a", "b"], "--class-names gives 2"),
        (["--output", "x.safetensors", "--num-classes", "0"], "at least 1"),
    ],
)
def test_import_refuses_in_one_line_with_exit_code_2(tmp_path, capsys, monkeypatch, flags, complaint):
    monkeypatch.chdir(tmp_path)
    publish(tmp_path / "own.pth", 2)
    assert run_command(["import", "yolox_nano", "own.pth", *flags]) == 2
    printed = capsys.readouterr().err
    assert complaint in printed
    assert not (tmp_path / "x.safetensors").exists()
