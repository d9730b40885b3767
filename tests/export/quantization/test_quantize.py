"""Q/DQ pairs in TensorRT's form: where they stand, what they round, and that two engines compute what they say."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from handeye.export.graph.graph_index import GraphIndex
from handeye.export.graph.onnx_export import write_onnx
from handeye.export.quantization.calibration import MinMaxRule, Range, choose_range, collect_histograms
from handeye.export.quantization.qdq_linter import lint_for_tensorrt
from handeye.export.quantization.quantize import (
    LARGEST,
    pinned_layers,
    quantize_for_tensorrt,
    quantized_inputs,
    quantized_weight,
    weight_axis,
    weight_scales,
)
from handeye.vision.runtime.manifest import read_manifest
from handeye.vision.runtime.openvino_session import shared_core
from tests.export.graphs import chain, constant, maker_of, model_of, node_named, noise


def ranges_of(model: onnx.ModelProto, images: list[np.ndarray]) -> dict[str, Range]:
    names = list(quantized_inputs(GraphIndex(model.graph)))
    return {name: choose_range(seen, MinMaxRule()) for name, seen in collect_histograms(model, names, images).items()}


def quantized_chain(keep_float: tuple[str, ...] = ()) -> onnx.ModelProto:
    return quantize_for_tensorrt(chain(), ranges_of(chain(), noise((1, 3, 8, 8))), keep_float)


def run(model: onnx.ModelProto, image: np.ndarray, *, optimised: bool = False) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"images": image})[0])


@given(hnp.arrays(np.float32, (3, 5), elements=st.floats(-1e4, 1e4, width=32)))
def test_weights_come_back_within_half_a_step_of_their_channel(weight: np.ndarray):
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"])
    scales = weight_scales(node, weight)
    steps = quantized_weight(weight, scales, weight_axis(node))
    assert scales.shape == (3,)
    assert np.abs(steps).max() <= LARGEST
    assert (np.abs(steps * scales[:, None] - weight) <= scales[:, None] * 0.5001).all()


def test_the_largest_weight_of_each_channel_is_the_largest_step():
    weight = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32) * 10
    for kind, axis in (("Conv", 0), ("ConvTranspose", 1)):
        node = onnx.helper.make_node(kind, ["x", "w"], ["y"])
        steps = quantized_weight(weight, weight_scales(node, weight), axis)
        others = tuple(other for other in range(4) if other != axis)
        assert (np.abs(steps).max(axis=others) == LARGEST).all()
    product = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    assert weight_scales(product, weight).shape == ()


def test_pairs_stand_on_the_inputs_of_layers_and_on_the_skip_of_a_sum():
    model = quantized_chain()
    assert lint_for_tensorrt(model) == []
    for name in ("stem", "branch", "up", "out"):
        data, weight = node_named(model, name).input[:2]
        assert maker_of(model, data).op_type == maker_of(model, weight).op_type == "DequantizeLinear"
    skip, branch = node_named(model, "sum").input
    assert maker_of(model, skip).op_type == "DequantizeLinear"
    assert maker_of(model, branch).op_type == "Relu", "so that convolution, sum and the next pair are one kernel"
    assert node_named(model, "branch").input[2] == "b_branch"
    assert skip == node_named(model, "branch").input[0], "both read the tensor through one pair"
    assert maker_of(model, "rows").name == "out", "nothing after the last layer"


def test_a_layer_kept_in_float_reads_what_it_read_before():
    model = quantized_chain(keep_float=("branch", "out"))
    assert lint_for_tensorrt(model, ("branch", "out")) == []
    assert list(node_named(model, "branch").input) == list(node_named(chain(), "branch").input)
    assert list(node_named(model, "sum").input) == ["stem", "branched"], "its branch is no quantised layer"
    nothing = quantize_for_tensorrt(chain(), {}, [node.name for node in chain().graph.node])
    assert nothing.graph.node == chain().graph.node


def test_a_missing_range_is_an_error():
    with pytest.raises(KeyError, match="images"):
        quantize_for_tensorrt(chain(), {})


def test_the_graph_computes_what_integers_compute():
    """One layer by hand: clip(round(x / s)) times the weights' steps, summed in integers."""
    weight = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    model = model_of([onnx.helper.make_node("MatMul", ["images", "w"], ["rows"], "out")], {"w": weight}, (1, 3))
    quantized = quantize_for_tensorrt(model, {"images": Range(-1.0, 0.5)})
    image = np.array([[0.3, -2.0, 0.9]], np.float32)
    steps = np.clip(np.rint(image * 127), -128, 127)
    scale = np.abs(weight).max() / 127
    expected = steps @ np.rint(weight / scale) * scale / 127
    np.testing.assert_allclose(run(quantized, image), expected, rtol=1e-5)
    assert constant(quantized, "images_scale") == pytest.approx(1 / 127)


def test_two_engines_agree_with_the_pairs_and_come_close_to_float(tmp_path):
    model, quantized = chain(), quantized_chain()
    onnx.checker.check_model(quantized, full_check=True)
    onnx.save(quantized, tmp_path / "q.onnx")
    compiled = shared_core().compile_model(tmp_path / "q.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for image in noise((1, 3, 8, 8)):
        expected, told = run(model, image), run(quantized, image)
        assert 0 < np.abs(told - expected).mean() < 0.03 * expected.std()
        assert np.abs(run(quantized, image, optimised=True) - told).mean() < 0.01 * expected.std()
        assert np.abs(compiled({"images": image})[0] - told).mean() < 0.01 * expected.std()


def test_the_first_and_last_layers_and_attention_are_pinned():
    nodes = [
        onnx.helper.make_node("Conv", ["images", "w"], ["a"], "first"),
        onnx.helper.make_node("Conv", ["a", "w"], ["b"], "middle"),
        onnx.helper.make_node("Conv", ["b", "w"], ["query"], "query"),
        onnx.helper.make_node("Conv", ["b", "w"], ["key"], "key"),
        onnx.helper.make_node("MatMul", ["query", "key"], ["scores"], "scores"),
        onnx.helper.make_node("Softmax", ["scores"], ["weights"], "softmax"),
        onnx.helper.make_node("Conv", ["weights", "w"], ["c"], "after"),
        onnx.helper.make_node("Sigmoid", ["c"], ["d"], "sigmoid"),
        onnx.helper.make_node("Conv", ["d", "w"], ["e"], "last"),
    ]
    model = model_of(nodes, {"w": np.zeros((3, 3, 1, 1), np.float32)}, (1, 3, 4, 4))
    expected = {"first": "stem", "query": "attention", "key": "attention", "last": "prediction"}
    assert pinned_layers(GraphIndex(model.graph)) == expected


def test_a_detector_keeps_its_manifest_and_its_predictions(float_model, tmp_path):
    model, manifest = float_model
    index = GraphIndex(model.graph)
    pinned = pinned_layers(index)
    reasons = list(pinned.values())
    assert (reasons.count("stem"), reasons.count("prediction"), reasons.count("attention")) == (1, 9, 0)
    images = [image * 255 for image in noise((1, 3, *manifest.preprocessing.size_hw), 2)]
    quantized = quantize_for_tensorrt(model, ranges_of(model, images), pinned)
    assert lint_for_tensorrt(quantized, pinned) == []
    written = write_onnx(tmp_path / "int8.onnx", quantized, manifest)
    assert read_manifest(tmp_path / "int8.onnx") == written
    assert written.class_names == manifest.class_names
    assert np.abs(run(quantized, images[0]) - run(model, images[0]))[..., 4:].mean() < 0.02
