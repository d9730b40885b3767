"""The same function by fewer passes over memory, for the x86 form of a network: no result changes but by rounding.

Two things cost ONNX Runtime time and compute nothing. Pixels sorted into channels before the first convolution (the
focus of published YOLOX files; our own checkpoints are exported without) make one with a kernel of twice the size and
stride. Of stride-1 max pools side by side (spatial pyramid pooling) the larger are the smaller ones pooled again. The
other formats keep the graph as it came: what their engines make of these two was not measured.
"""

from __future__ import annotations

import numpy as np
import onnx
from jaxtyping import Float32
from onnx import helper, numpy_helper

from handeye.export.graph.graph_index import GraphIndex, attribute

PHASES = {(0, 0), (0, 1), (1, 0), (1, 1)}
"""Rows and columns, even or odd, whose pixels a focus sorts into channels."""
TO_THE_END = 1 << 30
"""Exporters write some number above this for a slice without an end."""


def with_fewer_passes(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` with folded focus and chained pools; equal to it but for the rounding of sums."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    _chain_pools(copied.graph)
    _fold_focus(copied.graph)
    return copied


def _chain_pools(graph: onnx.GraphProto) -> None:
    """Let each stride-1 pool of k x k read the next smaller one j x j, by a window of k - j + 1."""
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
    """The side of a square pool of odd size that keeps the size of a map; None for any other node."""
    if node.op_type != "MaxPool" or len(node.output) != 1 or attribute(node, "ceil_mode", 0):
        return None
    height, width = (*_numbers(node, "kernel_shape", [0, 0]), 0)[:2]
    keeps = _numbers(node, "pads", [0] * 4) == [height // 2] * 4 and _numbers(node, "strides", [1, 1]) == [1, 1]
    plain = _numbers(node, "dilations", [1, 1]) == [1, 1]
    return height if height == width and height % 2 and keeps and plain else None


def _fold_focus(graph: onnx.GraphProto) -> None:
    """Let a convolution read the image itself where it read a concatenation of all its phases."""
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
    """Which tensor a name is every second row and column of, and from which ones on."""
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
    """Weights of each phase go to every second row and column of a kernel of twice the size."""
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
    """Remove slices, concatenations and constants that nobody reads any more."""
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
    """A word among the attributes; "NOTSET" counts as none."""
    word = next((entry.s.decode() for entry in node.attribute if entry.name == name), "")
    return "" if word == "NOTSET" else word


def _set(node: onnx.NodeProto, name: str, numbers: list[int]) -> None:
    kept = [entry for entry in node.attribute if entry.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, numbers)])
