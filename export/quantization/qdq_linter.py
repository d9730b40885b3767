"""Lint the Q/DQ nodes of an ONNX graph against TensorRT's rules for explicit quantisation; one line per violation.

The rules are those of onnx-tensorrt's importer (docs/operators.md: zero-points must be zero) and of NVIDIA's guide
"Working with quantized types": symmetric, signed, at inputs of layers, weights per channel on the right axis.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import onnx

from handeye.export.graph.graph_index import LAYERS, GraphIndex, attribute
from handeye.export.quantization.quantize import weight_axis

PAIR = ("QuantizeLinear", "DequantizeLinear")
SUMS = frozenset({"Add"})


def lint_for_tensorrt(model: onnx.ModelProto, keep_float: Collection[str] = ()) -> list[str]:
    """Violations in `model`, empty if there are none. keep_float: nodes that must stay in float."""
    index = GraphIndex(model.graph)
    faults = [fault for node in index.nodes if node.op_type in PAIR for fault in _faults_of_pair_node(index, node)]
    faults += [fault for node in index.nodes if node.op_type in LAYERS for fault in _faults_of_layer(index, node)]
    known = {node.name: node for node in index.nodes}
    for name in keep_float:
        if name in known and any(_dequantizer(index, read) is not None for read in known[name].input):
            faults.append(f"{name}: must stay in float but reads a quantised tensor")
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    if opset < 13 and any(node.op_type in PAIR for node in index.nodes):
        faults.append(f"opset {opset}: scales by channel need opset 13 or later")
    return faults


def _faults_of_pair_node(index: GraphIndex, node: onnx.NodeProto) -> Iterator[str]:
    """Check constants, symmetry, partners and readers of one QuantizeLinear or DequantizeLinear."""
    if node.input[1] not in index.constants:
        yield f"{node.name}: its scale is computed, expected a constant"
        return
    scale = index.value(node.input[1])
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        yield f"{node.name}: its scale must be positive and finite"
    yield from _faults_of_zero_point(index, node)
    if node.op_type == "QuantizeLinear":
        readers = index.readers[node.output[0]]
        if not readers or any(reader.op_type != "DequantizeLinear" for reader in readers):
            yield f"{node.name}: expected DequantizeLinear and nothing else to read it"
        if scale.size > 1 and node.input[0] not in index.constants:
            yield f"{node.name}: an activation with {scale.size} scales, expected one"
    else:
        allowed = LAYERS | SUMS
        for reader in index.readers[node.output[0]]:
            if reader.op_type not in allowed:
                yield f"{node.name}: read by {reader.name} ({reader.op_type}); pairs belong on inputs of layers only"
        if node.output[0] in index.output_names:
            yield f"{node.name}: is an output of the network, expected none after the last layer"


def _faults_of_zero_point(index: GraphIndex, node: onnx.NodeProto) -> Iterator[str]:
    if len(node.input) < 3 or not node.input[2]:
        yield f"{node.name}: has no zero-point, which makes it unsigned; expected int8 zeros"
        return
    if node.input[2] not in index.constants:
        yield f"{node.name}: its zero-point is computed, expected a constant"
        return
    zero_point = index.value(node.input[2])
    if zero_point.dtype != np.int8:
        yield f"{node.name}: quantises to {zero_point.dtype}, expected int8"
    if np.any(zero_point):
        yield f"{node.name}: zero-point {zero_point.ravel()[0]}, expected 0 (symmetric)"


def _faults_of_layer(index: GraphIndex, node: onnx.NodeProto) -> Iterator[str]:
    """Check one layer: both inputs quantised or none, the right axis, a float bias."""
    data, weight = (_dequantizer(index, name) for name in node.input[:2])
    if (data is None) != (weight is None):
        yield f"{node.name}: only its {'weight' if data is None else 'input'} is quantised, expected both or neither"
    if len(node.input) > 2 and node.input[2] and _dequantizer(index, node.input[2]) is not None:
        yield f"{node.name}: its bias is quantised, expected float"
    if weight is None or weight.input[1] not in index.constants:
        return
    scales, axis = index.value(weight.input[1]), weight_axis(node)
    if axis is None:
        if scales.size > 1:
            yield f"{node.name}: {scales.size} scales for the weights of a {node.op_type}, expected one"
    elif scales.ndim != 1:
        yield f"{node.name}: one scale for all channels of its weights, expected one for each"
    elif attribute(weight, "axis", 1) != axis:
        yield f"{node.name}: scales along axis {attribute(weight, 'axis', 1)} of its weights, expected axis {axis}"


def _dequantizer(index: GraphIndex, name: str) -> onnx.NodeProto | None:
    """The DequantizeLinear that produces a tensor."""
    producer = index.producer.get(name)
    return producer if producer is not None and producer.op_type == "DequantizeLinear" else None
