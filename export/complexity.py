"""How large a network is and how much it computes, counted from its graph, whoever exported it."""

from __future__ import annotations

import math

import onnx

from export.graph.graph_index import GraphIndex, attribute

FLOAT_KINDS = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8}


def count_parameters(model: onnx.ModelProto) -> int:
    """Numbers in the weights and biases of layers and norms; tables of positions and scales of Q/DQ pairs are none."""
    index = GraphIndex(model.graph)
    names = {name for node in index.layers() for name in node.input[1:] if name in index.constants}
    names |= {
        name
        for node in index.nodes
        if node.op_type in {"LayerNormalization", "BatchNormalization"}
        for name in node.input[1:]
        if name in index.constants
    }
    return sum(math.prod(index.constants[name].dims) for name in names)


def count_gflops(model: onnx.ModelProto) -> float:
    """Floating point operations of layers and products, two to a multiplication with its sum, in 1e9.

    For a batch of one; raises ValueError where a size is not fixed.
    """
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {value.name: _shape(value) for value in [*inferred.input, *inferred.output, *inferred.value_info]}
    index = GraphIndex(model.graph)
    shapes |= {name: tuple(tensor.dims) for name, tensor in index.constants.items()}
    return sum(_multiplications(node, shapes) for node in index.nodes) * 2 / 1e9


def _multiplications(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> int:
    """Products of one node; 0 for a node that is no layer."""
    if node.op_type not in {"Conv", "ConvTranspose", "Gemm", "MatMul"}:
        return 0
    data, weight, out = (shapes.get(name, ()) for name in (node.input[0], node.input[1], node.output[0]))
    if not data or not weight or not out or 0 in (*data, *out):
        raise ValueError(f"{node.name}: its sizes are not fixed")
    match node.op_type:
        case "Conv":
            return math.prod(out) * math.prod(weight[1:])
        case "ConvTranspose":
            return math.prod(data) * math.prod(weight[1:])
        case "Gemm":
            return math.prod(out) * data[0 if attribute(node, "transA", 0) else 1]
        case _:
            return math.prod(out) * data[-1]


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(dimension.dim_value for dimension in value.type.tensor_type.shape.dim)
