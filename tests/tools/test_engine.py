"""Engines on the command line, with stand-ins of TensorRT and CUDA: build, detect, benchmark, and what doctor says."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from handeye.tools.command_line import run_command
from tests.tensorrt_stand_in import StandIn
from tests.vision.runtime.tiny_models import empty_rows, write_model

SIZE = (64, 96)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A network that sees a ball in every image."""
    rows = empty_rows(SIZE)
    rows[5] = [30, 20, 20, 10, 0.9, 0.1, 0.8, 0.0]
    write_model(tmp_path / "model.onnx", rows, SIZE)
    assert cv2.imwrite(str(tmp_path / "image.png"), np.full((64, 96, 3), 90, np.uint8))
    return tmp_path / "model.onnx"


def test_an_onnx_file_becomes_an_engine_that_the_other_verbs_take(stand_in: StandIn, model: Path, tmp_path, capsys):
    words = ["--format", "engine", "--output", str(tmp_path / "out"), "--json", str(tmp_path / "e.json")]
    assert run_command(["export", str(model), *words, "--engine.workspace-mib", "256"]) == 0
    engine = tmp_path / "out/model.engine"
    assert json.loads((tmp_path / "e.json").read_text()) == {
        "files": {"engine": str(engine)},
        "bytes": {"engine": engine.stat().st_size},
    }
    printed = capsys.readouterr().out
    assert f"trtexec --onnx={model}" in printed
    assert "--memPoolSize=workspace:256" in printed
    assert "TensorRT 10.3.0 for Orin, built in" in printed

    found = ["--json", str(tmp_path / "d.json"), "--output", str(tmp_path / "drawn")]
    assert run_command(["detect", str(engine), str(tmp_path / "image.png"), *found]) == 0
    assert json.loads((tmp_path / "d.json").read_text())["engine"] == "tensorrt 10.3.0 on Orin"
    measured = ["--json", str(tmp_path / "b.json"), "--repeats", "2"]
    assert run_command(["benchmark", str(engine), *measured]) == 0
    assert [entry["engine"] for entry in json.loads((tmp_path / "b.json").read_text())["engines"]] == [
        "tensorrt 10.3.0 on Orin"
    ]


def test_without_tensorrt_the_command_of_trtexec_is_still_told(model: Path, tmp_path: Path, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert run_command(["export", str(model), "--format", "engine", "--output", str(tmp_path / "out")]) == 2
    printed = capfd.readouterr()
    assert printed.out.startswith("with trtexec, for other programs: trtexec ")
    assert printed.err.startswith("handeye: error: TensorRT does not load")
    assert "JetPack" in printed.err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_engine_is_built_from_the_smallest_accepted_file(stand_in: StandIn, tmp_path: Path):
    from handeye.vision.checkpoints.native import save_detector
    from handeye.vision.checkpoints.yolox import yolox_config
    from handeye.vision.detector import Detector, DetectorConfig
    from handeye.vision.images import Preprocessing
    from tests.tools.test_export import NAMES, dataset

    config = yolox_config("nano", NAMES).model_dump() | {"preprocessing": Preprocessing(size_hw=(32, 32)).model_dump()}
    save_detector(tmp_path / "m.safetensors", Detector(DetectorConfig.model_validate(config)))
    words = ["--format", "fp16,engine", "--output", str(tmp_path / "out"), "--json", str(tmp_path / "e.json")]
    assert run_command(["export", str(tmp_path / "m.safetensors"), *words, *dataset(tmp_path), "--pause-s", "0"]) == 0
    files = json.loads((tmp_path / "e.json").read_text())["files"]
    assert files["engine"] == str(tmp_path / "out/m.fp16.engine")
    assert Path(files["engine"]).is_file()


def test_doctor_tells_tensorrt_that_runs_from_what_is_missing_or_not_for_this_machine(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
):
    from handeye.tools.doctor import find_tensorrt

    found = find_tensorrt()
    assert (found.state, found.detail) == ("ok", "10.3.0 on Orin, compute capability 8.7")
    stand_in.machine.has_driver = False
    found = find_tensorrt()
    assert (found.state, found.detail[:32]) == ("absent", "installed, but no NVIDIA driver:")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert find_tensorrt().state == "absent"
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    found = find_tensorrt()
    assert found.state == "missing"
    assert "JetPack" in found.remedy
