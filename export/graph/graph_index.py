"""Index an ONNX graph: producer and readers of each tensor, constants; count parameters and GFLOPs.

The index does not follow later changes of the graph; make a new one after changing it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import onnx
from onnx import numpy_helper

LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators with weights."""


class GraphIndex:
    """Producers, readers and constants of one graph, whose nodes must be in topological order."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.nodes: list[onnx.NodeProto] = list(graph.node)
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        for node in self.nodes:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                self.constants[node.output[0]] = node.attribute[0].t
        self.producer = {name: node for node in self.nodes for name in node.output if name}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                self.readers[name].append(node)
        self.input_names = [value.name for value in graph.input if value.name not in self.constants]
        self.output_names = [value.name for value in graph.output]
        self._names = {name for node in self.nodes for name in (node.name, *node.input, *node.output)}
        self._names.update(self.constants, self.input_names)

    def value(self, name: str) -> np.ndarray:
        """The array of a constant; raises KeyError for a tensor that is computed."""
        return numpy_helper.to_array(self.constants[name])

    def layers(self) -> list[onnx.NodeProto]:
        """Nodes with constant weights, in topological order."""
        return [node for node in self.nodes if self.weight_name(node) is not None]

    def weight_name(self, node: onnx.NodeProto) -> str | None:
        """Name of a layer's weights; None for any other node, and for the product of two computed tensors."""
        if node.op_type in LAYERS and node.input[1] in self.constants and node.input[0] not in self.constants:
            return node.input[1]
        return None

    def met_from(
        self, node: onnx.NodeProto, stops: Callable[[onnx.NodeProto], bool]
    ) -> Iterator[tuple[onnx.NodeProto, str]]:
        """Every node downstream of `node`, up to and including those at which `stops` is true, with the tensor by which
        it was reached."""
        waiting, seen = [*node.output], set[str]()
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            for reader in self.readers[name]:
                yield reader, name
                if not stops(reader):
                    waiting.extend(reader.output)

    def unused_name(self, wish: str) -> str:
        """`wish`, or `wish` with a number appended; the name is reserved from then on."""
        name, number = wish, 1
        while name in self._names:
            name, number = f"{wish}_{number}", number + 1
        self._names.add(name)
        return name


def attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    """An integer attribute of a node, or the default of the standard."""
    return next((entry.i for entry in node.attribute if entry.name == name), default)


def topologically_sorted(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes in topological order, otherwise in their present order."""
    made = {name for node in graph.node for name in node.output}
    known, ordered, waiting = set[str](), list[onnx.NodeProto](), list(graph.node)
    while waiting:
        left = []
        for node in waiting:
            if all(name in known or name not in made for name in read_by(node)):
                known.update(node.output)
                ordered.append(node)
            else:
                left.append(node)
        assert len(left) < len(waiting), f"the graph has a cycle through {waiting[0].name}"
        waiting = left
    return ordered


def read_by(node: onnx.NodeProto) -> Iterator[str]:
    """The inputs of a node, including those of its subgraphs."""
    yield from (name for name in node.input if name)
    for entry in node.attribute:
        for graph in (entry.g, *entry.graphs):
            for inner in graph.node:
                yield from read_by(inner)


def replace_inputs(nodes: Iterable[onnx.NodeProto], old: str, new: str) -> None:
    """Replace the input `old` of `nodes` by `new`."""
    for node in nodes:
        for position, name in enumerate(node.input):
            if name == old:
                node.input[position] = new


def count_parameters(model: onnx.ModelProto) -> int:
    """Parameters in weights and biases of layers and norms; position tables and Q/DQ scales are not counted."""
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
    """GFLOPs of layers and matrix products for a batch of one; a multiply-add counts as two.

    Raises ValueError where a dimension is not fixed.
    """
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {value.name: _shape(value) for value in [*inferred.input, *inferred.output, *inferred.value_info]}
    index = GraphIndex(model.graph)
    shapes |= {name: tuple(tensor.dims) for name, tensor in index.constants.items()}
    return sum(_multiplications(node, shapes) for node in index.nodes) * 2 / 1e9


def _multiplications(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> int:
    """Multiply-adds of one node; 0 for a node without any."""
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
