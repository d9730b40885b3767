"""`handeye export`: a checkpoint becomes a file that the other verbs take, with proof; wrong requests are one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from handeye.tools.command_line import run_command
from handeye.vision.checkpoints.native import save_detector
from handeye.vision.checkpoints.yolox import yolox_config
from handeye.vision.detector import Detector, DetectorConfig
from handeye.vision.images import Preprocessing
from handeye.vision.runtime.image_detector import ImageDetector

NAMES = ("cube", "ball")
BLOOD_CELLS = Path(__file__).resolve().parents[1] / "data/yolox/blood_cells.onnx"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = yolox_config("nano", NAMES).model_dump() | {"preprocessing": Preprocessing(size_hw=(64, 96)).model_dump()}
    path = tmp_path_factory.mktemp("run") / "best.safetensors"
    save_detector(path, Detector(DetectorConfig.model_validate(config)))
    return path


def dataset(tmp_path: Path) -> list[str]:
    """One annotated image, as options of the command."""
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
        ("best.pt", [], "expected a native checkpoint"),
        ("best.onnx", [], "best.onnx"),
        ("best.onnx", ["--classes", "cube"], "this is an ONNX file already"),
        ("best.safetensors", ["--format", "int8,int8-x86"], "--calibrate FOLDER or ANNOTATIONS"),
        (
            "best.safetensors",
            ["--format", "int8", "--calibrate", "nowhere"],
            "nowhere: cannot be read: there is no such",
        ),
        ("best.safetensors", ["--format", "onnx,tflite"], "--format tflite"),
        ("best.safetensors", ["--images", "somewhere"], "belong together"),
        ("absent.safetensors", [], "absent.safetensors"),
        ("best.safetensors", ["--compare", "a/earlier.onnx", "b/earlier.onnx"], "two rows would be called earlier"),
        ("best.safetensors", ["--compare", "a/float32.onnx"], "two rows would be called float32"),
        ("best.safetensors", ["--compare", "absent.onnx"], "absent.onnx"),
        ("best.safetensors", ["--compare", str(BLOOD_CELLS)], "expected a detector for images of (64, 96), found"),
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


@pytest.mark.slow
def test_int8_and_float16_share_a_report_with_float32(checkpoint: Path, tmp_path: Path, capsys):
    data = dataset(tmp_path)
    wanted = ["--format", "fp16,int8-plain,int8-openvino", "--calibrate", str(tmp_path / "annotations.json")]
    quick = ["--allowed-loss", "1", "--pause-s", "0", "--threads", "1", "--report"]
    output = ["--output", str(tmp_path / "out"), "--json", str(tmp_path / "r.json")]
    assert run_command(["export", str(checkpoint), "--output", str(tmp_path / "before")]) == 0
    earlier = (tmp_path / f"before/{checkpoint.stem}.onnx").rename(tmp_path / "earlier.onnx")
    code = run_command(["export", str(checkpoint), *wanted, *quick, *output, *data, "--compare", str(earlier)])
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["AP"]["earlier"] == result["AP"]["float32"]
    assert Path(result["files"].pop("earlier")) == earlier
    assert set(result["files"]) == {"float32", "float16", "int8_openvino", "int8_plain"}
    assert set(result["rejected"] if code else {}) <= {"int8_openvino"}, "only its speed can fail here"
    for precision, name in result["files"].items():
        detector = ImageDetector.load(Path(name), engine="onnxruntime", num_threads=1)
        assert detector.class_names == NAMES
        assert (precision == "float32") != (f"; {precision}" in detector.manifest.made_by)
        assert {entry["threads"] for entry in result["latency"][precision].values()} == {1}
    assert result["bytes"]["float16"] < 0.65 * result["bytes"]["float32"]
    assert result["recipes"]["int8_plain"]["float_layers"] == []
    assert (tmp_path / "out/report.html").is_file()
    assert float(result["facts"]["GFLOPs"]) > 0
    assert "float16: made for tensorrt, which is not installed here" in capsys.readouterr().out


@pytest.mark.slow
def test_ranges_learned_in_training_need_no_images(checkpoint: Path, tmp_path: Path):
    import onnx
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    from handeye.export.graph.graph_index import GraphIndex
    from handeye.export.graph.onnx_export import export_onnx
    from handeye.export.quantization.int8_recipe import module_name
    from handeye.vision.checkpoints.native import RANGES_KEY, load_detector

    export_onnx(load_detector(checkpoint), tmp_path / "float.onnx")
    layers = [module_name(node.name) for node in GraphIndex(onnx.load(tmp_path / "float.onnx").graph).layers()]
    ranges = {name: 5.0 for name in layers if name.startswith("neck")}
    with safe_open(checkpoint, "pt") as opened:
        metadata = opened.metadata() | {RANGES_KEY: json.dumps(ranges)}
    save_file(load_file(checkpoint), tmp_path / "trained.safetensors", metadata)
    output = ["--output", str(tmp_path / "out"), "--json", str(tmp_path / "r.json"), "--pause-s", "0"]
    assert run_command(["export", str(tmp_path / "trained.safetensors"), "--format", "int8", *output]) == 0
    recipe = json.loads((tmp_path / "r.json").read_text())["recipes"]["int8"]
    assert recipe["calibrator"] == "learned"
    assert recipe["layers"] - len(recipe["float_layers"]) == len(ranges) > 5


@pytest.mark.slow
def test_nms_goes_into_the_graph(checkpoint: Path, tmp_path: Path):
    words = [
        "--nms",
        "in-graph",
        "--iou-threshold",
        "0.5",
        "--output",
        str(tmp_path),
        "--json",
        str(tmp_path / "r.json"),
    ]
    assert run_command(["export", str(checkpoint), *words, *dataset(tmp_path)]) == 0
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["parity"]["float32"] < 1e-3
    assert 0 <= result["AP"]["float32"] <= 1
    detector = ImageDetector.load(Path(result["files"]["float32"]), num_threads=1)
    assert detector.session.outputs == {"boxes": (1, 300, 6)}
    assert detector.iou_threshold == 0.5


@pytest.mark.slow
def test_free_shapes_are_proved_too(checkpoint: Path, tmp_path: Path):
    words = ["--dynamic-batch", "--dynamic-size", "--output", str(tmp_path), "--json", str(tmp_path / "r.json")]
    assert run_command(["export", str(checkpoint), *words]) == 0
    engines = [engine["engine"] for engine in json.loads((tmp_path / "r.json").read_text())["engines"]]
    assert len(engines) == 2 + 2 * 4
    assert any(engine.endswith(", 3x64x160") for engine in engines)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["a.onnx", "--dynamic-batch"], "for a checkpoint"),
        (["a.safetensors", "--nms", "in-graph", "--dynamic-batch"], "boxes of one image"),
    ],
)
def test_impossible_shapes_are_rejected(words: list[str], reason: str, capfd: pytest.CaptureFixture[str]):
    assert run_command(["export", *words]) == 2
    assert reason in capfd.readouterr().err
