"""Check an ONNX graph against the operators, types and limits that TensorRT's ONNX parser supports.

From onnx-tensorrt's docs/operators.md as of its 10.1 release (commit 96e7811, opset 9 to 20): TensorRT 10.3, the
oldest that JetPack 6 has, takes all of it, and later versions only added to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from handeye.export.graph.graph_index import GraphIndex, attribute
from handeye.vision.errors import UserError

TABLE_VERSION = "TensorRT 10.1"
OLDEST_OPSET, NEWEST_OPSET = 9, 20
MOST_CHOSEN = 3839
"""The largest K that TopK takes."""

_REAL = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16})
_NUMBER = _REAL | {TensorProto.INT32, TensorProto.INT64}
_ANY = _NUMBER | {TensorProto.BOOL}
_OPERATORS: dict[frozenset[int], str] = {
    _REAL: """
        Acos Acosh Asin Asinh Atan Atanh AveragePool BatchNormalization Ceil Celu Clip Conv ConvTranspose Cos Cosh
        CumSum Dropout Einsum Elu Erf Exp Floor GRU Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool GroupNormalization
        HardSigmoid HardSwish Hardmax ImageScaler InstanceNormalization IsInf LRN LSTM LayerNormalization LeakyRelu Log
        LogSoftmax LpNormalization LpPool MatMul MaxPool MeanVarianceNormalization PRelu ParametricSoftplus Pow
        QuantizeLinear RNN RandomNormal RandomNormalLike RandomUniform RandomUniformLike Reciprocal Resize Round
        ScaledTanh Scan Selu Sigmoid Sin Sinh Softmax Softplus Softsign Sqrt Tan Tanh ThresholdedRelu Upsample""",
    _NUMBER: """
        Abs Add ArgMax ArgMin DepthToSpace Div Equal Greater GreaterOrEqual IsNaN Less LessOrEqual Max Min Mod Mul Neg
        Pad Range ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
        ReduceSumSquare Relu Scatter ScatterElements ScatterND Shrink Sign SpaceToDepth Sub Sum TopK""",
    _ANY: """
        Concat Constant ConstantOfShape Expand EyeLike Flatten Gather GatherElements GatherND Identity If Loop OneHot
        Reshape ReverseSequence Shape Size Slice Split Squeeze Tile Transpose Trilu Unsqueeze Where""",
    frozenset(
        {TensorProto.FLOAT, TensorProto.FLOAT16}
    ): "DeformConv GridSample Mish NonMaxSuppression NonZero RoiAlign",
    frozenset({TensorProto.BOOL}): "And Not Or Xor",
    _ANY | {TensorProto.UINT8}: "Cast CastLike",
    frozenset({TensorProto.INT8, TensorProto.FLOAT8E4M3FN, TensorProto.INT4}): "DequantizeLinear",
    _NUMBER | {TensorProto.INT8}: "Gelu",
    _NUMBER | {TensorProto.FLOAT8E4M3FN}: "Mean",
}
SUPPORTED: dict[str, frozenset[int]] = {
    operator: types for types, operators in _OPERATORS.items() for operator in operators.split()
}
"""Operator -> element types of its data, as numbers of onnx.TensorProto."""

_DATA_INPUT = {"Where": 1}
"""The input that determines an operator's type, where it is not the first."""
_TYPED_BY_OUTPUT = frozenset({"ConstantOfShape", "Range", "RandomNormal", "RandomUniform"})
_SPATIAL_POOLS = frozenset({"AveragePool", "MaxPool", "LpPool"})
_FIXED_INPUTS = {"CumSum": 1, "OneHot": 1, "Slice": 3, "Squeeze": 1, "Unsqueeze": 1, "Pad": 3}
"""Position of the input that must be a constant."""
_RESIZE_MODES = {
    "mode": (b"nearest", b"linear"),
    "coordinate_transformation_mode": (
        b"half_pixel",
        b"pytorch_half_pixel",
        b"tf_half_pixel_for_nn",
        b"asymmetric",
        b"align_corners",
    ),
    "keep_aspect_ratio_policy": (b"stretch",),
}

ADVICE = {
    "GridSample": "sample by gathering",
    "Resize": "resize by nearest or linear interpolation",
    "TopK": "choose fewer, or from a smaller input",
}
DEFAULT_ADVICE = "write that layer with operators of export/graph/operator_support.py, or leave it out of the network"


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A node that TensorRT's parser does not take."""

    layer: str
    operator: str
    reason: str

    def __str__(self) -> str:
        """Layer, operator, reason and advice."""
        advice = ADVICE.get(self.operator, DEFAULT_ADVICE)
        return f"layer {self.layer!r} ({self.operator}): {self.reason}; {advice}"


def require_supported(model: onnx.ModelProto, origin: str) -> None:
    """Raise UserError naming the first layers of `model` that TensorRT's parser does not take."""
    found = find_unsupported(model)
    if found:
        more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
        raise UserError(f"{origin}: cannot be exported: {'; '.join(map(str, found[:3]))}{more}")


def find_unsupported(model: onnx.ModelProto) -> list[Unsupported]:
    """The nodes of `model` that are not supported, those of subgraphs included."""
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        wanted = f"{TABLE_VERSION} takes opset {OLDEST_OPSET} to {NEWEST_OPSET}, this is opset {opset}"
        return [Unsupported("the whole graph", f"opset {opset}", wanted)]
    return list(_unsupported_in(onnx.shape_inference.infer_shapes(model).graph, {}))


def _unsupported_in(graph: onnx.GraphProto, outer_types: dict[str, int]) -> Iterator[Unsupported]:
    index, types = GraphIndex(graph), outer_types | _element_types(graph)
    for node in index.nodes:
        if reason := _reason(index, node, types):
            yield Unsupported(node.name or f"maker of {node.output[0]}", node.op_type, reason)
        for entry in node.attribute:
            for inner in (entry.g, *entry.graphs):
                yield from _unsupported_in(inner, types)


def _element_types(graph: onnx.GraphProto) -> dict[str, int]:
    values = (*graph.input, *graph.value_info, *graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


def _reason(index: GraphIndex, node: onnx.NodeProto, types: dict[str, int]) -> str:
    """Why TensorRT does not take the node; empty if it does. Unknown types pass."""
    if node.domain not in ("", "ai.onnx"):
        return f"is of the domain {node.domain}, not of ONNX"
    if node.op_type not in SUPPORTED:
        return f"{TABLE_VERSION}'s parser does not take this operator"
    read = [*node.output[:1]] if node.op_type in _TYPED_BY_OUTPUT else [*node.input]
    place = _DATA_INPUT.get(node.op_type, 0)
    held = types.get(read[place], 0) if place < len(read) else 0
    if held and held not in SUPPORTED[node.op_type]:
        return f"{TABLE_VERSION}'s parser does not take it for {helper.tensor_dtype_to_string(held)}"
    return next((text for text, is_broken in _LIMITS if is_broken(index, node)), "")


def _not_constant(index: GraphIndex, node: onnx.NodeProto) -> bool:
    place = 1 if node.op_type.startswith("Reduce") else _FIXED_INPUTS.get(node.op_type, len(node.input))
    return place < len(node.input) and bool(node.input[place]) and node.input[place] not in index.constants


def _is_dilated_pool(index: GraphIndex, node: onnx.NodeProto) -> bool:
    del index
    dilations = [list(entry.ints) for entry in node.attribute if entry.name == "dilations"]
    return node.op_type in _SPATIAL_POOLS and any(step != 1 for steps in dilations for step in steps)


def _wants_more_outputs(index: GraphIndex, node: onnx.NodeProto) -> bool:
    del index
    return node.op_type in {"MaxPool", "LayerNormalization"} and any(node.output[1:])


def _chooses_too_many(index: GraphIndex, node: onnx.NodeProto) -> bool:
    if node.op_type != "TopK":
        return False
    is_too_long = node.input[1] in index.constants and int(np.ravel(index.value(node.input[1]))[0]) > MOST_CHOSEN
    return is_too_long or attribute(node, "sorted", 1) != 1


def _resizes_otherwise(index: GraphIndex, node: onnx.NodeProto) -> bool:
    del index
    if node.op_type != "Resize":
        return False
    modes_of = {entry.name: entry.s for entry in node.attribute}
    is_other = any(modes_of[name] not in modes for name, modes in _RESIZE_MODES.items() if name in modes_of)
    return is_other or attribute(node, "antialias", 0) != 0


def _adds_where_it_scatters(index: GraphIndex, node: onnx.NodeProto) -> bool:
    del index
    how = [entry.s for entry in node.attribute if entry.name == "reduction"]
    return node.op_type == "ScatterND" and any(reduction != b"none" for reduction in how)


def _shifts_the_zero(index: GraphIndex, node: onnx.NodeProto) -> bool:
    if node.op_type not in {"QuantizeLinear", "DequantizeLinear"} or len(node.input) < 3:
        return False
    zero = node.input[2]
    return bool(zero) and (zero not in index.constants or bool(np.any(index.value(zero))))


_LIMITS: tuple[tuple[str, Callable[[GraphIndex, onnx.NodeProto], bool]], ...] = (
    ("its axes must be constants of the graph", _not_constant),
    ("a pool may not be dilated", _is_dilated_pool),
    ("only its first output is supported", _wants_more_outputs),
    (f"K must be {MOST_CHOSEN} or less, with sorted output", _chooses_too_many),
    ("this mode of resizing is not supported", _resizes_otherwise),
    ("values may be set, not added", _adds_where_it_scatters),
    ("the zero-point must be 0", _shifts_the_zero),
)
