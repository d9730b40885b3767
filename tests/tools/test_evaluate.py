"""`handeye evaluate` measures known figures of known networks, in both engines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from handeye.tools.command_line import run_command

SHIPPED_AP = {"deployed": 0.5099, "published": 0.5075}
SHIPPED_AP50 = 0.8360
"""Of the network in tests/data on the eight test images there; tests/data/README.md has those of all 72."""
SUMMARY = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]


@pytest.mark.parametrize("engine", ["onnxruntime", pytest.param("openvino", marks=pytest.mark.slow)])
def test_official_yolox_nano_reaches_its_ap(shared, tmp_path: Path, engine: str):
    words = [
        *("evaluate", str(shared("data/yolox_nano_coco/yolox_nano.onnx")), "--model-format", "yolox"),
        *("--annotations", str(shared("data/coco_mini/annotations/instances_val2017.json"))),
        *("--images", str(shared("data/coco_mini/val2017"))),
        *("--json", str(tmp_path / "r.json"), "--engine", engine, "--threads", "1"),
    ]
    assert run_command(words) == 0
    assert json.loads((tmp_path / "r.json").read_text())["AP"] == pytest.approx(0.341, abs=0.001)
    assert run_command([*words, "--protocol", "published"]) == 0
    result = json.loads((tmp_path / "r.json").read_text())
    assert list(result)[:12] == SUMMARY
    assert result["protocol"] == "published"
    assert result["AP"] == pytest.approx(0.339, abs=0.001)
    assert result["AP50"] == pytest.approx(0.520, abs=0.001)
    assert result["AP75"] == pytest.approx(0.366, abs=0.001)
    assert result["images"] == 48
    assert result["engine"].startswith(engine)
    assert list(result["stages"]) == ["read", "preprocess", "infer", "postprocess", "total"]


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    ("name", "model_format"), [("blood_cells", []), ("blood_cells_raw", ["--model-format", "yolox"])]
)
@pytest.mark.parametrize("protocol", ["deployed", "published"])
def test_the_shipped_blood_cell_network_reaches_its_ap(
    sample, tmp_path: Path, engine: str, name: str, model_format: list[str], protocol: str
):
    words = ["evaluate", str(sample(f"yolox/{name}.onnx")), *model_format, "--engine", engine, "--threads", "1"]
    words += ["--annotations", str(sample("bccd/coco_json/instances_test.json"))]
    words += ["--images", str(sample("bccd/JPEGImages")), "--json", str(tmp_path / "r.json")]
    words += ["--protocol", protocol]
    assert run_command(words) == 0
    result = json.loads((tmp_path / "r.json").read_text())
    assert list(result)[:12] == SUMMARY
    assert result["AP"] == pytest.approx(SHIPPED_AP[protocol], abs=0.002)
    assert result["AP50"] == pytest.approx(SHIPPED_AP50, abs=0.002)
    assert result["images"] == 8
    assert result["engine"].startswith(engine)


def annotate(tmp_path: Path, file_name: str, category: str) -> Path:
    content = {
        "images": [{"id": 1, "file_name": file_name, "width": 64, "height": 48}],
        "categories": [{"id": 1, "name": category}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 20, 20]}],
    }
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("file_name", "category", "told"),
    [
        ("absent.jpg", "RBC", "absent.jpg"),
        ("absent.jpg", "unicorn", "unicorn"),
        ("", "RBC", "file_name must be one line"),
    ],
)
def test_what_does_not_fit_is_one_line(sample, tmp_path: Path, capfd, file_name: str, category: str, told: str):
    annotations = annotate(tmp_path, file_name, category)
    model = str(sample("yolox/blood_cells_raw.onnx"))
    data = ["--annotations", str(annotations), "--images", str(tmp_path)]
    assert run_command(["evaluate", model, "--model-format", "yolox", "--threads", "1", *data]) == 2
    errors = capfd.readouterr().err
    assert told in errors
    assert len(errors.strip().splitlines()) == 1
