"""The reader of ONNX metadata against the onnx package, and damaged files."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from handeye.vision.errors import ModelFileError
from handeye.vision.runtime.manifest import parse_onnx, read_onnx_file
from tests.vision.runtime.tiny_models import constant_model, empty_rows


def model_bytes(metadata: dict[str, str]) -> bytes:
    model = constant_model(empty_rows((32, 32)), (32, 32))
    helper.set_model_props(model, metadata)
    return model.SerializeToString()


def test_metadata_and_graph_hash_are_what_the_onnx_package_says():
    metadata = {"handeye": '{"a": 1}', "empty": "", "ünïcode": "grün"}
    content = model_bytes(metadata)
    file = parse_onnx(content, "model")
    model = onnx.load_from_string(content)
    assert file.metadata == metadata
    assert file.graph_sha256 == hashlib.sha256(model.graph.SerializeToString()).hexdigest()
    assert parse_onnx(model_bytes({}), "model").graph_sha256 == file.graph_sha256


def test_a_file_without_manifest_is_read(sample):
    path = sample("yolox/blood_cells_raw.onnx")
    file = read_onnx_file(path)
    graph = onnx.load(path).graph
    assert file.metadata == {}
    assert file.graph_sha256 == hashlib.sha256(graph.SerializeToString()).hexdigest()


def test_every_cut_is_noticed():
    """A cut between two fields leaves a valid message, but then the metadata at the end are gone."""
    content = model_bytes({"handeye": "x" * 300})
    whole = parse_onnx(content, "model")
    for length in np.linspace(0, len(content) - 1, 200).astype(int):
        with contextlib.suppress(ModelFileError):
            assert parse_onnx(content[:length], "model") != whole


@pytest.mark.parametrize("content", [b"", b"\x00", b"not a model at all", b"\xff" * 40, b"PK\x03\x04" + bytes(50)])
def test_other_files_are_rejected_by_name(tmp_path: Path, content: bytes):
    path = tmp_path / "thing.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"thing\.onnx"):
        read_onnx_file(path)


def test_a_missing_file_is_rejected_by_name(tmp_path: Path):
    with pytest.raises(ModelFileError, match=r"absent\.onnx.*No such file"):
        read_onnx_file(tmp_path / "absent.onnx")
