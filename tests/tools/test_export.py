"""`handeye export`: a checkpoint becomes a file that the other verbs take, with proof; wrong requests are one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tools.command_line import run_command
from vision.checkpoints.native import save_detector
from vision.checkpoints.zoo import yolox_config
from vision.detector import Detector, DetectorConfig
from vision.images import Preprocessing
from vision.runtime.image_detector import ImageDetector

NAMES = ("cube", "ball")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = yolox_config("nano", NAMES).model_dump() | {"preprocessing": Preprocessing(size_hw=(64, 96)).model_dump()}
    path = tmp_path_factory.mktemp("run") / "best.safetensors"
    save_detector(path, Detector(DetectorConfig.model_validate(config)))
    return path


def dataset(tmp_path: Path) -> list[str]:
    """One annotated picture, as options of the command."""
    import cv2

    assert cv2.imwrite(str(tmp_path / "1.png"), np.zeros((48, 64, 3), np.uint8))
    content = {
        "images": [{"id": 1, "file_name": "1.png", "width": 64, "height": 48}],
        "categories": [{"id": 3, "name": "cube"}, {"id": 5, "name": "ball"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 1, 20, 20]}],
    }
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    return ["--annotations", str(tmp_path / "annotations.json"), "--images", str(tmp_path)]


def test_a_checkpoint_becomes_an_onnx_file_with_proof(checkpoint: Path, tmp_path: Path, capsys):
    output = ["--output", str(tmp_path / "out"), "--json", str(tmp_path / "r.json"), "--score-threshold", "0.25"]
    assert run_command(["export", str(checkpoint), "--format", "onnx", *output, *dataset(tmp_path)]) == 0
    result = json.loads((tmp_path / "r.json").read_text())
    path = Path(result["files"]["float32"])
    assert path == tmp_path / "out/best.onnx"
    assert result["bytes"]["float32"] == path.stat().st_size
    assert 0 <= result["parity"]["float32"] < 1e-3
    assert 0 <= result["AP"]["float32"] <= 1
    assert {engine["engine"].split()[0] for engine in result["engines"]} == {"openvino", "onnxruntime"}
    detector = ImageDetector.load(path, num_threads=1)
    assert detector.class_names == NAMES
    assert detector.score_threshold == 0.25
    assert "best.safetensors (sha256 " in detector.manifest.made_by
    assert "worst difference from torch" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model", "options", "told"),
    [
        ("best.onnx", [], "expected a native checkpoint"),
        ("best.safetensors", ["--format", "onnx,tflite"], "--format tflite"),
        ("best.safetensors", ["--images", "somewhere"], "belong together"),
        ("absent.safetensors", [], "absent.safetensors"),
    ],
)
def test_wrong_requests_are_one_line(
    checkpoint: Path, tmp_path: Path, capfd, model: str, options: list[str], told: str
):
    path = checkpoint.parent / model
    assert run_command(["export", str(path), "--output", str(tmp_path), *options]) == 2
    errors = capfd.readouterr().err
    assert told in errors
    assert len(errors.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
