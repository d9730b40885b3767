"""Suppression of boxes as part of the graph, by choice: rows of cells go in, the best 300 boxes come out.

The operators are ONNX's NonMaxSuppression and what surrounds it; all of them TensorRT's parser knows. It is put behind
a finished graph, quantised or not, and computes in float32 what `vision.runtime.decode` does outside.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from handeye.export.graph.graph_index import GraphIndex
from handeye.vision.errors import UserError
from handeye.vision.runtime.image_detector import MAX_DETECTIONS
from handeye.vision.runtime.manifest import Manifest, PostprocessedBoxes, YoloxRows

SCORE_FLOOR = 0.001
"""What is less sure never comes out; the threshold that the file is run with may be any above. Boxes below a threshold
never suppress those above it, so a low floor changes nothing but time."""
CANDIDATES = 3000
"""So many of the best rows are compared with each other; TensorRT's TopK takes fewer than 3840."""
PREFIX = "suppression"
OUTPUT_NAME = "boxes"


def nms_in_graph(model: onnx.ModelProto, manifest: Manifest) -> tuple[onnx.ModelProto, Manifest]:
    """A copy of `model` that gives PostprocessedBoxes (1, 300, 6), rows of zeros behind the last box, and its manifest.

    Raises UserError for rows that are not decoded boxes of cells, and for a batch or an input size that is free.
    """
    layout = manifest.output
    if not isinstance(layout, YoloxRows):
        raise UserError("--nms in-graph: this network says each object once; there is nothing to suppress")
    if not layout.decoded:
        raise UserError(
            "--nms in-graph: this file's boxes are not decoded; import its weights and export the checkpoint"
        )
    num_rows = _num_rows(model)
    suppressed = onnx.ModelProto()
    suppressed.CopyFrom(model)
    writer = _Writer(suppressed.graph)
    boxes, labelled, scores = _candidates(writer, num_rows, len(manifest.class_names))
    chosen = _suppress(writer, boxes, scores, manifest.iou_threshold)
    padding = writer.constant(np.zeros((MAX_DETECTIONS, 6), np.float32))
    found = writer("Concat", [writer("Gather", [labelled, chosen], axis=0), padding], axis=0)
    writer.batched(_best_of(writer, found, MAX_DETECTIONS), OUTPUT_NAME)
    del suppressed.graph.output[:]
    shape = [1, MAX_DETECTIONS, 6]
    suppressed.graph.output.append(helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, shape))
    output = PostprocessedBoxes(score_floor=SCORE_FLOOR, iou_threshold=manifest.iou_threshold)
    return suppressed, manifest.model_copy(update={"output": output})


def _num_rows(model: onnx.ModelProto) -> int:
    (output,) = onnx.shape_inference.infer_shapes(model).graph.output
    sizes = [size.dim_value for size in output.type.tensor_type.shape.dim]
    taken = [size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim]
    if len(sizes) != 3 or sizes[0] != 1 or 0 in (sizes[1], *taken):
        raise UserError("--nms in-graph: boxes of one image of fixed size are suppressed; leave the free sizes out")
    return sizes[1]


class _Writer:
    """Adds nodes and constants to the end of a graph: `name = writer("Mul", [a, b])`."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph, self.index = graph, GraphIndex(graph)

    def __call__(self, operator: str, inputs: list[str], output: str = "", *, place: int = 0, **attributes: Any) -> str:
        """Add one node and give the name of its output, the second where `place` is 1."""
        name = self.index.unused_name(f"/{PREFIX}/{operator}")
        outputs = [f"{name}_out{number}" for number in range(place)] + [output or f"{name}_out"]
        self.graph.node.append(helper.make_node(operator, inputs, outputs, name=name, **attributes))
        return outputs[-1]

    def constant(self, value: np.ndarray) -> str:
        """Add a constant and give its name."""
        name = self.index.unused_name(f"/{PREFIX}/constant")
        self.graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def columns(self, rows: str, start: int, stop: int) -> str:
        """Some columns of a table."""
        return self("Slice", [rows, *(self.constant(np.array([number])) for number in (start, stop, 1))])

    def flat(self, values: str) -> str:
        """All numbers in one row."""
        return self("Reshape", [values, self.constant(np.array([-1]))])

    def batched(self, values: str, output: str = "") -> str:
        """The same as a batch of one."""
        return self("Unsqueeze", [values, self.constant(np.array([0]))], output)


def _candidates(writer: _Writer, num_rows: int, num_classes: int) -> tuple[str, str, str]:
    """Corners (1, K, 4), table of corners, score and class (K, 6), and scores by class (1, C, K) of the best rows.

    A row is of one class only, its best: all its other scores are 0, and nothing that is 0 is chosen.
    """
    rows = writer("Squeeze", [writer.graph.output[0].name, writer.constant(np.array([0]))])
    of_classes = writer.columns(rows, 5, 5 + num_classes)
    classes = writer("ArgMax", [of_classes], axis=1, keepdims=1)
    best = writer("GatherElements", [of_classes, classes], axis=1)
    scores = writer("Mul", [writer.columns(rows, 4, 5), best])
    middles, sizes = writer.columns(rows, 0, 2), writer.columns(rows, 2, 4)
    halves = writer("Mul", [sizes, writer.constant(np.array(0.5, np.float32))])
    corners = [writer("Sub", [middles, halves]), writer("Add", [middles, halves])]
    table = writer("Concat", [*corners, scores, writer("Cast", [classes], to=TensorProto.FLOAT)], axis=1)
    if num_rows > CANDIDATES:
        table = _best_of(writer, table, CANDIDATES)
    classes = writer("Cast", [writer.columns(table, 5, 6)], to=TensorProto.INT64)
    values = writer.constant(np.array([0, 1], np.float32))
    is_class = writer("OneHot", [writer.flat(classes), writer.constant(np.array(num_classes)), values], axis=-1)
    by_class = writer("Transpose", [writer("Mul", [is_class, writer.columns(table, 4, 5)])], perm=[1, 0])
    return writer.batched(writer.columns(table, 0, 4)), table, writer.batched(by_class)


def _suppress(writer: _Writer, boxes: str, scores: str, iou_threshold: float) -> str:
    """Which rows of the table stay (M,)."""
    limits = [
        writer.constant(value)
        for value in (
            np.array([MAX_DETECTIONS]),
            np.array([iou_threshold], np.float32),
            np.array([SCORE_FLOOR], np.float32),
        )
    ]
    chosen = writer("NonMaxSuppression", [boxes, scores, *limits])
    return writer.flat(writer.columns(chosen, 2, 3))


def _best_of(writer: _Writer, table: str, count: int) -> str:
    """The rows of a table (N, 6) with the highest scores, best first."""
    scores = writer.flat(writer.columns(table, 4, 5))
    best = writer("TopK", [scores, writer.constant(np.array([count]))], place=1, axis=0)
    return writer("Gather", [table, best], axis=0)
