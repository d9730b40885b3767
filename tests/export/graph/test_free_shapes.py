"""Free batches and sizes: one file computes what torch does at shapes it was not traced with, or is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from handeye.export.graph.free_shapes import FIXED, FreeShapes, measure_free_shapes, require_free_size
from handeye.export.graph.onnx_export import export_onnx, write_onnx
from handeye.vision.detector import Detector
from handeye.vision.errors import UserError
from handeye.vision.runtime.engines import open_session
from handeye.vision.runtime.image_detector import ImageDetector
from handeye.vision.runtime.manifest import Manifest
from tests.test_matrix import for_export, small

BOTH = FreeShapes(batch=True, size=True)
BATCH = FreeShapes(batch=True)


def lively(name: str) -> Detector:
    """One of the matrix, small, whose predictions differ from place to place."""
    detector = for_export(name)
    with torch.no_grad():
        for key, weight in detector.head.named_parameters():
            if "predict" in key and weight.ndim > 1:
                weight.normal_(0, 0.1)
    return detector


@pytest.fixture(scope="module")
def path(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("free") / "free.onnx"
    export_onnx(detector, path, free=BOTH)
    return path


def test_one_file_serves_other_batches_and_sizes(detector: Detector, path: Path):
    assert open_session(path, "onnxruntime", 1).inputs == {"images": (None, 3, None, None)}
    parities = measure_free_shapes(detector, path, BOTH, ["onnxruntime", "openvino"], 1)
    shapes = [parity.engine.rpartition(" ")[2] for parity in parities]
    assert shapes == ["2x128x128", "3x128x128", "2x96x192", "3x96x192"] * 2
    assert max(parity.worst for parity in parities) < 1e-5


def test_another_detector_would_be_seen(detector: Detector, path: Path):
    other = Detector(detector.config).eval()
    assert min(parity.worst for parity in measure_free_shapes(other, path, BATCH, ["onnxruntime"], 1)) > 0.05


def test_the_run_time_gives_it_one_image_of_the_usual_size(
    path: Path, float_model: tuple[onnx.ModelProto, Manifest], tmp_path: Path
):
    grey = np.full((96, 128, 3), 114, np.uint8)
    write_onnx(tmp_path / "fixed.onnx", *float_model)
    expected, got = (ImageDetector.load(file, num_threads=1) for file in (tmp_path / "fixed.onnx", path))
    assert got.manifest.preprocessing == expected.manifest.preprocessing
    np.testing.assert_allclose(got.raw_rows(grey), expected.raw_rows(grey), atol=1e-4)


SLOW = ("cspdarknet_yolo_v3", "resnet18_detr", "cspdarknet_rtdetrv2", "hgnetv2_dfine")
LONG = ("swin_t_yolox", "vit_b_yolox")


@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW),
        *(pytest.param(name, marks=pytest.mark.long) for name in LONG),
    ],
)
def test_every_part_serves_other_batches(name: str, tmp_path: Path):
    detector = lively(name)
    export_onnx(detector, tmp_path / "free.onnx", free=BATCH)
    for parity in measure_free_shapes(detector, tmp_path / "free.onnx", BATCH, ["onnxruntime"], 1):
        assert parity.worst < 1e-3


@pytest.mark.slow
def test_detr_serves_other_sizes(tmp_path: Path):
    detector = lively("resnet18_detr")
    export_onnx(detector, tmp_path / "free.onnx", free=BOTH)
    assert (
        max(one.worst for one in measure_free_shapes(detector, tmp_path / "free.onnx", BOTH, ["onnxruntime"], 1)) < 1e-3
    )


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("cspdarknet_yolo_v3", r"head \(YoloGridHead\): its grid of anchors"),
        ("cspdarknet_rtdetrv2", r"neck.* \(HybridEncoder\): its positions"),
        ("swin_t_yolox", r"backbone \(Swin\): its windows"),
        ("vit_b_yolox", r"backbone \(ViT\): its positions"),
    ],
)
def test_parts_of_one_size_are_named(name: str, reason: str):
    with torch.device("meta"):
        detector = Detector(small(name).detector)
    with pytest.raises(UserError, match=f"--dynamic-size: {reason}"):
        require_free_size(detector)


def test_free_axes_are_those_asked_for():
    assert FIXED.axes == {}
    assert BATCH.axes == {"images": {0: "batch"}, "rows": {0: "batch"}}
    assert FreeShapes(size=True).axes == {"images": {2: "height", 3: "width"}, "rows": {1: "num_rows"}}
    assert FreeShapes(size=True).shapes((64, 96), 32) == [(1, 96, 96), (1, 64, 160)]
