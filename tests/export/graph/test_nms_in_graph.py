"""NMS in the graph finds what NMS outside finds, in every engine and precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from handeye.export.graph.half_precision import to_half
from handeye.export.graph.nms_in_graph import CANDIDATES, nms_in_graph
from handeye.export.graph.onnx_export import write_onnx
from handeye.export.graph.operator_support import find_unsupported
from handeye.export.parity import compare, measure_parity, synthetic_images
from handeye.vision.detector import Detector
from handeye.vision.errors import ModelFileError, UserError
from handeye.vision.images import Preprocessing
from handeye.vision.runtime.detections import Detections
from handeye.vision.runtime.engines import EngineName
from handeye.vision.runtime.image_detector import ImageDetector
from handeye.vision.runtime.manifest import Manifest, QueryRows, YoloxRows
from tests.export.graphs import model_of

ENGINES: tuple[EngineName, ...] = ("onnxruntime", "openvino")
Exported = tuple[onnx.ModelProto, Manifest]
IMAGE = np.zeros((64, 64, 3), np.uint8)


def same(expected: Detections, got: Detections) -> None:
    np.testing.assert_array_equal(got.class_ids, expected.class_ids)
    np.testing.assert_allclose(got.scores, expected.scores, atol=1e-6)
    np.testing.assert_allclose(got.boxes_xyxy, expected.boxes_xyxy, atol=1e-3)


def both_ways(
    folder: Path, rows: np.ndarray, engine: EngineName, iou_threshold: float = 0.65
) -> tuple[Detections, ...]:
    """Detections of a network that always returns these rows, with NMS outside and in the graph."""
    names = tuple(f"class{number}" for number in range(rows.shape[1] - 5))
    manifest = Manifest(
        class_names=names,
        preprocessing=Preprocessing(size_hw=(64, 64)),
        output=YoloxRows(strides=(1,), boxes_per_cell=(1,)),
        iou_threshold=iou_threshold,
        score_threshold=0.05,
    )
    still = onnx.helper.make_node("ReduceMin", ["images"], ["least"], keepdims=0)
    model = model_of(
        [still, onnx.helper.make_node("Add", ["least", "all"], ["rows"])], {"all": rows[None]}, (1, 3, 64, 64)
    )
    found = []
    for name, (graph, told) in {"out": (model, manifest), "in": nms_in_graph(model, manifest)}.items():
        write_onnx(folder / f"{name}.onnx", graph, told)
        assert find_unsupported(graph) == []
        found.append(ImageDetector.load(folder / f"{name}.onnx", engine=engine, num_threads=1)(IMAGE))
    return tuple(found)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("num_classes", [1, 5])
def test_nms_of_random_boxes_matches_nms_outside(tmp_path: Path, engine: EngineName, num_classes: int):
    rng = np.random.default_rng(num_classes)
    rows = rng.random((4096, 5 + num_classes)).astype(np.float32)
    rows[:, :2] *= 64
    rows[:, 2:4] = rows[:, 2:4] * 30 + 5
    rows[:, 4] *= rng.random(4096) < 0.5
    rows[:, 4] **= 8  # fewer than CANDIDATES remain above the threshold
    expected, got = both_ways(tmp_path, rows, engine)
    assert 30 < len(expected.scores) <= 300
    assert (rows[:, 4] > 0.05).sum() < CANDIDATES < len(rows)
    same(expected, got)


@pytest.mark.parametrize("engine", ENGINES)
def test_only_boxes_of_one_class_suppress_each_other(tmp_path: Path, engine: EngineName):
    rows = np.zeros((4096, 7), np.float32)
    rows[:3, :5] = (32, 32, 20, 20, 1.0)
    rows[:3, 5:] = [(0.9, 0.1), (0.8, 0.1), (0.1, 0.7)]
    expected, got = both_ways(tmp_path, rows, engine)
    assert got.class_ids.tolist() == [0, 1]
    same(expected, got)


@pytest.mark.parametrize("engine", ENGINES)
def test_nothing_found_is_nothing(tmp_path: Path, engine: EngineName):
    assert [len(found.scores) for found in both_ways(tmp_path, np.zeros((4096, 6), np.float32), engine)] == [0, 0]


def test_a_detector_and_its_half_find_what_torch_finds(detector: Detector, float_model: Exported, tmp_path: Path):
    model, manifest = float_model
    for name, graph, px in (("whole", model, 0.01), ("half", to_half(model), 1.0)):
        write_onnx(tmp_path / f"{name}.onnx", *nms_in_graph(graph, manifest))
        assert find_unsupported(onnx.load(tmp_path / f"{name}.onnx")) == []
        for parity in measure_parity(detector, tmp_path / f"{name}.onnx", engines=["onnxruntime"], num_threads=1):
            assert parity.detections_px < px
            assert parity.unmatched == 0


def test_the_comparison_would_see_another_threshold(float_model: Exported, tmp_path: Path):
    model, manifest = float_model
    write_onnx(tmp_path / "out.onnx", *float_model)
    write_onnx(tmp_path / "in.onnx", *nms_in_graph(model, manifest.model_copy(update={"iou_threshold": 0.1})))
    one, other = (
        ImageDetector.load(tmp_path / f"{name}.onnx", engine="onnxruntime", num_threads=1) for name in ("out", "in")
    )
    assert compare(one, other, synthetic_images(manifest.preprocessing)).unmatched > 0


def test_thresholds_that_the_graph_fixed_cannot_be_changed(float_model: Exported, tmp_path: Path):
    write_onnx(tmp_path / "in.onnx", *nms_in_graph(*float_model))
    assert ImageDetector.load(tmp_path / "in.onnx", score_threshold=0.5, iou_threshold=0.65).score_threshold == 0.5
    with pytest.raises(ModelFileError, match=r"with the IoU threshold 0.65, not 0.5; export it again"):
        ImageDetector.load(tmp_path / "in.onnx", iou_threshold=0.5)
    with pytest.raises(ModelFileError, match="no box with a score below 0.001"):
        ImageDetector.load(tmp_path / "in.onnx", score_threshold=0.0)


def test_what_nms_does_not_take_is_reported(float_model: Exported):
    model, manifest = float_model
    for output, told in (
        (QueryRows(classes_per_query="any"), "needs no NMS"),
        (YoloxRows(decoded=False), "decoded"),
    ):
        with pytest.raises(UserError, match=told):
            nms_in_graph(model, manifest.model_copy(update={"output": output}))
    free = onnx.ModelProto()
    free.CopyFrom(model)
    for value in (free.graph.input[0], free.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    with pytest.raises(UserError, match="one image of fixed size"):
        nms_in_graph(free, manifest)
