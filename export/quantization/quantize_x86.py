"""Static INT8 in the two forms that engines on x86 compute fastest: unsigned activations with a zero-point, signed
weights by channel, stored in 8 bits. TensorRT refuses zero-points; for it there is `quantize.py`.

ONNX Runtime runs a node on eight bits only if its outputs have pairs as well, so for it whole regions are quantised,
SiLU included. OpenVINO fuses a float activation into a convolution by itself: for it pairs stand on inputs of layers
only, which rounds each number once instead of three times. Its kernels take no signed activations.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from onnx import helper

from handeye.export.graph.graph_index import GraphIndex, replace_inputs
from handeye.export.quantization.calibration import Range
from handeye.export.quantization.quantize import (
    SMALLEST_SCALE,
    PairWriter,
    quantized_inputs,
    quantized_weight,
    weight_axis,
    weight_scales,
)

FOLLOWERS = frozenset({"Sigmoid", "Mul", "Add", "Concat", "LeakyRelu", "AveragePool", "GlobalAveragePool"})
"""Computed in eight bits where all that they read is."""
CARRIERS = frozenset({"MaxPool", "Resize"})
"""These move numbers and change none: input and output share one range."""
SILU_FLOOR = -8.0
"""What SiLU makes of anything lower is within 0.003 of zero, so lower numbers earn no steps."""


def quantize_for_onnxruntime(
    model: onnx.ModelProto, ranges: Mapping[str, Range], keep_float: Collection[str] = ()
) -> onnx.ModelProto:
    """A copy of `model` whose convolutions, but those in keep_float, and what lies between them compute in eight bits.

    ranges: of the tensors that `region_tensors` names. Raises KeyError when one is missing.
    """
    quantized = onnx.ModelProto()
    quantized.CopyFrom(model)
    index = GraphIndex(quantized.graph)
    writer = PairWriter(index)
    input_of = {node.name: node.input[0] for node in index.layers()}
    shared = _shared_ranges(index, region_tensors(index, keep_float), ranges)
    for name, held in shared.items():
        _pair_for(writer, name, index.readers[name], held)
    for node in index.layers():
        if node.name not in keep_float and node.op_type == "Conv":
            scales = _store_weights(writer, node)
            _store_bias(writer, node, affine_parameters(shared[input_of[node.name]])[0] * scales)
    writer.finish()
    return quantized


def quantize_for_openvino(
    model: onnx.ModelProto, ranges: Mapping[str, Range], keep_float: Collection[str] = ()
) -> onnx.ModelProto:
    """A copy of `model` in which all layers but those in keep_float read unsigned 8-bit numbers and give float ones.

    ranges: of the inputs of layers, as `quantized_inputs` names them. Raises KeyError when one is missing.
    """
    quantized = onnx.ModelProto()
    quantized.CopyFrom(model)
    index = GraphIndex(quantized.graph)
    writer = PairWriter(index)
    for name, readers in quantized_inputs(index, keep_float).items():
        layers = [reader for reader in readers if index.weight_name(reader) is not None]
        if layers:
            _pair_for(writer, name, layers, ranges[name])
    for node in index.layers():
        if node.name not in keep_float:
            _store_weights(writer, node)
    writer.finish()
    return quantized


def affine_parameters(held: Range) -> tuple[np.float32, np.uint8]:
    """Scale and zero-point of an unsigned number over the range; zero is exactly a step."""
    scale = max((held.high - held.low) / 255, SMALLEST_SCALE)
    return np.float32(scale), np.uint8(np.clip(round(-held.low / scale), 0, 255))


def region_tensors(index: GraphIndex, keep_float: Collection[str] = ()) -> list[str]:
    """The tensors in eight bits: inputs and outputs of the convolutions, and what nodes between them make of these."""
    tensors: dict[str, None] = {}
    outputs = set(index.output_names)
    for node in index.nodes:
        is_layer = node.op_type == "Conv" and node.name not in keep_float and index.weight_name(node) is not None
        if is_layer:
            tensors.update(dict.fromkeys((node.input[0], *node.output)))
        elif node.op_type in FOLLOWERS | CARRIERS and _reads_only(index, node, tensors):
            tensors.update(dict.fromkeys(node.output))
    return [name for name in tensors if name not in outputs and name not in index.constants]


def _reads_only(index: GraphIndex, node: onnx.NodeProto, tensors: Mapping[str, None]) -> bool:
    data = node.input[:1] if node.op_type == "Resize" else node.input
    return all(name in tensors for name in data) and not any(name in index.constants for name in data)


def _shared_ranges(index: GraphIndex, tensors: list[str], ranges: Mapping[str, Range]) -> dict[str, Range]:
    """The range of each tensor: cut at SiLU's floor before SiLU, one for all that a carrier ties together."""
    own = {name: ranges[name] for name in tensors}
    for name in tensors:
        if {reader.op_type for reader in index.readers[name]} == {"Sigmoid", "Mul"}:
            own[name] = Range(max(own[name].low, SILU_FLOOR), own[name].high)
    for node in reversed(index.nodes):
        if node.op_type in CARRIERS and node.input[0] in own and node.output[0] in own:
            own[node.input[0]] = own[node.input[0]].union(own[node.output[0]])
    for node in index.nodes:
        if node.op_type in CARRIERS and node.input[0] in own and node.output[0] in own:
            own[node.output[0]] = own[node.input[0]]
    return own


def _pair_for(writer: PairWriter, name: str, readers: Collection[onnx.NodeProto], held: Range) -> None:
    """Let `readers` read a tensor through an unsigned pair."""
    scale, zero_point = affine_parameters(held)
    replace_inputs(readers, name, writer.pair(name, scale, zero_point))


def _store_weights(writer: PairWriter, node: onnx.NodeProto) -> np.ndarray:
    """Weights in 8 bits behind a DequantizeLinear; returns their scales."""
    weight = writer.index.value(node.input[1])
    axis, scales = weight_axis(node), weight_scales(node, weight)
    node.input[1] = _stored(writer, node, node.input[1], quantized_weight(weight, scales, axis), scales, axis)
    return scales


def _store_bias(writer: PairWriter, node: onnx.NodeProto, steps: np.ndarray) -> None:
    """The bias in 32 bits in steps of input times weight: else ONNX Runtime does not run a convolution in 8 bits."""
    if len(node.input) < 3 or not node.input[2]:
        return
    limits = np.iinfo(np.int32)
    whole = np.rint(writer.index.value(node.input[2]).astype(np.float64) / steps)
    stored = np.clip(whole, limits.min, limits.max).astype(np.int32)
    node.input[2] = _stored(writer, node, node.input[2], stored, steps.astype(np.float32), 0)


def _stored(
    writer: PairWriter, node: onnx.NodeProto, name: str, steps: np.ndarray, scales: np.ndarray, axis: int | None
) -> str:
    """Keep a constant of a node as whole steps, with a DequantizeLinear before the node; the name of what comes out."""
    stored, scale_name = writer.constant(f"{name}_quantized", steps), writer.constant(f"{name}_scale", scales)
    zero_name = writer.constant(f"{name}_zero_point", np.zeros(scales.shape, steps.dtype))
    out = writer.index.unused_name(f"{name}_dequantized")
    made = helper.make_node("DequantizeLinear", [stored, scale_name, zero_name], [out], f"{out}_node", axis=axis)
    writer.before(node, made)
    return out
