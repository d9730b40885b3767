"""Equalised channels: the same function, channels nearer to one another, less lost to eight bits."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from handeye.export.graph.graph_index import GraphIndex
from handeye.export.quantization.equalization import MOST_AMPLIFIED, channel_bounds, equalize
from handeye.export.quantization.quantize import quantize_for_tensorrt, quantized_inputs
from tests.export.graphs import model_of, node_named, noise
from tests.export.quantization.test_quantize import ranges_of, run

LOUDNESS = np.array([100, 1, 0.5, 30], np.float32)


@pytest.fixture
def loud() -> onnx.ModelProto:
    """A tensor of unequal channels, read by a depthwise and two dense convolutions, one of which stays in float."""
    rng = np.random.default_rng(0)
    weights = {
        "w_stem": rng.normal(size=(4, 3, 1, 1)) * LOUDNESS.reshape(4, 1, 1, 1),
        "w_deep": rng.normal(size=(4, 1, 3, 3)) / LOUDNESS.reshape(4, 1, 1, 1),
        "w_wide": rng.normal(size=(4, 4, 1, 1)) / LOUDNESS.reshape(1, 4, 1, 1),
        "w_float": rng.normal(size=(4, 4, 1, 1)) / LOUDNESS.reshape(1, 4, 1, 1),
    }
    nodes = [
        helper.make_node("Conv", ["images", "w_stem"], ["stem"], "stem"),
        helper.make_node("Conv", ["stem", "w_deep"], ["deep"], "deep", group=4, pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["stem", "w_wide"], ["wide"], "wide"),
        helper.make_node("Conv", ["stem", "w_float"], ["floating"], "floating"),
        helper.make_node("Concat", ["deep", "wide", "floating"], ["rows"], "join", axis=1),
    ]
    return model_of(nodes, {name: value.astype(np.float32) for name, value in weights.items()}, (1, 3, 8, 8))


KEEP = ("stem", "floating")


def equalized(model: onnx.ModelProto, images: list[np.ndarray]) -> onnx.ModelProto:
    tensors = list(quantized_inputs(GraphIndex(model.graph), KEEP))
    return equalize(model, channel_bounds(model, tensors, images), KEEP)


def test_bounds_are_the_largest_distance_of_each_channel(loud):
    images = noise((1, 3, 8, 8))
    found = channel_bounds(loud, ["images"], images)["images"]
    np.testing.assert_array_equal(found, np.abs(np.concatenate(images)).max(axis=(0, 2, 3)))


def test_the_function_stays(loud):
    images = noise((1, 3, 8, 8))
    changed = equalized(loud, images)
    onnx.checker.check_model(changed, full_check=True)
    for image in images:
        np.testing.assert_allclose(run(changed, image), run(loud, image), rtol=1e-4, atol=1e-4)


def test_channels_come_nearer_to_one_another(loud):
    images = noise((1, 3, 8, 8))
    changed = equalized(loud, images)
    deep, wide = node_named(changed, "deep").input[0], node_named(changed, "wide").input[0]
    bounds = channel_bounds(changed, ["stem", deep, wide], images)

    def spread(name: str) -> float:
        return float(bounds[name].max() / bounds[name].min())

    assert spread("stem") > 30
    assert spread(deep) == pytest.approx(max(spread("stem") / MOST_AMPLIFIED, 1), rel=1e-4)
    assert spread(wide) < spread("stem") / 3
    assert list(node_named(changed, "floating").input) == ["stem", "w_float"]


def test_eight_bits_lose_less(loud):
    images = noise((1, 3, 8, 8))

    def error(model: onnx.ModelProto) -> float:
        quantized = quantize_for_tensorrt(model, ranges_of(model, images), KEEP)
        return float(np.abs(run(quantized, images[0]) - run(loud, images[0]))[:, :8].mean())

    assert error(equalized(loud, images)) < 0.35 * error(loud)


def test_even_channels_are_left_alone(loud):
    bounds = {"stem": np.array([1, 1.2, 0.9, 1.1], np.float32)}
    assert equalize(loud, bounds, KEEP).graph.node == loud.graph.node
