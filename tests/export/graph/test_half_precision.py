"""Float16 with float32 islands: types fit, what overflows or decides stays float32, results come close."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from handeye.export.graph.graph_index import GraphIndex
from handeye.export.graph.half_precision import ISLANDS, tensor_types, to_half
from handeye.export.quantization.quantize import pinned_layers, quantize_for_tensorrt
from handeye.vision.errors import UserError
from tests.export.graphs import model_of, noise
from tests.export.quantization.test_quantize import ranges_of, run

HALF, FULL = TensorProto.FLOAT16, TensorProto.FLOAT


def types_read(model: onnx.ModelProto, kind: str) -> set[int]:
    """The element types of the data inputs of all nodes of one kind."""
    types = tensor_types(model)
    return {types[node.input[0]] for node in model.graph.node if node.op_type == kind}


def test_a_detector_computes_layers_in_half_and_decodes_in_float32(float_model):
    model, manifest = float_model
    half = to_half(model)
    onnx.checker.check_model(half, full_check=True)
    assert types_read(half, "Conv") == {HALF}
    assert types_read(half, "Exp") == types_read(half, "Resize") == {FULL}
    assert [value.type.tensor_type.elem_type for value in (*half.graph.input, *half.graph.output)] == [FULL, FULL]
    assert len(half.SerializeToString()) < 0.6 * len(model.SerializeToString())
    image = noise((1, 3, *manifest.preprocessing.size_hw))[0] * 50
    expected, got = run(model, image), run(half, image)
    assert 0 < np.abs(got - expected)[..., 4:].max() < 0.01
    assert np.abs(got - expected)[..., :4].max() < 0.5


def test_every_island_stands_in_float32():
    nodes = [
        helper.make_node("MatMul", ["images", "w"], ["a"], "first"),
        helper.make_node("Softmax", ["a"], ["b"], "softmax", axis=-1),
        helper.make_node("LayerNormalization", ["b", "scale"], ["c"], "norm"),
        helper.make_node("MatMul", ["c", "w"], ["rows"], "last"),
    ]
    model = model_of(nodes, {"w": np.eye(4, dtype=np.float32), "scale": np.ones(4, np.float32)}, (2, 4))
    half = to_half(model)
    onnx.checker.check_model(half, full_check=True)
    assert {"Softmax", "LayerNormalization"} <= ISLANDS
    assert types_read(half, "Softmax") == types_read(half, "LayerNormalization") == {FULL}
    assert types_read(half, "MatMul") == {HALF}
    np.testing.assert_allclose(run(half, noise((2, 4))[0]), run(model, noise((2, 4))[0]), atol=5e-3)
    kept = to_half(model, keep_float=["first"])
    assert types_read(kept, "MatMul") == {HALF, FULL}


def test_a_weight_that_half_precision_cannot_hold_is_refused_by_name():
    model = model_of(
        [helper.make_node("MatMul", ["images", "huge"], ["rows"], "out")], {"huge": np.full((3, 3), 1e5, "f4")}, (1, 3)
    )
    with pytest.raises(UserError, match=r"huge: holds 1e\+05, more than float16 can; keep its node in float32"):
        to_half(model)
    assert run(to_half(model, keep_float=["out"]), np.ones((1, 3), np.float32)) == pytest.approx(3e5)


def test_pairs_and_half_precision_stand_in_one_file(float_model):
    model, manifest = float_model
    pinned = pinned_layers(GraphIndex(model.graph))
    images = [image * 50 for image in noise((1, 3, *manifest.preprocessing.size_hw), 2)]
    quantized = quantize_for_tensorrt(model, ranges_of(model, images), pinned)
    half = to_half(quantized)
    onnx.checker.check_model(half, full_check=True)
    assert types_read(half, "Conv") == {HALF}
    assert {node.op_type for node in half.graph.node} >= {"QuantizeLinear", "DequantizeLinear", "Cast"}
    assert np.abs(run(half, images[0]) - run(quantized, images[0]))[..., 4:].mean() < 0.01


def test_the_graph_given_stays_as_it_is(float_model):
    model, _ = float_model
    before = model.SerializeToString()
    to_half(model)
    assert model.SerializeToString() == before
