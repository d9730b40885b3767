"""Convert an ONNX graph to float16 with explicit casts, as strongly typed networks (TensorRT 10 and 11) need it.

Operations that overflow or lose too much in half precision stay in float32 islands: normalisation, softmax,
exponentials, box decoding, sampling locations and top-k selection. Q/DQ pairs stay, with float16 outputs, so that one
file holds INT8 layers, float16 between them and float32 islands.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
import onnx.version_converter
from jaxtyping import Float32
from onnx import TensorProto, helper, numpy_helper

from handeye.export.graph.graph_index import GraphIndex, topologically_sorted
from handeye.vision.errors import UserError

LARGEST_HALF = 65504.0
SMALLEST_HALF = np.float16(6e-8)
OPSET_OF_HALF_PAIRS = 19
ISLANDS = frozenset(
    {
        *("Softmax", "LogSoftmax", "LayerNormalization", "InstanceNormalization", "GroupNormalization"),
        *("ReduceMean", "ReduceSum", "ReduceMax", "ReduceL2", "Pow", "Sqrt", "Exp", "Log", "Erf", "Reciprocal"),
        *("Floor", "Ceil", "Round", "GridSample", "TopK", "NonMaxSuppression", "Mod", "CumSum", "Range", "Clip"),
        *("ReduceMin", "ArgMax", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "Equal", "Resize"),
    }
)
"""Operators that always compute in float32 (Resize because its scales must be float32)."""
HEAVY = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators that gain by half precision; what follows the last of them is decoding and stays in float32."""


def to_half(model: onnx.ModelProto, keep_float: Collection[str] = ()) -> onnx.ModelProto:
    """A copy of `model` in float16 with float32 islands, and float32 inputs and outputs.

    keep_float: further nodes to keep in float32. Raises UserError when a weight does not fit into half precision.
    """
    half = onnx.ModelProto()
    half.CopyFrom(_with_half_pairs(model))
    types = tensor_types(half)
    index = GraphIndex(half.graph)
    islands = {id(node) for node in index.nodes if node.op_type in ISLANDS or node.name in keep_float}
    islands |= _decoding(index)
    writer = _CastWriter(index, types)
    for node in index.nodes:
        writer.convert(node, to_half=id(node) not in islands)
    writer.finish()
    return half


def tensor_types(model: onnx.ModelProto) -> dict[str, int]:
    """The element type of every tensor. Raises UserError where it cannot be inferred."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    values = [*inferred.input, *inferred.output, *inferred.value_info]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for node in model.graph.node:
        for name in node.output:
            if name and not types.get(name):
                raise UserError(
                    f"{node.name} ({node.op_type}): the type of its output cannot be inferred; simplify the file"
                )
    return types


def _with_half_pairs(model: onnx.ModelProto) -> onnx.ModelProto:
    """Raise the opset to one whose Q/DQ pairs take float16, if the model has any; TensorRT 10 reads up to opset 20."""
    has_pairs = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if not has_pairs or opset >= OPSET_OF_HALF_PAIRS:
        return model
    return onnx.version_converter.convert_version(model, OPSET_OF_HALF_PAIRS)


def _decoding(index: GraphIndex) -> set[int]:
    """Nodes with no heavy one downstream: decoding of boxes and scores, which costs next to nothing."""
    leads_to_heavy: set[str] = set()
    decoding = set()
    for node in reversed(index.nodes):
        if node.op_type in HEAVY or any(name in leads_to_heavy for name in node.output):
            leads_to_heavy.update(node.input)
        else:
            decoding.add(id(node))
    return decoding


class _CastWriter:
    """Converts nodes in order and keeps track of the precisions in which each float tensor is available."""

    def __init__(self, index: GraphIndex, types: Mapping[str, int]) -> None:
        self.index, self.types = index, types
        self.is_half: dict[str, bool] = {}
        self.copies: dict[tuple[str, bool], str] = {}
        self.ordered: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def convert(self, node: onnx.NodeProto, *, to_half: bool) -> None:
        """Cast the inputs of a node to its precision; note the precision of its outputs."""
        if node.op_type == "Cast" and self._casts_to_float(node):
            node.attribute[0].i = TensorProto.FLOAT16 if to_half else TensorProto.FLOAT
        if node.op_type == "ConstantOfShape":
            to_half = False
        for position, name in enumerate(node.input):
            if self.types.get(name) == TensorProto.FLOAT:
                node.input[position] = self._in_precision(name, to_half=to_half)
        self.ordered.append(node)
        for position, name in enumerate(node.output):
            if self.types.get(name) == TensorProto.FLOAT:
                self.is_half[name] = to_half
                if to_half and name in self.index.output_names:
                    self._cast_output(node, position)

    def finish(self) -> None:
        """Write nodes and constants to the graph, each constant in the precisions that are read."""
        graph = self.index.graph
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in self.ordered]
        used = {name for node in nodes for name in node.input}
        kept = [tensor for tensor in graph.initializer if tensor.name in used]
        kept = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.initializer.extend([*kept, *self.constants])
        graph.node.extend(nodes)
        ordered = [onnx.NodeProto.FromString(node.SerializeToString()) for node in topologically_sorted(graph)]
        del graph.node[:]
        graph.node.extend(ordered)

    def _casts_to_float(self, node: onnx.NodeProto) -> bool:
        return self.types.get(node.output[0]) == TensorProto.FLOAT

    def _in_precision(self, name: str, *, to_half: bool) -> str:
        """Name of a float tensor in the wanted precision; adds a cast or a converted constant if needed."""
        if self.is_half.get(name, False) == to_half:
            return name
        if (name, to_half) not in self.copies:
            copy = self.index.unused_name(f"{name}_{'half' if to_half else 'float'}")
            self.copies[name, to_half] = copy
            if name in self.index.constants:
                self.constants.append(numpy_helper.from_array(_as_half(self.index.value(name), name), copy))
            else:
                kind = TensorProto.FLOAT16 if to_half else TensorProto.FLOAT
                self.ordered.append(helper.make_node("Cast", [name], [copy], name=f"{copy}_cast", to=kind))
        return self.copies[name, to_half]

    def _cast_output(self, node: onnx.NodeProto, position: int) -> None:
        """Keep an output of the network float32 under its name."""
        name = node.output[position]
        inner = self.index.unused_name(f"{name}_in_half")
        node.output[position] = inner
        self.ordered.append(helper.make_node("Cast", [inner], [name], name=f"{name}_cast", to=TensorProto.FLOAT))
        self.is_half[name] = False


def _as_half(value: Float32[np.ndarray, "..."], name: str) -> np.ndarray:
    """A constant in float16; positive values do not round to zero, because scales must be positive."""
    if np.abs(value).max(initial=0.0) > LARGEST_HALF:
        raise UserError(f"{name}: holds {np.abs(value).max():.3g}, more than float16 can; keep its node in float32")
    half = value.astype(np.float16)
    return np.where((half == 0) & (value > 0), SMALLEST_HALF, half)
