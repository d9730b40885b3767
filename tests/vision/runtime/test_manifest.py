"""The contract inside a model file: it comes back whole, and a file that breaks it is refused."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import helper

from handeye.vision.errors import ModelFileError
from handeye.vision.runtime.manifest import (
    METADATA_KEY,
    Manifest,
    PostprocessedBoxes,
    QueryRows,
    YoloxRows,
    read_manifest,
)
from handeye.vision.runtime.third_party_models import rtdetr_manifest, yolox_manifest
from tests.vision.runtime.tiny_models import CLASSES, constant_model, empty_rows, write_model


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path):
    path = tmp_path / "cubes.onnx"
    written = write_model(path, empty_rows((64, 96)), score_threshold=0.42, made_by="a test")
    assert read_manifest(path) == written
    assert written.class_names == CLASSES


def test_a_graph_that_was_changed_afterwards_is_rejected(tmp_path: Path):
    path = tmp_path / "cubes.onnx"
    write_model(path, empty_rows((64, 96)))
    model = onnx.load(path)
    model.graph.initializer[0].raw_data = b"\x01" + model.graph.initializer[0].raw_data[1:]
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match="not the one its manifest was written for"):
        read_manifest(path)


def test_one_flipped_byte_of_the_weights_is_noticed(tmp_path: Path):
    path = tmp_path / "cubes.onnx"
    write_model(path, empty_rows((64, 96)))
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0x10
    path.write_bytes(bytes(content))
    with pytest.raises(ModelFileError):
        read_manifest(path)


def test_a_third_party_file_needs_its_format(tmp_path: Path):
    path = tmp_path / "third_party.onnx"
    path.write_bytes(constant_model(empty_rows((32, 32)), (32, 32)).SerializeToString())
    with pytest.raises(ModelFileError, match="--model-format yolox"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Invalid JSON"),
        ('{"class_names": []}', "class_names"),
        ('{"class_names": ["a", "a"]}', "share a name"),
        ('{"class_names": ["a"], "format_version": 9}', "format_version"),
        ('{"class_names": ["a"], "colour": "rgb"}', "colour"),
        ('{"class_names": ["a"], "score_threshold": 2}', "score_threshold"),
        ('{"class_names": ["a"], "output": {"kind": "masks"}}', "output"),
        ('{"class_names": ["a"], "output": {"kind": "yolox_rows", "boxes_per_cell": [3]}}', "needs 3 numbers, got 1"),
    ],
)
def test_a_broken_manifest_names_its_fault(tmp_path: Path, text: str, message: str):
    model = constant_model(empty_rows((32, 32)), (32, 32))
    helper.set_model_props(model, {METADATA_KEY: text})
    path = tmp_path / "broken.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match=message):
        read_manifest(path)


def test_a_manifest_without_a_hash_is_not_enough_for_our_own_files(tmp_path: Path):
    path = tmp_path / "cubes.onnx"
    write_model(path, empty_rows((64, 96)), graph_sha256=None)
    with pytest.raises(ModelFileError, match="export the model again"):
        read_manifest(path)


def test_third_party_classes_come_from_the_file_beside_it_or_are_numbered(tmp_path: Path):
    path = tmp_path / "net.onnx"
    assert yolox_manifest(path, (64, 64), 3).class_names == ("0", "1", "2")
    (tmp_path / "coco_classes.txt").write_text("cat\ndog\ntraffic light\n\n")
    manifest = yolox_manifest(path, (64, 64), 3)
    assert manifest.class_names == ("cat", "dog", "traffic light")
    assert manifest.output.decoded is False
    with pytest.raises(ModelFileError, match="holds 3 names"):
        yolox_manifest(path, (64, 64), 4)
    (tmp_path / "coco_classes.txt").write_text("cat\n\ndog\n")
    with pytest.raises(ModelFileError, match=r"coco_classes\.txt: line 2 is empty; class ids count the lines"):
        yolox_manifest(path, (64, 64), 2)


def test_the_manifest_is_readable_by_whoever_opens_the_file():
    text = Manifest(class_names=("a",)).model_dump_json()
    assert Manifest.model_validate_json(text) == Manifest(class_names=("a",))
    assert '"format_version":1' in text


@pytest.mark.parametrize(
    "output",
    [YoloxRows(), YoloxRows(boxes_per_cell=(3, 3, 3)), QueryRows(classes_per_query="one"), PostprocessedBoxes()],
)
def test_every_layout_of_the_output_comes_back(output):
    manifest = Manifest(class_names=("a",), output=output)
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest


def test_the_shipped_file_of_an_earlier_version_is_read():
    weights = Path(__file__).resolve().parents[3] / "vision/weights/tabletop_nano.onnx"
    manifest = read_manifest(weights)
    assert manifest.output == YoloxRows(decoded=True, strides=(8, 16, 32))


def test_a_third_party_rtdetr_has_coco_s_number_of_classes_or_those_of_the_file_beside_it(tmp_path: Path):
    manifest = rtdetr_manifest(tmp_path / "net.onnx", (640, 640))
    assert manifest.class_names == tuple(map(str, range(80)))
    assert (manifest.preprocessing.resize, manifest.preprocessing.colour) == ("stretch", "rgb")
    (tmp_path / "coco_classes.txt").write_text("cat\ndog\n")
    assert rtdetr_manifest(tmp_path / "net.onnx", (640, 640)).class_names == ("cat", "dog")
