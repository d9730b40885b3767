"""The table of operators: what is outside of it is found, named and refused, by operator, type and limit."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from handeye.export.graph.graph_index import GraphIndex
from handeye.export.graph.onnx_export import export_onnx
from handeye.export.graph.operator_support import SUPPORTED, find_unsupported, require_supported
from handeye.export.quantization.calibration import Range
from handeye.export.quantization.quantize import quantize_for_tensorrt, quantized_inputs
from handeye.export.quantization.quantize_x86 import quantize_for_openvino
from handeye.vision.detector import Detector
from handeye.vision.errors import UserError
from tests.export.graphs import chain, model_of

SHAPE = (1, 3, 8, 8)
FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16}


def one_node(
    operator: str, *more: str, constants: dict[str, np.ndarray] | None = None, **attributes
) -> onnx.ModelProto:
    outputs = attributes.pop("outputs", ["out"])
    node = helper.make_node(operator, ["images", *more], outputs, "the_layer", **attributes)
    return model_of([node], constants or {}, SHAPE)


def of_another_domain(model: onnx.ModelProto) -> onnx.ModelProto:
    model.graph.node[0].domain = "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def reasons(model: onnx.ModelProto) -> list[str]:
    return [str(found) for found in find_unsupported(model)]


def test_the_table_knows_what_the_parser_documents():
    assert len(SUPPORTED) == 150
    assert SUPPORTED["Conv"] == FLOATS
    assert SUPPORTED["Not"] == {TensorProto.BOOL}
    assert not {"Unique", "Compress", "QLinearConv", "Det", "BitShift"} & set(SUPPORTED)


def test_operators_of_the_table_pass():
    assert reasons(chain()) == []


def test_quantised_graphs_pass_in_tensorrts_form_only():
    model = chain()
    ranges = dict.fromkeys(quantized_inputs(GraphIndex(model.graph)), Range(-1.0, 3.0))
    assert reasons(quantize_for_tensorrt(model, ranges)) == []
    assert any(
        "uint8" in told.lower() or "zero-point" in told for told in reasons(quantize_for_openvino(model, ranges))
    )


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (one_node("Det"), "does not take this operator"),
        (of_another_domain(one_node("Relu")), "com.microsoft"),
        (one_node("MaxPool", kernel_shape=[2, 2], dilations=[2, 2]), "dilated"),
        (one_node("MaxPool", kernel_shape=[2, 2], outputs=["out", "places"]), "first output"),
        (one_node("Resize", "", "", "sizes", constants={"sizes": np.array([1, 3, 4, 4])}, mode="cubic"), "resizing"),
        (one_node("ReduceSum", "images"), "axes must be constants"),
    ],
)
def test_what_is_outside_is_told_with_its_layer(model: onnx.ModelProto, told: str):
    (found,) = reasons(model)
    assert "'the_layer'" in found
    assert told in found


def test_a_type_that_the_operator_does_not_take_is_told():
    cast = helper.make_node("Cast", ["images"], ["chosen"], "to_bool", to=TensorProto.BOOL)
    model = model_of([cast, helper.make_node("NonZero", ["chosen"], ["out"], "places")], {}, SHAPE)
    (found,) = find_unsupported(model)
    assert (found.layer, found.operator) == ("places", "NonZero")
    assert "BOOL" in found.reason


@pytest.mark.parametrize(("most", "count"), [(3839, 0), (3840, 1)])
def test_top_k_has_a_largest_k(most: int, count: int):
    constants = {"shape": np.array([-1]), "k": np.array([most])}
    flat = helper.make_node("Reshape", ["images", "shape"], ["flat"], "flat")
    best = helper.make_node("TopK", ["flat", "k"], ["best", "out"], "best")
    assert len(find_unsupported(model_of([flat, best], constants, (1, 3, 64, 64)))) == count


def test_graphs_inside_of_nodes_are_looked_into():
    def branch(operator: str) -> onnx.GraphProto:
        out = [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)]
        return helper.make_graph([helper.make_node(operator, ["images"], ["inner"], operator)], operator, [], out)

    choice = helper.make_node("If", ["which"], ["out"], "choice", then_branch=branch("Relu"), else_branch=branch("Det"))
    (found,) = find_unsupported(model_of([choice], {"which": np.array(True)}, SHAPE))
    assert found.layer == "Det"


def test_a_newer_opset_is_told():
    (found,) = find_unsupported(model_of([helper.make_node("Relu", ["images"], ["out"])], {}, SHAPE, opset=21))
    assert "opset 21" in found.reason


def test_many_faults_are_counted():
    nodes = [helper.make_node("Det", ["images"], [f"out{number}"], f"layer{number}") for number in range(5)]
    with pytest.raises(UserError, match=r"m.onnx: cannot be exported: layer 'layer0'.*; and 2 more$"):
        require_supported(model_of(nodes, {}, SHAPE), "m.onnx")


def test_a_detector_with_such_a_layer_is_not_exported(detector: Detector, tmp_path, monkeypatch: pytest.MonkeyPatch):
    usual = type(detector.neck).forward

    def odd(self, features):
        pyramid = usual(self, features)
        return [pyramid[0] * pyramid[0][0, 0, :4, :4].det(), *pyramid[1:]]

    monkeypatch.setattr(type(detector.neck), "forward", odd)
    path = tmp_path / "odd.onnx"
    with pytest.raises(UserError, match=r"layer '/detector/.*Det' \(Det\)"):
        export_onnx(detector, path)
    assert not path.exists()
