"""`export_model` as Python calls it: requests are checked, results hold files and verdict, engines need no torch."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from handeye.export.parity import EngineParity
from handeye.export.pipeline import export_model
from handeye.export.request import ExportRequest
from handeye.export.result import Artefact, ExportResult
from handeye.export.stages import calibration_images
from handeye.vision.checkpoints.native import save_detector
from handeye.vision.checkpoints.yolox import yolox_config
from handeye.vision.detector import Detector, DetectorConfig
from handeye.vision.errors import MissingPackageError, UserError
from handeye.vision.images import Preprocessing
from handeye.vision.runtime.image_detector import ImageDetector
from tests.tensorrt_stand_in import StandIn
from tests.vision.runtime.tiny_models import empty_rows, write_model

SIZE = (64, 96)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"model": "m.pt"}, "expected a native checkpoint"),
        ({"formats": ("onnx", "tflite")}, "--format tflite"),
        ({"images": Path("images")}, "belong together"),
        ({"model": "m.onnx", "classes": ("cube",)}, "an ONNX file already"),
        ({"model": "m.onnx", "dynamic_size": True}, "for a checkpoint"),
        ({"nms": "in-graph", "dynamic_batch": True}, "one image of fixed size"),
    ],
)
def test_requests_that_make_no_sense_are_rejected(options: dict[str, object], reason: str):
    fields = {"model": "m.safetensors"} | options
    with pytest.raises(UserError, match=reason):
        ExportRequest(**fields | {"model": Path(str(fields["model"]))})


def test_only_formats_without_learned_ranges_need_calibration():
    request = ExportRequest(model=Path("m.safetensors"), formats=("int8", "int8-x86", "onnx"))
    with pytest.raises(UserError, match="--format int8,int8-x86: INT8 needs calibration images"):
        request.require_calibration(has_learned_ranges=False)
    with pytest.raises(UserError, match="--format int8-x86: INT8"):
        request.require_calibration(has_learned_ranges=True)
    replace(request, formats=("int8", "int8-fp16")).require_calibration(has_learned_ranges=True)
    replace(request, calibrate=Path("images")).require_calibration(has_learned_ranges=False)


def test_a_result_passes_unless_it_differs_from_torch_or_a_file_is_rejected():
    def parity(worst: float, unmatched: int = 0) -> EngineParity:
        return EngineParity("onnxruntime", worst, 0.0, worst, 0.0, unmatched)

    float32, half = (Artefact(name, Path(f"{name}.onnx"), 1, "") for name in ("float32", "float16"))
    int8 = Artefact("int8", Path("int8.onnx"), 1, "", AP={"openvino": 0.1, "onnxruntime": 0.3})
    result = ExportResult(artefacts=[float32, half, int8], parity=[parity(1e-4), parity(9e-4)])
    assert result.passed
    assert result.worst_difference == 9e-4
    assert result.best_for_tensorrt == Path("int8.onnx")
    assert result.ap == {"int8": 0.3}, "ONNX Runtime decides where the target engine was not measured"
    assert not replace(result, parity=[parity(2e-3)]).passed
    assert not replace(result, parity=[parity(0.0, unmatched=1)]).passed
    int8.rejected = "loses 0.2 AP"
    assert not result.passed
    assert result.rejected == {"int8": "loses 0.2 AP"}
    assert result.best_for_tensorrt == Path("float16.onnx")


def test_a_checkpoint_is_exported_from_python(tmp_path: Path):
    torch.manual_seed(0)
    config = yolox_config("nano", ("cube", "ball")).model_dump()
    config |= {"preprocessing": Preprocessing(size_hw=SIZE).model_dump()}
    save_detector(tmp_path / "m.safetensors", Detector(DetectorConfig.model_validate(config)))
    seen: list[ExportResult] = []
    request = ExportRequest(model=tmp_path / "m.safetensors", output=tmp_path / "out", classes=("ball",))
    result = export_model(request, on_artefacts=seen.append)
    assert seen == [result]
    assert result.files == {"float32": tmp_path / "out/m.onnx"}
    assert result.passed
    assert 0 < result.worst_difference < 1e-3
    assert result.facts["made from"].startswith("handeye")
    assert ImageDetector.load(result.files["float32"], engine="onnxruntime", num_threads=1).class_names == ("ball",)


def test_an_engine_is_built_from_onnx_without_the_stages_that_need_torch(
    stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_model(tmp_path / "m.onnx", empty_rows(SIZE), SIZE)
    monkeypatch.setitem(sys.modules, "handeye.export.stages", None)  # importing it fails
    request = ExportRequest(model=tmp_path / "m.onnx", formats=("engine",), output=tmp_path / "out")
    result = export_model(request)
    assert result.files == {"engine": tmp_path / "out/m.engine"}
    assert result.passed
    assert result.trtexec.startswith(f"trtexec --onnx={tmp_path / 'm.onnx'}")


def test_the_trtexec_command_is_known_before_a_build_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_model(tmp_path / "m.onnx", empty_rows(SIZE), SIZE)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    seen: list[ExportResult] = []
    request = ExportRequest(model=tmp_path / "m.onnx", formats=("engine",), output=tmp_path / "out")
    with pytest.raises(MissingPackageError, match="TensorRT"):
        export_model(request, on_artefacts=seen.append)
    assert [result.trtexec[:7] for result in seen] == ["trtexec"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("place", "images", "boxes"),
    [("bccd/JPEGImages", 13, None), ("bccd", 13, True), ("bccd/yolo", 13, True), ("bccd/yolo/data.yaml", 13, True)],
)
def test_calibration_takes_a_folder_of_images_or_annotations_of_any_format(
    sample: Callable[[str], Path], place: str, images: int, boxes: bool | None
):
    calibrate = sample(place)
    request = ExportRequest(model=Path("best.safetensors"), formats=("int8",), calibrate=calibrate)
    found = calibration_images(request)
    assert found is not None
    assert len(found.files) == images
    assert all(path.is_file() for path in found.files.values())
    assert (found.ground_truth is not None) is bool(boxes)
