"""Insert Q/DQ nodes for static INT8 on x86, in one form for ONNX Runtime and one for OpenVINO: unsigned activations
with a zero-point, signed per-channel weights stored in 8 bits. (TensorRT takes no zero-points: see `quantize.py`.)

ONNX Runtime runs a node in 8 bits only if its outputs have pairs as well, so whole regions are quantised, with SiLU.
OpenVINO fuses float activations into convolutions, so pairs are at inputs of layers only, which rounds each value once
instead of three times. Its kernels take no signed activations.
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
"""Computed in 8 bits where all their inputs are."""
CARRIERS = frozenset({"MaxPool", "Resize"})
"""These only move values: input and output share one range."""
SILU_FLOOR = -8.0
"""SiLU of anything lower is within 0.003 of zero, so the range is cut here."""


def quantize_for_onnxruntime(
    model: onnx.ModelProto, ranges: Mapping[str, Range], keep_float: Collection[str] = ()
) -> onnx.ModelProto:
    """A copy of `model` whose convolutions, but those in keep_float, and the nodes between them compute in 8 bits.

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
    """A copy of `model` in which all layers but those in keep_float have unsigned 8-bit inputs and float outputs.

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
    """Scale and zero-point of uint8 over the range; zero is represented exactly."""
    scale = max((held.high - held.low) / 255, SMALLEST_SCALE)
    return np.float32(scale), np.uint8(np.clip(round(-held.low / scale), 0, 255))


def region_tensors(index: GraphIndex, keep_float: Collection[str] = ()) -> list[str]:
    """Tensors in 8 bits: inputs and outputs of the convolutions, and outputs of the nodes between them."""
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
    """The range of each tensor: cut at SILU_FLOOR before SiLU, shared by input and output of carriers."""
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
    """Put an unsigned Q/DQ pair between a tensor and `readers`."""
    scale, zero_point = affine_parameters(held)
    replace_inputs(readers, name, writer.pair(name, scale, zero_point))


def _store_weights(writer: PairWriter, node: onnx.NodeProto) -> np.ndarray:
    """Store weights as int8 with a DequantizeLinear; returns their scales."""
    weight = writer.index.value(node.input[1])
    axis, scales = weight_axis(node), weight_scales(node, weight)
    node.input[1] = _stored(writer, node, node.input[1], quantized_weight(weight, scales, axis), scales, axis)
    return scales


def _store_bias(writer: PairWriter, node: onnx.NodeProto, steps: np.ndarray) -> None:
    """Store the bias as int32 with scale input times weight, which ONNX Runtime needs to run the layer in 8 bits."""
    if len(node.input) < 3 or not node.input[2]:
        return
    limits = np.iinfo(np.int32)
    whole = np.rint(writer.index.value(node.input[2]).astype(np.float64) / steps)
    stored = np.clip(whole, limits.min, limits.max).astype(np.int32)
    node.input[2] = _stored(writer, node, node.input[2], stored, steps.astype(np.float32), 0)


def _stored(
    writer: PairWriter, node: onnx.NodeProto, name: str, steps: np.ndarray, scales: np.ndarray, axis: int | None
) -> str:
    """Store a quantised constant with a DequantizeLinear before the node; returns the name of its output."""
    stored, scale_name = writer.constant(f"{name}_quantized", steps), writer.constant(f"{name}_scale", scales)
    zero_name = writer.constant(f"{name}_zero_point", np.zeros(scales.shape, steps.dtype))
    out = writer.index.unused_name(f"{name}_dequantized")
    made = helper.make_node("DequantizeLinear", [stored, scale_name, zero_name], [out], f"{out}_node", axis=axis)
    writer.before(node, made)
    return out
