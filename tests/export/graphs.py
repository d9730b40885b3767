"""Small graphs for the tests of quantisation, and the search for nodes in them."""

from __future__ import annotations

import numpy as np
import onnx
from jaxtyping import Float32
from onnx import TensorProto, helper, numpy_helper


def chain() -> onnx.ModelProto:
    """stem -> branch -> sum with the stem -> product by weights: each kind of layer that has rules of its own."""
    rng = np.random.default_rng(1)
    weights = {
        "w_stem": rng.normal(size=(4, 3, 3, 3)),
        "w_branch": rng.normal(size=(4, 4, 3, 3)) * np.array([1, 10, 0.1, 3]).reshape(4, 1, 1, 1),
        "b_branch": rng.normal(size=4),
        "w_up": rng.normal(size=(4, 5, 2, 2)),
        "w_out": rng.normal(size=(16, 6)),
    }
    nodes = [
        helper.make_node("Conv", ["images", "w_stem"], ["stem"], "stem", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["stem", "w_branch", "b_branch"], ["bent"], "branch", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["bent"], ["branched"], "relu"),
        helper.make_node("Add", ["stem", "branched"], ["sum"], "sum"),
        helper.make_node("ConvTranspose", ["sum", "w_up"], ["up"], "up", strides=[2, 2]),
        helper.make_node("MatMul", ["up", "w_out"], ["rows"], "out"),
    ]
    return model_of(nodes, {name: value.astype(np.float32) for name, value in weights.items()}, (1, 3, 8, 8))


def model_of(
    nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], shape: tuple[int, ...], opset: int = 17
) -> onnx.ModelProto:
    """A model from `images` of a shape to what the last node makes."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 9
    inferred = onnx.shape_inference.infer_shapes(model)
    del inferred.graph.value_info[:]
    return inferred


def node_named(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.name == name)


def maker_of(model: onnx.ModelProto, tensor: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if tensor in node.output)


def constant(model: onnx.ModelProto, name: str) -> np.ndarray:
    return numpy_helper.to_array(next(tensor for tensor in model.graph.initializer if tensor.name == name))


def replace_constant(model: onnx.ModelProto, name: str, value: np.ndarray) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(value, name))


def noise(shape: tuple[int, ...], count: int = 4) -> list[Float32[np.ndarray, "..."]]:
    return [np.random.default_rng(seed).normal(size=shape).astype(np.float32) for seed in range(count)]
