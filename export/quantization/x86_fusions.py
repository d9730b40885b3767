"""Graph fusions for ONNX Runtime on x86: fold the focus block, chain the max pools of spatial pyramid pooling.

Both save passes over memory and change results only by rounding. The focus of published YOLOX files (space to depth
before the first convolution; our own checkpoints are exported without) becomes one convolution with twice the kernel
and stride. Of parallel stride-1 max pools, each larger one pools the output of the next smaller one. Other formats keep
the graph unchanged: the effect on their engines was not measured.
"""

from __future__ import annotations

import numpy as np
import onnx
from jaxtyping import Float32
from onnx import helper, numpy_helper

from handeye.export.graph.graph_index import GraphIndex, attribute

PHASES = {(0, 0), (0, 1), (1, 0), (1, 1)}
"""Row and column offsets of the slices of a focus block."""
TO_THE_END = 1 << 30
"""Exporters write a number above this for an open-ended slice."""


def fuse_for_onnxruntime(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` with folded focus and chained pools; equal up to rounding."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    _chain_pools(copied.graph)
    _fold_focus(copied.graph)
    return copied


def _chain_pools(graph: onnx.GraphProto) -> None:
    """Let each k x k pool read the next smaller j x j one, with a window of k - j + 1."""
    smaller: dict[str, tuple[int, int, str]] = {}
    pools = [(size, place, node) for place, node in enumerate(graph.node) if (size := _pool_size(node)) is not None]
    for size, place, node in sorted(pools, key=lambda pool: pool[:2]):
        source = node.input[0]
        known, earlier, made = smaller.get(source, (size, place, ""))
        if known < size and earlier < place:
            node.input[0] = made
            _set(node, "kernel_shape", [size - known + 1] * 2)
            _set(node, "pads", [(size - known) // 2] * 4)
        smaller[source] = (size, place, node.output[0])


def _pool_size(node: onnx.NodeProto) -> int | None:
    """Kernel size of a square, odd max pool that keeps height and width; None for any other node."""
    if node.op_type != "MaxPool" or len(node.output) != 1 or attribute(node, "ceil_mode", 0):
        return None
    height, width = (*_numbers(node, "kernel_shape", [0, 0]), 0)[:2]
    keeps = _numbers(node, "pads", [0] * 4) == [height // 2] * 4 and _numbers(node, "strides", [1, 1]) == [1, 1]
    plain = _numbers(node, "dilations", [1, 1]) == [1, 1]
    return height if height == width and height % 2 and keeps and plain else None


def _fold_focus(graph: onnx.GraphProto) -> None:
    """Let a convolution that reads a concatenation of all four slices read the image itself."""
    index = GraphIndex(graph)
    for node in index.layers():
        joined = index.producer.get(node.input[0])
        if joined is None or not _is_foldable(index, node, joined):
            continue
        found = [_phase(index, name) for name in joined.input]
        sources = {phase[0] for phase in found if phase is not None}
        phases = [phase[1:] for phase in found if phase is not None]
        if len(sources) == 1 and len(phases) == len(found) == len(PHASES) and set(phases) == PHASES:
            _read_image(index, node, sources.pop(), phases)
    _drop_unread(graph)


def _is_foldable(index: GraphIndex, node: onnx.NodeProto, joined: onnx.NodeProto) -> bool:
    plain = node.op_type == "Conv" and attribute(node, "group", 1) == 1
    plain = plain and _numbers(node, "dilations", [1, 1]) == [1, 1] and not _text(node, "auto_pad")
    only_reader = joined.output[0] not in index.output_names and len(index.readers[joined.output[0]]) == 1
    return plain and only_reader and joined.op_type == "Concat" and attribute(joined, "axis", 0) == 1


def _phase(index: GraphIndex, name: str) -> tuple[str, int, int] | None:
    """The tensor of which `name` is every second row and column, with the row and column offset."""
    starts: dict[int, int] = {}
    while (maker := index.producer.get(name)) is not None and maker.op_type == "Slice":
        if len(maker.input) < 5 or not all(entry in index.constants for entry in maker.input[1:5]):
            return None
        for start, end, axis, step in zip(*(index.value(entry).tolist() for entry in maker.input[1:5]), strict=True):
            if axis not in (2, 3) or axis in starts or step != 2 or end < TO_THE_END:
                return None
            starts[axis] = start
        name = maker.input[0]
    return (name, starts[2], starts[3]) if len(starts) == 2 else None


def _read_image(index: GraphIndex, node: onnx.NodeProto, source: str, phases: list[tuple[int, int]]) -> None:
    """Interleave the weights of the four slices in a kernel of twice the size."""
    weight: Float32[np.ndarray, "O C k k"] = index.value(node.input[1])
    made, channels, height, width = weight.shape
    share = channels // len(PHASES)
    wide = np.zeros((made, share, 2 * height, 2 * width), weight.dtype)
    for place, (row, column) in enumerate(phases):
        wide[:, :, row::2, column::2] = weight[:, place * share : (place + 1) * share]
    name = index.unused_name(f"{node.input[1]}_of_the_image")
    index.graph.initializer.append(numpy_helper.from_array(wide, name))
    node.input[0], node.input[1] = source, name
    for what, default in (("strides", [1, 1]), ("pads", [0] * 4)):
        _set(node, what, [2 * number for number in _numbers(node, what, default)])
    _set(node, "kernel_shape", [2 * height, 2 * width])


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Remove slices, concatenations and constants that are no longer read."""
    outputs = {value.name for value in graph.output}
    while True:
        read = outputs | {name for node in graph.node for name in node.input}
        idle = [node for node in graph.node if node.op_type in {"Slice", "Concat"} and not read & set(node.output)]
        if not idle:
            break
        for node in idle:
            graph.node.remove(node)
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)


def _numbers(node: onnx.NodeProto, name: str, default: list[int]) -> list[int]:
    return next((list(entry.ints) for entry in node.attribute if entry.name == name), default)


def _text(node: onnx.NodeProto, name: str) -> str:
    """A string attribute; "NOTSET" counts as absent."""
    word = next((entry.s.decode() for entry in node.attribute if entry.name == name), "")
    return "" if word == "NOTSET" else word


def _set(node: onnx.NodeProto, name: str, numbers: list[int]) -> None:
    kept = [entry for entry in node.attribute if entry.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, numbers)])
