"""The linter finds nothing in what we write, and each planted fault."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper

from handeye.export.quantization.calibration import Range
from handeye.export.quantization.qdq_linter import lint_for_tensorrt
from handeye.export.quantization.quantize import quantize_for_tensorrt
from tests.export.graphs import chain, constant, maker_of, node_named, replace_constant

RANGES = {name: Range(-1.0, 1.0) for name in ("images", "stem", "sum", "up")}


@pytest.fixture
def model() -> onnx.ModelProto:
    return quantize_for_tensorrt(chain(), RANGES)


def test_what_we_write_is_in_order(model):
    assert lint_for_tensorrt(model) == []
    assert lint_for_tensorrt(chain()) == []


def compute_constant(model: onnx.ModelProto, name: str) -> None:
    """Let a node make what was a constant."""
    replace = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    replace.name = f"{name}_source"
    model.graph.node.insert(0, helper.make_node("Relu", [replace.name], [name], "relu_of_constant"))


def unsigned(model: onnx.ModelProto) -> None:
    replace_constant(model, "stem_zero_point", np.uint8(0).reshape(()))


def shifted(model: onnx.ModelProto) -> None:
    replace_constant(model, "stem_zero_point", np.int8(3).reshape(()))


def without_zero_point(model: onnx.ModelProto) -> None:
    del maker_of(model, "stem_quantized").input[2]


def negative_scale(model: onnx.ModelProto) -> None:
    replace_constant(model, "stem_scale", np.float32(-0.1).reshape(()))


def endless_scale(model: onnx.ModelProto) -> None:
    replace_constant(model, "w_branch_scale", np.full(4, np.inf, np.float32))


def quantised_for_nobody(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Cast", ["stem_quantized"], ["cast"], "cast", to=1))


def scales_for_an_activation(model: onnx.ModelProto) -> None:
    replace_constant(model, "stem_scale", np.full(4, 0.1, np.float32))


def pair_before_an_activation(model: onnx.ModelProto) -> None:
    node_named(model, "relu").input[0] = "stem_dequantized"


def pair_after_the_last_layer(model: onnx.ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("up_dequantized", 1, None))


def only_the_weight(model: onnx.ModelProto) -> None:
    node_named(model, "branch").input[0] = "stem"


def only_the_input(model: onnx.ModelProto) -> None:
    node_named(model, "branch").input[1] = "w_up"


def quantised_bias(model: onnx.ModelProto) -> None:
    node_named(model, "branch").input[2] = "w_branch_dequantized"


def one_scale_for_all_channels(model: onnx.ModelProto) -> None:
    replace_constant(model, "w_branch_scale", np.float32(0.1).reshape(()))


def wrong_axis(model: onnx.ModelProto) -> None:
    maker_of(model, "w_up_dequantized").attribute[0].i = 0


def scales_for_a_product(model: onnx.ModelProto) -> None:
    replace_constant(model, "w_out_scale", np.full(6, 0.1, np.float32))


def old_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 12


@pytest.mark.parametrize(
    ("plant", "message"),
    [
        (unsigned, "quantises to uint8"),
        (shifted, "zero-point 3, expected 0"),
        (without_zero_point, "has no zero-point"),
        (lambda model: compute_constant(model, "stem_scale"), "its scale is computed"),
        (lambda model: compute_constant(model, "stem_zero_point"), "its zero-point is computed"),
        (negative_scale, "must be positive"),
        (endless_scale, "must be positive and finite"),
        (quantised_for_nobody, "nothing else to read it"),
        (scales_for_an_activation, "an activation with 4 scales"),
        (pair_before_an_activation, "read by relu (Relu)"),
        (pair_after_the_last_layer, "none after the last layer"),
        (only_the_weight, "branch: only its weight is quantised"),
        (only_the_input, "branch: only its input is quantised"),
        (quantised_bias, "branch: its bias is quantised"),
        (one_scale_for_all_channels, "branch: one scale for all channels"),
        (wrong_axis, "up: scales along axis 0 of its weights, expected axis 1"),
        (scales_for_a_product, "out: 6 scales for the weights of a MatMul"),
        (old_opset, "opset 12"),
    ],
)
def test_a_planted_fault_is_found(model, plant: Callable[[onnx.ModelProto], None], message: str):
    plant(model)
    faults = lint_for_tensorrt(model)
    assert any(message in fault for fault in faults), faults


def test_a_layer_that_was_to_stay_in_float_is_found(model):
    assert lint_for_tensorrt(model, ["branch"]) == ["branch: must stay in float but reads a quantised tensor"]
    assert constant(model, "w_branch_scale").shape == (4,)


def test_what_the_default_tool_writes_is_refused(tmp_path):
    """ONNX Runtime's own defaults: zero-points, biases in 32 bits, pairs on outputs, one scale for all channels."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):
        waiting = [{"images": np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)}]

        def get_next(self):
            return self.waiting.pop() if self.waiting else None

    onnx.save(chain(), tmp_path / "float.onnx")
    quantize_static(tmp_path / "float.onnx", tmp_path / "q.onnx", Reader(), quant_format=QuantFormat.QDQ)
    faults = "\n".join(lint_for_tensorrt(onnx.load(tmp_path / "q.onnx")))
    for message in (
        "expected 0 (symmetric)",
        "quantises to int32",
        "its bias is quantised",
        "one scale for all channels",
    ):
        assert message in faults
