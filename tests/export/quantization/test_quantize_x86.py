"""The forms for x86: engines run them on eight bits, they come close to float, and zero stays zero."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handeye.export.graph.graph_index import GraphIndex
from handeye.export.quantization.calibration import MinMaxRule, Range, choose_range, collect_histograms
from handeye.export.quantization.quantize import pinned_layers, quantized_inputs
from handeye.export.quantization.quantize_x86 import (
    SILU_FLOOR,
    affine_parameters,
    quantize_for_onnxruntime,
    quantize_for_openvino,
    region_tensors,
)
from handeye.vision.runtime.openvino_session import shared_core
from tests.export.graphs import chain, constant, maker_of, model_of, node_named, noise
from tests.export.quantization.test_quantize import run


def ranges_of(model: onnx.ModelProto, names: list[str], images: list[np.ndarray]) -> dict[str, Range]:
    found = collect_histograms(model, names, images)
    return {name: choose_range(seen, MinMaxRule()) for name, seen in found.items()}


@given(st.floats(-100, 0), st.floats(0, 100))
def test_zero_is_a_step_and_the_ends_are_within_half_a_step(low: float, high: float):
    scale, zero_point = affine_parameters(Range(low, high))
    ends = np.clip(np.rint(np.array([low, 0, high]) / scale) + zero_point, 0, 255)
    told = (ends - zero_point) * np.float64(scale)
    assert told[1] == 0
    np.testing.assert_allclose(told, [low, 0, high], atol=float(scale) * 0.51 + 1e-6)


def executed_kinds(model: onnx.ModelProto, image: np.ndarray, folder: Path) -> list[str]:
    """What ONNX Runtime's profile says that it ran."""
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    session.run(None, {session.get_inputs()[0].name: image})
    events = json.loads(Path(session.end_profiling()).read_text())
    return [event["args"]["op_name"] for event in events if event["name"].endswith("kernel_time")]


def test_onnx_runtime_runs_the_region_on_eight_bits(float_model, tmp_path):
    model, manifest = float_model
    index = GraphIndex(model.graph)
    pinned = pinned_layers(index)
    images = [image * 255 for image in noise((1, 3, *manifest.preprocessing.size_hw), 2)]
    ranges = ranges_of(model, region_tensors(index), images)
    quantized = quantize_for_onnxruntime(model, ranges, pinned)
    onnx.checker.check_model(quantized, full_check=True)
    kinds = executed_kinds(quantized, images[0], tmp_path)
    assert kinds.count("QLinearConv") == len(index.layers()) - len(pinned)
    assert kinds.count("Conv") == len(pinned)
    assert "QLinearSigmoid" in kinds
    assert "QLinearMul" in kinds
    difference = np.abs(run(quantized, images[0]) - run(model, images[0]))[..., 4:]
    assert 0 < difference.mean() < 0.03
    assert len(quantized.SerializeToString()) < 0.45 * len(model.SerializeToString())


def test_openvino_reads_pairs_on_inputs_of_layers_only(tmp_path):
    model, images = chain(), noise((1, 3, 8, 8))
    names = list(quantized_inputs(GraphIndex(model.graph)))
    quantized = quantize_for_openvino(model, ranges_of(model, names, images), ["up"])
    onnx.checker.check_model(quantized, full_check=True)
    assert list(node_named(quantized, "sum").input) == ["stem", "branched"]
    assert list(node_named(quantized, "up").input) == ["sum", "w_up"]
    assert constant(quantized, "stem_zero_point").dtype == np.uint8
    assert constant(quantized, maker_of(quantized, node_named(quantized, "branch").input[1]).input[0]).dtype == np.int8
    onnx.save(quantized, tmp_path / "q.onnx")
    compiled = shared_core().compile_model(tmp_path / "q.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for image in images:
        expected, told = run(model, image), run(quantized, image)
        assert 0 < np.abs(told - expected).mean() < 0.02 * expected.std()
        assert np.abs(compiled({"images": image})[0] - told).mean() < 0.01 * expected.std()


def test_numbers_below_the_floor_of_silu_earn_no_steps():
    nodes = [
        onnx.helper.make_node("Conv", ["images", "w"], ["a"], "conv"),
        onnx.helper.make_node("Sigmoid", ["a"], ["s"], "sigmoid"),
        onnx.helper.make_node("Mul", ["a", "s"], ["silu"], "silu"),
        onnx.helper.make_node("Conv", ["silu", "w"], ["rows"], "last"),
    ]
    model = model_of(nodes, {"w": np.ones((3, 3, 1, 1), np.float32)}, (1, 3, 4, 4))
    ranges = {"images": Range(-1.0, 1.0), "a": Range(-200.0, 7.0), "s": Range(0.0, 1.0), "silu": Range(-0.3, 7.0)}
    quantized = quantize_for_onnxruntime(model, ranges)
    assert constant(quantized, "a_scale") == pytest.approx((7 - SILU_FLOOR) / 255)
    image = np.full((1, 3, 4, 4), -1.0, np.float32)
    assert run(quantized, image) == pytest.approx(run(model, image), abs=0.15)


def test_what_only_moves_numbers_shares_one_range():
    nodes = [
        onnx.helper.make_node("Conv", ["images", "w"], ["a"], "conv"),
        onnx.helper.make_node("MaxPool", ["a"], ["b"], "pool", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        onnx.helper.make_node("Conv", ["b", "w"], ["rows"], "last"),
    ]
    model = model_of(nodes, {"w": np.ones((3, 3, 1, 1), np.float32)}, (1, 3, 4, 4))
    ranges = {"images": Range(-1.0, 1.0), "a": Range(-5.0, 2.0), "b": Range(-1.0, 3.0)}
    quantized = quantize_for_onnxruntime(model, ranges)
    assert constant(quantized, "a_scale") == constant(quantized, "b_scale") == pytest.approx(8 / 255)
    assert constant(quantized, "a_zero_point") == constant(quantized, "b_zero_point")
