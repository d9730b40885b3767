"""ONNX files small enough to reason about: the rows of the output are constants, whatever the image shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from handeye.vision.images import Preprocessing
from handeye.vision.runtime.decode import grid_cells
from handeye.vision.runtime.manifest import METADATA_KEY, Manifest, YoloxRows, parse_onnx

CLASSES = ("cube", "ball", "bin")


def empty_rows(size_hw: tuple[int, int], num_classes: int = len(CLASSES)) -> np.ndarray:
    """Rows in which nothing is detected."""
    return np.zeros((len(grid_cells(size_hw, (8, 16, 32))[0]), 5 + num_classes), np.float32)


def constant_model(rows: np.ndarray, size_hw: tuple[int, int]) -> onnx.ModelProto:
    """A graph images (1, 3, H, W) -> rows: the mean of the image times zero, plus the constants."""
    constants = numpy_helper.from_array(rows[None], "constants")
    zero = numpy_helper.from_array(np.zeros((1, 1, 1), np.float32), "zero")
    axes = [1, 2, 3]
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], axes=axes, keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["constants", "nothing"], ["rows"]),
    ]
    graph = helper.make_graph(
        nodes,
        "constant",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, *size_hw])],
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, [1, *rows.shape])],
        [constants, zero],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write_model(path: Path, rows: np.ndarray, size_hw: tuple[int, int] = (64, 96), **changes: object) -> Manifest:
    """Write a constant model with its manifest; `changes` are fields of the manifest that differ."""
    model = constant_model(rows, size_hw)
    fields: dict[str, object] = {
        "name": path.stem,
        "class_names": CLASSES,
        "preprocessing": Preprocessing(size_hw=size_hw),
        "output": YoloxRows(decoded=True),
        "graph_sha256": parse_onnx(model.SerializeToString(), "model").graph_sha256,
    }
    manifest = Manifest.model_validate(fields | changes)
    helper.set_model_props(model, {METADATA_KEY: manifest.model_dump_json()})
    path.write_bytes(model.SerializeToString())
    return manifest


def mean_model(input_type: int, size_hw: tuple[int, int]) -> onnx.ModelProto:
    """A graph images (1, 3, H, W) of the given type -> mean (1,), computed in float32."""
    nodes = [
        helper.make_node("Cast", ["images"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["numbers"], ["mean"], axes=[1, 2, 3], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "mean",
        [helper.make_tensor_value_info("images", input_type, [1, 3, *size_hw])],
        [helper.make_tensor_value_info("mean", TensorProto.FLOAT, [1])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
