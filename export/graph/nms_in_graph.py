"""Append NMS to an ONNX graph: decoded YOLOX rows in, the 300 best boxes out.

Built from NonMaxSuppression and other operators that TensorRT's parser takes. It is appended to a finished graph,
quantised or not, and computes in float32 what `vision.runtime.decode` does outside.
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
"""Boxes with lower scores are dropped in the graph; the score threshold at run time can be anything above. A box never
suppresses one with a higher score, so a low floor costs time only."""
CANDIDATES = 3000
"""Rows with the best scores that enter NMS; TensorRT's TopK takes fewer than 3840."""
PREFIX = "suppression"
OUTPUT_NAME = "boxes"


def nms_in_graph(model: onnx.ModelProto, manifest: Manifest) -> tuple[onnx.ModelProto, Manifest]:
    """A copy of `model` that returns PostprocessedBoxes (1, 300, 6), padded with zeros, and its manifest.

    Raises UserError for outputs other than decoded YOLOX rows, and for a free batch or input size.
    """
    layout = manifest.output
    if not isinstance(layout, YoloxRows):
        raise UserError("--nms in-graph: this network needs no NMS, each query is one object")
    if not layout.decoded:
        raise UserError(
            "--nms in-graph: this file's boxes are not decoded; import its weights and export the checkpoint"
        )
    num_rows = _num_rows(model)
    with_nms = onnx.ModelProto()
    with_nms.CopyFrom(model)
    writer = _Writer(with_nms.graph)
    boxes, labelled, scores = _candidates(writer, num_rows, len(manifest.class_names))
    chosen = _nms(writer, boxes, scores, manifest.iou_threshold)
    padding = writer.constant(np.zeros((MAX_DETECTIONS, 6), np.float32))
    found = writer("Concat", [writer("Gather", [labelled, chosen], axis=0), padding], axis=0)
    writer.batched(_best_of(writer, found, MAX_DETECTIONS), OUTPUT_NAME)
    del with_nms.graph.output[:]
    shape = [1, MAX_DETECTIONS, 6]
    with_nms.graph.output.append(helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, shape))
    output = PostprocessedBoxes(score_floor=SCORE_FLOOR, iou_threshold=manifest.iou_threshold)
    return with_nms, manifest.model_copy(update={"output": output})


def _num_rows(model: onnx.ModelProto) -> int:
    (output,) = onnx.shape_inference.infer_shapes(model).graph.output
    sizes = [size.dim_value for size in output.type.tensor_type.shape.dim]
    taken = [size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim]
    if len(sizes) != 3 or sizes[0] != 1 or 0 in (sizes[1], *taken):
        raise UserError("--nms in-graph: takes boxes of one image of fixed size; leave out the free sizes")
    return sizes[1]


class _Writer:
    """Appends nodes and constants to a graph: `name = writer("Mul", [a, b])`."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph, self.index = graph, GraphIndex(graph)

    def __call__(self, operator: str, inputs: list[str], output: str = "", *, place: int = 0, **attributes: Any) -> str:
        """Add a node; returns the name of its output number `place`."""
        name = self.index.unused_name(f"/{PREFIX}/{operator}")
        outputs = [f"{name}_out{number}" for number in range(place)] + [output or f"{name}_out"]
        self.graph.node.append(helper.make_node(operator, inputs, outputs, name=name, **attributes))
        return outputs[-1]

    def constant(self, value: np.ndarray) -> str:
        """Add a constant; returns its name."""
        name = self.index.unused_name(f"/{PREFIX}/constant")
        self.graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def columns(self, rows: str, start: int, stop: int) -> str:
        """Columns start to stop of a table."""
        return self("Slice", [rows, *(self.constant(np.array([number])) for number in (start, stop, 1))])

    def flat(self, values: str) -> str:
        """Flatten to one dimension."""
        return self("Reshape", [values, self.constant(np.array([-1]))])

    def batched(self, values: str, output: str = "") -> str:
        """Add a batch dimension of one."""
        return self("Unsqueeze", [values, self.constant(np.array([0]))], output)


def _candidates(writer: _Writer, num_rows: int, num_classes: int) -> tuple[str, str, str]:
    """Corners (1, K, 4), table of corners, score and class (K, 6), and scores by class (1, C, K) of the best rows.

    Each row counts for its best class only: its other scores are 0, and a score of 0 is never chosen.
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


def _nms(writer: _Writer, boxes: str, scores: str, iou_threshold: float) -> str:
    """Indices of the rows that NMS keeps (M,)."""
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
