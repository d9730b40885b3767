"""Insert Q/DQ nodes for static INT8 in TensorRT (explicit quantisation).

For TensorRT 10 and 11: symmetric int8 at the inputs of layers only, weights per output channel, float biases; of a
residual sum the skip input. See NVIDIA's guide "Working with quantized types". `quantize_x86.py` has the forms for x86.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from jaxtyping import Float32, Int8
from onnx import helper, numpy_helper

from handeye.export.graph.graph_index import GraphIndex, replace_inputs
from handeye.export.quantization.calibration import Range

LARGEST = 127
"""-128 is not used, which keeps the range symmetric."""
SMALLEST_SCALE = 1e-8
"""For tensors that are zero everywhere."""
FRAGILE = frozenset({"Softmax", "GridSample", "TopK", "Floor", "GatherElements", "GatherND", "ScatterND"})
"""Layers that feed one of these need more than 8 bits: attention weights, sampling locations, query selection."""


def pinned_layers(index: GraphIndex) -> dict[str, str]:
    """Layers that stay in float, by node name, each with the reason.

    The first layers read the image, which uses all of its 8 bits; the last ones predict boxes and scores; inputs of
    softmax, sampling locations or top-k are sensitive to small differences. (NVIDIA's ModelOpt and Ultralytics exclude
    the same layers.)
    """
    layers = index.layers()
    is_layer = {id(node) for node in layers}
    pinned = {}
    for node in layers:
        if not _comes_from_a_layer(index, node, is_layer):
            pinned[node.name] = "stem"
            continue
        met = list(index.met_from(node, lambda reader: id(reader) in is_layer))
        kinds = {reader.op_type for reader, _ in met}
        if kinds & FRAGILE or any(_multiplies_computed(index, reader) for reader, _ in met):
            pinned[node.name] = "attention"
        elif not any(id(reader) in is_layer for reader, _ in met):
            pinned[node.name] = "prediction"
    return pinned


def quantize_for_tensorrt(
    model: onnx.ModelProto, ranges: Mapping[str, Range], keep_float: Collection[str] = ()
) -> onnx.ModelProto:
    """A copy of `model` in which all layers but those in `keep_float` compute in int8.

    ranges: of the tensors that `quantized_inputs` names; a sum whose skip input has none stays in float. Raises
    KeyError when that of a layer is missing.
    """
    quantized = onnx.ModelProto()
    quantized.CopyFrom(model)
    index = GraphIndex(quantized.graph)
    writer = PairWriter(index)
    for name, readers in quantized_inputs(index, keep_float).items():
        if name not in ranges and all(reader.op_type == "Add" for reader in readers):
            continue
        pair = writer.symmetric_pair(name, ranges[name])
        replace_inputs(readers, name, pair)
    for node in index.layers():
        if node.name not in keep_float:
            writer.quantize_weight(node)
    writer.finish()
    return quantized


def quantized_inputs(index: GraphIndex, keep_float: Collection[str] = ()) -> dict[str, list[onnx.NodeProto]]:
    """Tensors that get a Q/DQ pair and their readers behind it: layers, and sums whose branch ends in a layer."""
    found: dict[str, list[onnx.NodeProto]] = {}
    chosen = {id(node) for node in index.layers() if node.name not in keep_float}
    depths = _depths(index)
    for node in index.nodes:
        if id(node) in chosen:
            found.setdefault(node.input[0], []).append(node)
        elif (skip := _skip_input(index, node, chosen, depths)) is not None:
            found.setdefault(skip, []).append(node)
    return found


def weight_axis(node: onnx.NodeProto) -> int | None:
    """Axis of the output channels in a layer's weights; None: one scale for the whole tensor.

    TensorRT takes per-channel scales for convolutions; matrix products get one scale, as in NVIDIA's ModelOpt.
    """
    match node.op_type:
        case "Conv":
            return 0
        case "ConvTranspose":
            return 1
        case _:
            return None


def weight_scales(node: onnx.NodeProto, weight: Float32[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    """Scales of int8 weights: the largest of each channel becomes 127."""
    axis = weight_axis(node)
    others = None if axis is None else tuple(other for other in range(weight.ndim) if other != axis)
    return np.asarray(np.maximum(np.abs(weight).max(axis=others) / LARGEST, SMALLEST_SCALE), np.float32)


def quantized_weight(
    weight: Float32[np.ndarray, "..."], scales: Float32[np.ndarray, "..."], axis: int | None
) -> Int8[np.ndarray, "..."]:
    """Weights as int8, rounded to nearest."""
    shape = [-1 if other == axis else 1 for other in range(weight.ndim)]
    steps = scales if axis is None else scales.reshape(shape)
    return np.clip(np.rint(weight / steps), -LARGEST, LARGEST).astype(np.int8)


class PairWriter:
    """Inserts Q/DQ pairs into the graph of an index, each directly behind its producer."""

    def __init__(self, index: GraphIndex) -> None:
        self.index = index
        self._new: dict[int, list[onnx.NodeProto]] = {}
        self._place = {id(node): place for place, node in enumerate(index.nodes)}
        self._constants: list[onnx.TensorProto] = []

    def symmetric_pair(self, name: str, held: Range) -> str:
        """Add a Q/DQ pair with zero-point 0; returns the name of its output."""
        scale = np.float32(max(held.bound / LARGEST, SMALLEST_SCALE))
        return self.pair(name, scale, np.int8(0))

    def pair(self, name: str, scale: np.ndarray | np.floating, zero_point: np.ndarray | np.integer) -> str:
        """Add a Q/DQ pair with one scale; returns the name of its output."""
        scale_name = self.constant(f"{name}_scale", np.asarray(scale))
        zero_name = self.constant(f"{name}_zero_point", np.asarray(zero_point))
        quantized, out = self.index.unused_name(f"{name}_quantized"), self.index.unused_name(f"{name}_dequantized")
        nodes = [
            helper.make_node("QuantizeLinear", [name, scale_name, zero_name], [quantized], name=f"{quantized}_node"),
            helper.make_node("DequantizeLinear", [quantized, scale_name, zero_name], [out], name=f"{out}_node"),
        ]
        self._new.setdefault(self._after(name), []).extend(nodes)
        return out

    def quantize_weight(self, node: onnx.NodeProto) -> None:
        """Add a Q/DQ pair to float weights: all versions of TensorRT fold it; not all take a bare DequantizeLinear."""
        name = node.input[1]
        axis, scales = weight_axis(node), weight_scales(node, self.index.value(name))
        scale_name = self.constant(f"{name}_scale", scales)
        zero_name = self.constant(f"{name}_zero_point", np.zeros(scales.shape, np.int8))
        quantized, out = self.index.unused_name(f"{name}_quantized"), self.index.unused_name(f"{name}_dequantized")
        parameters = [scale_name, zero_name]
        self.before(
            node,
            helper.make_node("QuantizeLinear", [name, *parameters], [quantized], f"{quantized}_node", axis=axis),
            helper.make_node("DequantizeLinear", [quantized, *parameters], [out], f"{out}_node", axis=axis),
        )
        node.input[1] = out

    def before(self, node: onnx.NodeProto, *new: onnx.NodeProto) -> None:
        """Insert `new` nodes directly before a node."""
        self._new.setdefault(self._place[id(node)] - 1, []).extend(new)

    def constant(self, wish: str, value: np.ndarray) -> str:
        """Add a constant; returns its name."""
        name = self.index.unused_name(wish)
        self._constants.append(numpy_helper.from_array(value, name))
        return name

    def finish(self) -> None:
        """Write everything to the graph in topological order, without unused constants."""
        graph = self.index.graph
        ordered = list(self._new.get(-1, []))
        for place, node in enumerate(self.index.nodes):
            ordered += [node, *self._new.get(place, [])]
        used = {name for node in ordered for name in node.input}
        ordered_copies = [_copy(node) for node in ordered]
        del graph.node[:]
        graph.node.extend(ordered_copies)
        kept = [tensor for tensor in graph.initializer if tensor.name in used]
        kept = [_copy_tensor(tensor) for tensor in kept] + self._constants
        del graph.initializer[:]
        graph.initializer.extend(kept)

    def _after(self, name: str) -> int:
        producer = self.index.producer.get(name)
        return -1 if producer is None else self._place[id(producer)]


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    return copied


def _copy_tensor(tensor: onnx.TensorProto) -> onnx.TensorProto:
    copied = onnx.TensorProto()
    copied.CopyFrom(tensor)
    return copied


def _comes_from_a_layer(index: GraphIndex, node: onnx.NodeProto, is_layer: Collection[int]) -> bool:
    """Whether there is a layer upstream of this one."""
    waiting, seen = [node.input[0]], set[str]()
    while waiting:
        name = waiting.pop()
        producer = index.producer.get(name)
        if producer is None or name in seen:
            continue
        seen.add(name)
        if id(producer) in is_layer:
            return True
        waiting.extend(producer.input)
    return False


def _multiplies_computed(index: GraphIndex, node: onnx.NodeProto) -> bool:
    """Whether this is a product of two computed tensors, as in attention."""
    return node.op_type == "MatMul" and not set(node.input) & set(index.constants)


def _depths(index: GraphIndex) -> dict[str, int]:
    """Length of the longest path from the input to each tensor, in nodes."""
    depths: dict[str, int] = {}
    for node in index.nodes:
        depth = 1 + max((depths.get(name, 0) for name in node.input), default=0)
        depths.update(dict.fromkeys(node.output, depth))
    return depths


def _skip_input(
    index: GraphIndex, node: onnx.NodeProto, chosen: Collection[int], depths: Mapping[str, int]
) -> str | None:
    """The skip input of a residual sum whose branch ends in a quantised convolution.

    The branch itself stays float, so that convolution, sum and the next pair become one kernel.
    """
    if node.op_type != "Add" or set(node.input) & set(index.constants) or len(set(node.input)) != 2:
        return None
    skip, branch = sorted(node.input, key=lambda name: depths.get(name, 0))
    maker = index.producer.get(branch)
    while maker is not None and maker.op_type in {"Relu", "Sigmoid", "Mul", "LeakyRelu", "Clip", "HardSwish"}:
        maker = index.producer.get(maker.input[0])
    if maker is None or id(maker) not in chosen or maker.op_type not in {"Conv", "ConvTranspose"}:
        return None
    return skip
