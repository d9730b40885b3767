"""`handeye bundle` and `handeye verify`: the round trip in each engine, and every way in which it must not pass."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest

from handeye.export.bundle.archive import open_bundle, write_bundle
from handeye.tools.command_line import run_command
from tests.export import fake_tensorrt
from tests.tensorrt_stand_in import StandIn
from tests.vision.runtime.tiny_models import empty_rows, write_model

SIZE = (64, 96)
QUICK = ["--repeats", "2", "--pause-s", "0", "--threads", "1"]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Two models that see a ball, packed by the command line with two pictures."""
    rows = empty_rows(SIZE)
    rows[5] = [30, 20, 20, 10, 0.9, 0.1, 0.8, 0.0]
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        picture = np.full((48, 64, 3), 30 * number, np.uint8)
        assert cv2.imwrite(str(tmp_path / f"pictures/{number}.jpg"), picture)
    for name in ("model", "int8"):
        write_model(tmp_path / f"{name}.onnx", rows, SIZE, name="model")
    words = ["--int8", str(tmp_path / "int8.onnx"), "--images", str(tmp_path / "pictures"), "--count", "2"]
    output = ["--output", str(tmp_path / "b.zip"), "--json", str(tmp_path / "bundle.json")]
    assert run_command(["bundle", str(tmp_path / "model.onnx"), *words, *output]) == 0
    return tmp_path / "b.zip"


def verify(bundle: Path, *words: str) -> tuple[int, dict]:
    result = bundle.with_name("verified.json")
    result.unlink(missing_ok=True)
    code = run_command(["verify", str(bundle), *QUICK, "--json", str(result), *words])
    return code, json.loads(result.read_text()) if result.exists() else {}


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_bundle_passes_where_it_computes_the_same(bundle: Path, engine: str, capsys):
    code, result = verify(bundle, "--engine", engine)
    assert code == 0
    assert result["passed"] is True
    assert [model["precision"] for model in result["models"]] == ["float32", "int8"]
    for model in result["models"]:
        assert model["engine"].startswith(engine)
        assert (model["unmatched"], model["matched"], model["threads"]) == (0, 2, 1)
        assert model["boxes_px"] < 1e-3
        assert set(model["stages"]) == {"read", "preprocess", "infer", "postprocess", "total"}
    packed = json.loads(bundle.with_name("bundle.json").read_text())
    assert packed["sha256"] == result["bundle_sha256"]
    assert packed["detections"] == {"float32": 2, "int8": 2}
    printed = capsys.readouterr().out
    assert "2 golden images: pass" in printed
    assert "boxes 0.000 px apart (limit 0.5)" in printed


def test_tensorrt_builds_compares_and_keeps_the_engines(stand_in: StandIn, bundle: Path, tmp_path: Path, capsys):
    kept = tmp_path / "engines"
    code, result = verify(bundle, "--engines", str(kept))  # auto: it runs here
    assert code == 0
    assert {model["engine"] for model in result["models"]} == {"tensorrt 10.3.0 on Orin"}
    assert {file.name for file in kept.iterdir()} == {"float32.engine", "int8.engine", "timing.cache"}
    times = {file.name: file.stat().st_mtime_ns for file in kept.glob("*.engine")}
    assert verify(bundle, "--engines", str(kept))[0] == 0
    assert {file.name: file.stat().st_mtime_ns for file in kept.glob("*.engine")} == times, "built again needlessly"
    stand_in.machine.compute_capability = (11, 0)
    assert verify(bundle, "--engines", str(kept))[0] == 0
    assert all(file.stat().st_mtime_ns > times[file.name] for file in kept.glob("*.engine")), "another GPU's was used"


def test_where_tensorrt_does_not_run_another_engine_does(stand_in: StandIn, bundle: Path):
    stand_in.machine.has_driver = False
    code, result = verify(bundle)
    assert code == 0
    assert result["models"][0]["engine"].startswith("openvino")
    assert verify(bundle, "--engine", "tensorrt")[0] == 2


@pytest.mark.parametrize("version", ["8.6.1", "12.0.1"])
def test_a_tensorrt_that_the_bundle_is_not_for_is_refused(stand_in, bundle, monkeypatch, capfd, version):
    monkeypatch.setattr(fake_tensorrt, "__version__", version)
    assert verify(bundle)[0] == 2
    assert f"is for tensorrt 10.3 or newer, before 12; here is {version}" in capfd.readouterr().err


def test_an_engine_that_is_too_old_or_missing_is_refused(bundle: Path, monkeypatch: pytest.MonkeyPatch, capfd):
    monkeypatch.setattr(onnxruntime, "__version__", "1.17.3")
    assert verify(bundle, "--engine", "onnxruntime")[0] == 2
    assert "is for onnxruntime 1.18 or newer; here is 1.17.3" in capfd.readouterr().err
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert verify(bundle, "--engine", "openvino")[0] == 2
    assert "'openvino' is not installed" in capfd.readouterr().err


def with_golden(bundle: Path, change) -> Path:
    """The same bundle, honestly sealed, whose first model promises something else."""
    opened = open_bundle(bundle)
    first = opened.index.models[0]
    golden = {name: change(one) for name, one in first.golden.items()}
    models = (first.model_copy(update={"golden": golden}), *opened.index.models[1:])
    contents = {entry.path: opened.read(entry.path) for entry in opened.index.files}
    path = bundle.with_name("promises.zip")
    write_bundle(path, opened.index.model_copy(update={"models": models}), contents)
    return path


def shifted(pixels: float):
    return lambda golden: golden.model_copy(
        update={"boxes_xyxy": tuple((a + pixels, b, c + pixels, d) for a, b, c, d in golden.boxes_xyxy)}
    )


@pytest.mark.parametrize(
    ("change", "passes", "reason"),
    [
        (shifted(0.4), True, "boxes 0.400 px apart (limit 0.5)"),
        (shifted(0.6), False, "boxes 0.600 px apart (limit 0.5)"),
        (lambda golden: golden.model_copy(update={"scores": (0.70,)}), False, "scores 0.0200 (limit 0.01)"),
        (lambda golden: golden.model_copy(update={"class_ids": (0,)}), False, "4 without a partner"),
        (lambda golden: type(golden)(boxes_xyxy=(), scores=(), class_ids=()), False, "2 without a partner"),
    ],
)
def test_a_model_that_answers_otherwise_fails_with_the_numbers(bundle, capsys, change, passes, reason):
    code, result = verify(with_golden(bundle, change), "--engine", "onnxruntime")
    assert code == (0 if passes else 1)
    assert result["passed"] is passes
    assert [model["passed"] for model in result["models"]] == [passes, True]
    printed = capsys.readouterr().out
    assert reason in printed
    assert ("2 golden images: FAIL" in printed) is not passes


def test_a_damaged_bundle_is_one_line_and_code_2(bundle: Path, capfd):
    content = bytearray(bundle.read_bytes())
    content[len(content) // 3] ^= 1
    bundle.write_bytes(content)
    assert verify(bundle)[0] == 2
    errors = capfd.readouterr().err
    assert "damaged" in errors
    assert len(errors.strip().splitlines()) == 1


def test_images_out_of_the_simulator_are_for_detectors_that_know_them(bundle: Path, tmp_path: Path, capfd):
    assert run_command(["bundle", str(tmp_path / "model.onnx"), "--output", str(tmp_path / "x.zip")]) == 2
    assert "give a folder of golden images: --images" in capfd.readouterr().err
    empty = tmp_path / "empty"
    empty.mkdir()
    for words, told in ((["--images", str(empty)], "holds no image"), (["--count", "0"], "at least 1")):
        assert run_command(["bundle", str(tmp_path / "model.onnx"), *words]) == 2
        assert told in capfd.readouterr().err


def test_the_tabletop_detector_is_packed_with_rendered_scenes(tmp_path: Path):
    model = Path(__file__).resolve().parents[2] / "vision/weights/tabletop_nano.onnx"
    bundle = tmp_path / "tabletop.zip"
    assert run_command(["bundle", str(model), "--count", "1", "--output", str(bundle)]) == 0
    code, result = verify(bundle, "--engine", "openvino")
    assert code == 0
    assert result["models"][0]["matched"] >= 1
