"""The whole run time on models with known answers, on a real network, and on files that cannot be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from handeye.vision.boxes.iou import pairwise_iou
from handeye.vision.data.coco import read_coco
from handeye.vision.errors import ModelFileError
from handeye.vision.images import Preprocessing, read_image
from handeye.vision.runtime.decode import decode_boxes, grid_cells
from handeye.vision.runtime.image_detector import ImageDetector
from handeye.vision.runtime.manifest import QueryRows, YoloxRows
from tests.vision.runtime.tiny_models import CLASSES, constant_model, empty_rows, write_model

SIZE = (64, 96)
IMAGE = np.full((128, 192, 3), 90, np.uint8)
"""Twice the size of the network's input: boxes of the rows come out doubled."""


def rows_with(*found: tuple[float, float, float, float, float, int]) -> np.ndarray:
    """Rows with boxes cx, cy, w, h (input pixels), score and class."""
    rows = empty_rows(SIZE)
    for row, (*box, score, class_id) in zip(rows, found, strict=False):
        row[:4], row[4], row[5 + class_id] = box, score, 1.0
    return rows


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_boxes_come_in_pixels_of_the_image_best_first(tmp_path: Path, engine):
    path = tmp_path / "cubes.onnx"
    write_model(path, rows_with((20, 20, 10, 20, 0.5, 1), (60, 40, 20, 10, 0.9, 2), (5, 5, 20, 20, 0.7, 0)))
    detector = ImageDetector.load(path, engine=engine, num_threads=1)
    found = detector(IMAGE)
    assert found.names == ["bin", "cube", "ball"]
    np.testing.assert_allclose(found.scores, [0.9, 0.7, 0.5])
    np.testing.assert_allclose(found.boxes_xyxy, [[100, 70, 140, 90], [0, 0, 30, 30], [30, 20, 50, 60]])
    assert detector.class_names == CLASSES
    assert engine in detector.engine


def test_thresholds_come_from_the_manifest_or_the_caller(tmp_path: Path):
    path = tmp_path / "cubes.onnx"
    overlapping = (20, 20, 10, 10, 0.5, 0), (21, 20, 10, 10, 0.6, 0), (21, 20, 10, 10, 0.2, 1)
    write_model(path, rows_with(*overlapping), score_threshold=0.25, iou_threshold=0.5)
    assert len(ImageDetector.load(path, num_threads=1)(IMAGE)) == 1
    assert len(ImageDetector.load(path, score_threshold=0.1, num_threads=1)(IMAGE)) == 2
    assert len(ImageDetector.load(path, iou_threshold=0.9, num_threads=1)(IMAGE)) == 2
    assert len(ImageDetector.load(path, score_threshold=0.95, num_threads=1)(IMAGE)) == 0


def test_boxes_are_clipped_by_default(tmp_path: Path):
    path = tmp_path / "cubes.onnx"
    write_model(path, rows_with((0, 0, 20, 20, 0.9, 0)))
    assert ImageDetector.load(path, num_threads=1)(IMAGE).boxes_xyxy.tolist() == [[0, 0, 20, 20]]
    loose = ImageDetector.load(path, clip_boxes=False, num_threads=1)
    assert loose(IMAGE).boxes_xyxy.tolist() == [[-20, -20, 20, 20]]


def test_at_most_300_detections(tmp_path: Path):
    rows = rows_with(*[(16 * k, 8, 1, 1, 0.5 + k / 1000, 0) for k in range(126)])
    many = np.concatenate([rows, rows, rows])
    many[126:, 1] += 20
    many[252:, 1] += 20
    path = tmp_path / "many.onnx"
    write_model(path, many, output=YoloxRows(strides=(8, 16, 32, 8, 16, 32, 8, 16, 32)))
    assert len(ImageDetector.load(path, num_threads=1)(IMAGE)) == 300


def test_results_of_one_call_survive_the_next(sample):
    detector = ImageDetector.load(
        sample("yolox/blood_cells_raw.onnx"), model_format="yolox", num_threads=1, engine="openvino"
    )
    folder = sample("bccd/JPEGImages")
    first, second = (read_image(folder / f"BloodImage_{name}.jpg") for name in ("00031", "00065"))
    found = detector(first)
    before = found.boxes_xyxy.copy(), found.scores.copy()
    assert len(found) > 5
    detector(second)
    np.testing.assert_array_equal(found.boxes_xyxy, before[0])
    np.testing.assert_array_equal(found.scores, before[1])
    again = detector(first)
    np.testing.assert_array_equal(again.boxes_xyxy, found.boxes_xyxy)


def test_every_stage_but_reading_is_timed(tmp_path: Path):
    path = tmp_path / "cubes.onnx"
    write_model(path, rows_with((20, 20, 10, 10, 0.9, 0)))
    detector = ImageDetector.load(path, num_threads=1)
    detector.warm_up()
    assert sum(detector.times.by_name().values()) == 0
    detector(IMAGE)
    times = detector.times.by_name()
    assert list(times) == ["read", "preprocess", "infer", "postprocess"]
    assert times["read"] == 0
    assert all(times[stage] > 0 for stage in ("preprocess", "infer", "postprocess"))


def test_a_model_that_is_not_what_its_manifest_says_is_rejected(tmp_path: Path):
    path = tmp_path / "cubes.onnx"
    write_model(path, empty_rows(SIZE), class_names=("only", "two"))
    with pytest.raises(ModelFileError, match=r"output of shape \(1, 126, 7\)"):
        ImageDetector.load(path, num_threads=1)
    write_model(path, empty_rows(SIZE), preprocessing=Preprocessing(size_hw=(96, 96)))
    with pytest.raises(ModelFileError, match=r"input of shape \(1, 3, 96, 96\)"):
        ImageDetector.load(path, num_threads=1)


def test_third_party_files_that_are_no_yolox_are_rejected(tmp_path: Path):
    path = tmp_path / "third_party.onnx"
    path.write_bytes(constant_model(np.zeros((126, 4), np.float32), SIZE).SerializeToString())
    with pytest.raises(ModelFileError, match="at least 6 output channels"):
        ImageDetector.load(path, model_format="yolox", num_threads=1)
    path.write_bytes(constant_model(np.zeros((99, 8), np.float32), SIZE).SerializeToString())
    with pytest.raises(ModelFileError, match="one output of shape"):
        ImageDetector.load(path, model_format="yolox", num_threads=1)
    model = constant_model(empty_rows(SIZE), SIZE)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match="fixed size"):
        ImageDetector.load(path, model_format="yolox", num_threads=1)


def write_yolox(path: Path, *, decoded: bool, spread: float = 0.0) -> Path:
    """A network as YOLOX's exporter leaves it, with the box 18 30 38 42; its other cells are off by `spread` cells."""
    cells, strides = grid_cells(SIZE, (8, 16, 32))
    rows = empty_rows(SIZE)
    rows[:, :2] = spread * np.random.default_rng(0).standard_normal((len(rows), 2)) + 0.5
    rows[:, 2:4] = spread * np.random.default_rng(1).standard_normal((len(rows), 2)) + 0.5
    wanted = np.array([28, 36, 20, 12], np.float32)  # centre and size, from the cell of stride 8 at (3, 4)
    number = int(np.flatnonzero((cells == (3, 4)).all(axis=1) & (strides[:, 0] == 8))[0])
    rows[number] = [*(wanted[:2] / 8 - cells[number]), *np.log(wanted[2:] / 8), 0.9, 0.9, 0, 0]
    if decoded:
        rows[:, :4] = decode_boxes(rows[:, :4], cells, strides)
    path.write_bytes(constant_model(rows, SIZE).SerializeToString())
    return path


@pytest.mark.parametrize("spread", [0.0, 1.0])
@pytest.mark.parametrize("decoded", [False, True])
def test_whether_yoloxs_exporter_decoded_the_boxes_shows_in_their_numbers(tmp_path: Path, decoded: bool, spread: float):
    path = write_yolox(tmp_path / "net.onnx", decoded=decoded, spread=spread)
    right, wrong = ("yolox-decoded", "yolox-raw")[:: 1 if decoded else -1]
    for model_format in ("yolox", right):
        found = ImageDetector.load(path, model_format=model_format, num_threads=1)(IMAGE)
        np.testing.assert_allclose(found.boxes_xyxy, [[36, 60, 76, 84]], atol=1e-3)
    with pytest.raises(ModelFileError, match=rf"net\.onnx.*so it is not {wrong}"):
        ImageDetector.load(path, model_format=wrong, num_threads=1)


def test_yolox_boxes_that_could_be_either_must_be_stated(tmp_path: Path):
    path = write_yolox(tmp_path / "net.onnx", decoded=False, spread=300.0)
    with pytest.raises(ModelFileError, match=r"net\.onnx.*yolox-raw or yolox-decoded"):
        ImageDetector.load(path, model_format="yolox", num_threads=1)
    assert len(ImageDetector.load(path, model_format="yolox-raw", num_threads=1)(IMAGE)) == 1


def test_yolox_scores_that_are_no_probabilities_are_rejected(tmp_path: Path):
    rows = empty_rows(SIZE)
    rows[3, 4:] = -4.0
    path = tmp_path / "logits.onnx"
    path.write_bytes(constant_model(rows, SIZE).SerializeToString())
    with pytest.raises(ModelFileError, match=r"logits\.onnx.*between 0 and 1"):
        ImageDetector.load(path, model_format="yolox", num_threads=1)


def test_class_names_beside_a_third_party_file_must_differ(tmp_path: Path):
    path = write_yolox(tmp_path / "net.onnx", decoded=False)
    (tmp_path / "coco_classes.txt").write_text("cube\nball\ncube\n")
    with pytest.raises(ModelFileError, match=r"coco_classes\.txt: expected one class name a line, none of them twice"):
        ImageDetector.load(path, model_format="yolox", num_threads=1)


@pytest.mark.parametrize("model_format", [None, "yolox"])
@pytest.mark.parametrize("content", [None, b"", b"no model"])
def test_files_that_are_no_model_are_one_line(tmp_path: Path, content, model_format):
    path = tmp_path / "broken.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"broken\.onnx") as caught:
        ImageDetector.load(path, model_format=model_format)
    assert "\n" not in str(caught.value)


def test_a_cut_off_model_is_rejected(tmp_path: Path, sample):
    whole = sample("yolox/blood_cells_raw.onnx").read_bytes()
    path = tmp_path / "cut.onnx"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelFileError, match=r"cut\.onnx.*cut off"):
        ImageDetector.load(path, model_format="yolox")


@pytest.mark.parametrize(("name", "model_format"), [("blood_cells", None), ("blood_cells_raw", "yolox")])
def test_a_trained_network_sees_what_is_on_a_real_image(sample, name: str, model_format):
    """Two white cells, as annotated, with and without a manifest; red ones around them."""
    detector = ImageDetector.load(
        sample(f"yolox/{name}.onnx"), model_format=model_format, num_threads=1, score_threshold=0.5
    )
    found = detector(read_image(sample("bccd/JPEGImages/BloodImage_00065.jpg")))
    (image,) = (
        image
        for image in read_coco(sample("bccd/coco_json/instances_test.json")).images
        if image.file_name == "BloodImage_00065.jpg"
    )
    white = found.boxes_xyxy[[cell == "WBC" for cell in found.names]]
    annotated = image.boxes.xyxy[image.boxes.class_ids == 1]
    assert len(white) == len(annotated) == 2
    assert pairwise_iou(white, annotated).max(axis=1).min() > 0.7
    assert found.names.count("RBC") >= 3
    assert (np.diff(found.scores) <= 0).all()


def test_the_published_network_sees_what_is_on_a_photo(shared):
    detector = ImageDetector.load(
        shared("data/yolox_nano_coco/yolox_nano.onnx"), model_format="yolox", num_threads=1, score_threshold=0.5
    )
    found = detector(read_image(shared("data/coco_mini/val2017/000000000802.jpg")))
    assert {"refrigerator", "oven"} & set(found.names)
    assert (np.diff(found.scores) <= 0).all()


def test_a_network_of_queries_runs_without_suppression(tmp_path: Path):
    rows = np.zeros((5, 4 + len(CLASSES)), np.float32)
    rows[:3, :4] = [0.5, 0.5, 0.25, 0.5]
    rows[:3, 4:] = [[0.9, 0.1, 0.6], [0.8, 0.2, 0.1], [0.1, 0.1, 0.1]]
    path = tmp_path / "queries.onnx"
    write_model(path, rows, output=QueryRows())
    found = ImageDetector.load(path, num_threads=1)(IMAGE)
    assert found.names == ["cube", "cube", "bin"]
    np.testing.assert_allclose(found.scores, [0.9, 0.8, 0.6])
    np.testing.assert_allclose(found.boxes_xyxy, [[72, 32, 120, 96]] * 3)
    write_model(path, rows, output=QueryRows(classes_per_query="one"))
    assert ImageDetector.load(path, num_threads=1)(IMAGE).names == ["cube", "cube"]


def test_rows_of_anchors_are_counted(tmp_path: Path):
    rows = np.repeat(empty_rows(SIZE), 3, axis=0)
    path = tmp_path / "anchors.onnx"
    write_model(path, rows, output=YoloxRows(boxes_per_cell=(3, 3, 3)))
    assert len(ImageDetector.load(path, num_threads=1)(IMAGE)) == 0
    write_model(path, rows, output=YoloxRows(boxes_per_cell=(2, 3, 3)))
    with pytest.raises(ModelFileError, match=r"output of shape \(1, 282, 8\)"):
        ImageDetector.load(path, num_threads=1)


def rtdetr_file(path: Path, label: int = 2) -> Path:
    """What RT-DETR's exporter writes, with constants for a network: boxes are fractions of orig_target_sizes."""
    constants = {
        "unit_boxes": np.array([[[0.25, 0.5, 0.5, 1.0], [0.0, 0.0, 0.5, 0.5]]], np.float32),
        "given_scores": np.array([[0.4, 0.9]], np.float32),
        "given_labels": np.array([[0, label]], np.int64),
        "zero": np.zeros(1, np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["orig_target_sizes"], ["size"], to=TensorProto.FLOAT),
        helper.make_node("Concat", ["size", "size"], ["factors"], axis=1),
        helper.make_node("Mul", ["unit_boxes", "factors"], ["boxes"]),
        helper.make_node("ReduceMean", ["images"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["given_scores", "nothing"], ["scores"]),
        helper.make_node("Identity", ["given_labels"], ["labels"]),
    ]
    inputs = [
        helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, *SIZE]),
        helper.make_tensor_value_info("orig_target_sizes", TensorProto.INT64, ["N", 2]),
    ]
    outputs = [
        helper.make_tensor_value_info("labels", TensorProto.INT64, [1, 2]),
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, 2, 4]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 2]),
    ]
    initial = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "rtdetr", inputs, outputs, initial)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_file_of_rtdetr_s_exporter_runs_as_it_is(tmp_path: Path, engine):
    detector = ImageDetector.load(
        rtdetr_file(tmp_path / "net.onnx"), engine=engine, model_format="rtdetr", num_threads=1
    )
    found = detector(IMAGE)
    assert found.names == ["2", "0"]
    np.testing.assert_allclose(found.boxes_xyxy, [[0, 0, 96, 64], [48, 64, 96, 128]], atol=1e-4)
    np.testing.assert_allclose(found.scores, [0.9, 0.4])


def test_third_party_files_that_are_no_rtdetr_are_rejected(tmp_path: Path):
    path = tmp_path / "net.onnx"
    path.write_bytes(constant_model(empty_rows(SIZE), SIZE).SerializeToString())
    with pytest.raises(ModelFileError, match="expected the inputs images and orig_target_sizes"):
        ImageDetector.load(path, model_format="rtdetr", num_threads=1)
    detector = ImageDetector.load(rtdetr_file(path, label=80), model_format="rtdetr", num_threads=1)
    with pytest.raises(ModelFileError, match=r"label 80, but 80 classes are named.*coco_classes\.txt"):
        detector(IMAGE)
