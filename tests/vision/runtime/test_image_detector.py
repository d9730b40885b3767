"""The whole run time on models with known answers, on a real network, and on files that cannot be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.vision.runtime.tiny_models import CLASSES, constant_model, empty_rows, write_model
from vision.errors import ModelFileError
from vision.images import Preprocessing, read_image
from vision.runtime.image_detector import ImageDetector
from vision.runtime.manifest import YoloxRows

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


def test_boxes_are_clipped_unless_told_not_to(tmp_path: Path):
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


def test_results_of_one_call_survive_the_next(tmp_path: Path, shared):
    detector = ImageDetector.load(
        shared("data/yolox_nano_coco/yolox_nano.onnx"), model_format="yolox", num_threads=1, engine="openvino"
    )
    folder = shared("data/coco_mini/val2017")
    first, second = (read_image(folder / f"{name}.jpg") for name in ("000000000139", "000000000802"))
    found = detector(first)
    before = found.boxes_xyxy.copy(), found.scores.copy()
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


def test_a_model_that_is_not_what_its_manifest_says_is_refused(tmp_path: Path):
    path = tmp_path / "cubes.onnx"
    write_model(path, empty_rows(SIZE), class_names=("only", "two"))
    with pytest.raises(ModelFileError, match=r"output of shape \(1, 126, 7\)"):
        ImageDetector.load(path, num_threads=1)
    write_model(path, empty_rows(SIZE), preprocessing=Preprocessing(size_hw=(96, 96)))
    with pytest.raises(ModelFileError, match=r"input of shape \(1, 3, 96, 96\)"):
        ImageDetector.load(path, num_threads=1)


def test_foreign_files_that_are_no_yolox_are_refused(tmp_path: Path):
    path = tmp_path / "foreign.onnx"
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


@pytest.mark.parametrize("model_format", [None, "yolox"])
@pytest.mark.parametrize("content", [None, b"", b"no model"])
def test_files_that_are_no_model_are_one_line(tmp_path: Path, content, model_format):
    path = tmp_path / "broken.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"broken\.onnx") as caught:
        ImageDetector.load(path, model_format=model_format)
    assert "\n" not in str(caught.value)


def test_a_cut_off_model_is_refused(tmp_path: Path, shared):
    whole = shared("data/yolox_nano_coco/yolox_nano.onnx").read_bytes()
    path = tmp_path / "cut.onnx"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelFileError, match=r"cut\.onnx.*cut off"):
        ImageDetector.load(path, model_format="yolox")


def test_a_real_network_sees_what_is_on_a_real_image(shared):
    detector = ImageDetector.load(
        shared("data/yolox_nano_coco/yolox_nano.onnx"), model_format="yolox", num_threads=1, score_threshold=0.5
    )
    found = detector(read_image(shared("data/coco_mini/val2017/000000000802.jpg")))
    assert {"refrigerator", "oven"} & set(found.names)
    assert (np.diff(found.scores) <= 0).all()
