"""The exported file: valid, small, self-describing, and equal to torch in both engines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from handeye.export.graph.onnx_export import OPSET, export_onnx, write_onnx
from handeye.export.parity import measure_parity, synthetic_images
from handeye.vision.detector import Detector
from handeye.vision.images import Preprocessing
from handeye.vision.runtime.image_detector import ImageDetector
from handeye.vision.runtime.manifest import Manifest, read_manifest


@pytest.fixture(scope="module")
def exported(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    path = tmp_path_factory.mktemp("export") / "cubes.onnx"
    return path, export_onnx(detector, path, made_by="a test", score_threshold=0.4, iou_threshold=0.5)


def test_the_file_says_by_itself_how_to_use_it(exported, detector: Detector):
    path, manifest = exported
    assert read_manifest(path) == manifest
    assert manifest.class_names == detector.config.class_names
    assert manifest.preprocessing == detector.config.preprocessing
    assert (manifest.score_threshold, manifest.iou_threshold) == (0.4, 0.5)
    assert (manifest.name, manifest.made_by) == ("cubes", "a test")
    loaded = ImageDetector.load(path, num_threads=1)
    assert (loaded.score_threshold, loaded.iou_threshold) == (0.4, 0.5)


def test_the_graph_is_plain(exported):
    path, _ = exported
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [entry.version for entry in model.opset_import] == [OPSET]
    kinds = {node.op_type for node in model.graph.node}
    assert "BatchNormalization" not in kinds
    assert kinds <= {
        "Conv",
        "Sigmoid",
        "Mul",
        "Concat",
        "Reshape",
        "Add",
        "Transpose",
        "MaxPool",
        "Resize",
        "Exp",
        "Slice",
    }
    shape = [dimension.dim_value for dimension in model.graph.output[0].type.tensor_type.shape.dim]
    assert shape == [1, 12 * 16 + 6 * 8 + 3 * 4, 9]


def test_a_nano_detector_for_the_table_is_at_most_four_megabytes(exported):
    path, _ = exported
    assert path.stat().st_size <= 4_000_000


def test_both_engines_compute_what_torch_computes(exported, detector: Detector):
    path, _ = exported
    parities = measure_parity(detector, path, num_threads=1)
    assert [parity.engine.split()[0] for parity in parities] == ["openvino", "onnxruntime"]
    for parity in parities:
        assert parity.detections_px < 0.01
        assert parity.unmatched == 0
        assert parity.worst == max(parity.scores, parity.boxes_px / 128) < 1e-5
    rows = ImageDetector.load(path, num_threads=1).raw_rows(synthetic_images(detector.config.preprocessing)[0])
    assert np.ptp(rows[:, 4:]) > 0.5, "with constant scores the comparison would prove nothing"


def test_parity_sees_another_detector(exported, detector: Detector):
    path, _ = exported
    other = Detector(detector.config).eval()
    other.load_state_dict(detector.state_dict())
    with torch.no_grad():
        other.head.levels[0].predict_objectness.bias += 0.5
    assert measure_parity(other, path, engines=["onnxruntime"], num_threads=1)[0].worst > 0.05


def test_a_file_may_name_fewer_classes_and_gives_the_same_numbers_for_them(detector: Detector, tmp_path: Path):
    path = tmp_path / "fewer.onnx"
    manifest = export_onnx(detector, path, class_names=["blue_cube", "red_cube"])
    assert manifest.class_names == ("blue_cube", "red_cube")
    (parity,) = measure_parity(detector, path, engines=["onnxruntime"], num_threads=1)
    assert parity.worst < 1e-5
    assert ImageDetector.load(path, num_threads=1).class_names == ("blue_cube", "red_cube")


def test_exporting_twice_gives_the_same_bytes(exported, float_model: tuple[onnx.ModelProto, Manifest], tmp_path: Path):
    """The other export of this detector has the same graph; with the same manifest it is the same file."""
    (path, manifest), (again, other_manifest) = exported, float_model
    assert manifest.graph_sha256 == other_manifest.graph_sha256
    copied = onnx.ModelProto()
    copied.CopyFrom(again)
    write_onnx(tmp_path / "cubes.onnx", copied, manifest)
    assert (tmp_path / "cubes.onnx").read_bytes() == path.read_bytes()


def test_synthetic_images_span_the_range():
    images = np.stack(synthetic_images(Preprocessing(size_hw=(32, 48))))
    assert images.shape == (4, 32, 48, 3)
    assert images.min() == 0
    assert images.max() == 255
