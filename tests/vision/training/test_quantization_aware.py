"""Rounding is the nearest of 255 values with slopes of one, kernels round alike before and after folding, and what is
shipped is an ordinary checkpoint with ranges."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from handeye.export.graph.folding import fold_for_inference
from handeye.export.graph.graph_index import GraphIndex
from handeye.export.graph.onnx_export import DecodedRows, simplify, trace_onnx
from handeye.export.quantization.int8_recipe import int8_from_learned, module_name
from handeye.export.quantization.quantize import pinned_layers
from handeye.export.quantization.sensitivity import outputs_of
from handeye.vision.checkpoints.native import load_activation_ranges, load_detector, save_detector
from handeye.vision.detector import Detector, DetectorConfig
from handeye.vision.errors import ConfigError
from handeye.vision.training.network import save_weights
from handeye.vision.training.quantization_aware import (
    QuantizationAwareConfig,
    QuantizedConv2d,
    activation_ranges,
    first_and_last,
    quantize,
    round_symmetric,
    without_quantization,
)
from tests.vision.training.conftest import NANO, losses_of, train_to_step


def detector() -> Detector:
    torch.manual_seed(2)
    return Detector(DetectorConfig.model_validate({**NANO, "class_names": ("red", "green")})).eval()


@given(st.integers(0, 2**31), st.floats(1e-3, 1e3))
def test_rounding_is_to_the_nearest_of_255_values(seed, amax):
    values = 1.5 * amax * torch.randn(50, generator=torch.Generator().manual_seed(seed))
    rounded = round_symmetric(values, torch.tensor(amax))
    expected = torch.fake_quantize_per_tensor_affine(values, amax / 127, 0, -127, 127)
    # Halfway between two values either is the nearest. torch multiplies by the inverse of the step, ours divides by
    # it: the two quotients, of at most 200 steps, are apart by 3 units in the last place, below 1e-4 of a step.
    steps = values.double() / amax * 127
    is_halfway = (steps - steps.floor() - 0.5).abs() < 1e-4
    assert is_halfway.sum() < 5
    torch.testing.assert_close(rounded[~is_halfway], expected[~is_halfway])
    assert torch.equal(round_symmetric(rounded, torch.tensor(amax)), rounded)
    inside = values.abs() <= amax
    assert ((rounded - values).abs()[inside] <= amax / 254 * 1.001).all()
    assert torch.equal(round_symmetric(-values, torch.tensor(amax)), -rounded)


def test_the_slope_is_one_inside_and_nothing_outside_the_range():
    values = torch.tensor([-2.0, -0.99, -0.3, 0.0, 0.4, 0.99, 1.5], requires_grad=True)
    round_symmetric(values, torch.tensor(1.0)).sum().backward()
    assert values.grad.tolist() == [0, 1, 1, 1, 1, 1, 0]


def test_a_range_of_nothing_leaves_nothing():
    assert torch.equal(round_symmetric(torch.randn(4), torch.tensor(0.0)), torch.zeros(4))


def test_a_kernel_rounds_to_the_same_integers_before_and_after_its_norm_is_folded():
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(5, 7, 3, bias=False), nn.BatchNorm2d(7).eval()
    with torch.no_grad():
        norm.weight.normal_()  # of either sign
        norm.running_var.uniform_(0.1, 5)
    folded = fuse_conv_bn_eval(conv.eval(), norm)

    def integers(kernel: torch.Tensor) -> torch.Tensor:
        scale = kernel.abs().amax(dim=(1, 2, 3), keepdim=True)
        return (round_symmetric(kernel, scale) / scale * 127).round()

    signs = norm.weight.sign()[:, None, None, None]
    # Folding moves a weight of at most 127 steps by some units in the last place, together below 1e-4 of a step.
    steps = conv.weight.detach().double()
    steps = steps / steps.abs().amax(dim=(1, 2, 3), keepdim=True) * 127
    is_halfway = (steps - steps.floor() - 0.5).abs() < 1e-4
    assert is_halfway.sum() < 5
    assert torch.equal(integers(folded.weight)[~is_halfway], (integers(conv.weight) * signs)[~is_halfway])


def test_ranges_follow_the_inputs_in_train_mode_only():
    conv = QuantizedConv2d.of(nn.Conv2d(1, 1, 1), momentum=0.25)
    conv.train()(torch.full((1, 1, 2, 2), -4.0))
    assert float(conv.input_amax) == 4.0
    conv(torch.full((1, 1, 2, 2), 8.0))
    assert float(conv.input_amax) == 5.0
    conv.eval()(torch.full((1, 1, 2, 2), 80.0))
    assert float(conv.input_amax) == 5.0


def test_what_is_named_stays_float():
    network = detector()
    quantize(network, QuantizationAwareConfig())
    names = activation_ranges(network)
    convolutions = [name for name, part in network.named_modules() if isinstance(part, nn.Conv2d)]
    ends = {name for name in convolutions if name.startswith("backbone.stem.") or ".predict_" in name}
    assert set(names) == set(convolutions) - ends
    assert len(ends) == 1 + 3 * 3  # class, box and objectness of three levels
    headless = detector()
    quantize(headless, QuantizationAwareConfig(float_parts=("backbone.stem", "head")))
    assert set(activation_ranges(headless)) == {name for name in names if not name.startswith("head.")}
    whole = detector()
    quantize(whole, QuantizationAwareConfig(float_parts=()))
    assert set(activation_ranges(whole)) == set(convolutions)
    with pytest.raises(ConfigError, match="nothing named 'backbone.stm'"):
        quantize(detector(), QuantizationAwareConfig(float_parts=("backbone.stm",)))
    with pytest.raises(ConfigError, match="no convolution to quantize"):
        quantize(detector(), QuantizationAwareConfig(float_parts=("backbone", "neck", "head")))


@pytest.fixture(scope="module")
def exported() -> tuple[Detector, onnx.ModelProto]:
    """A detector with learned ranges, and its float graph."""
    network = detector()
    quantize(network, QuantizationAwareConfig())
    with torch.no_grad():
        network.train()(255 * torch.rand(2, 3, 96, 96))
    plain = without_quantization(network.eval())
    return network, simplify(trace_onnx(DecodedRows(fold_for_inference(plain), network.config.class_names)))


def test_the_float_ends_are_those_that_export_keeps_in_float(exported):
    network, model = exported
    ends = {name.replace("stem.conv.conv", "stem.conv") for name in first_and_last(detector())}
    assert {module_name(name) for name in pinned_layers(GraphIndex(model.graph))} == ends


@torch.no_grad()
def test_the_exported_file_rounds_what_training_rounded(exported):
    network, model = exported
    images, names = 255 * torch.rand(1, 3, 96, 96), network.config.class_names
    from_file = outputs_of(int8_from_learned(model, activation_ranges(network)).model, [images.numpy()])
    plain = without_quantization(network).eval()
    rounded, exact = (DecodedRows(one, names)(images).numpy() for one in (network, plain))
    assert np.abs(from_file - rounded).max() < 0.1 * np.abs(rounded - exact).max()


def test_transformers_have_float_ends_too():
    """Without a part of the name stem; what only attention reads counts as last."""
    parts = {"backbone": {"kind": "vit", "depth": 1}, "neck": {"kind": "simple_pyramid", "out_dim": 32}}
    head = {"kind": "yolox", "hidden_dim": 32}
    network = Detector(DetectorConfig.model_validate({**NANO, **parts, "head": head, "num_classes": 2}))
    quantize(network, QuantizationAwareConfig())
    assert any(name.startswith("head.levels.0.class_branch") for name in activation_ranges(network))
    assert "backbone.embed" not in activation_ranges(network)


def test_halves_of_a_repvgg_block_stay_float():
    neck = {"kind": "hybrid_encoder", "hidden_dim": 32, "feed_forward_dim": 32}
    network = Detector(DetectorConfig.model_validate({**NANO, "neck": neck, "num_classes": 2}))
    quantize(network, QuantizationAwareConfig())
    halves = [name for name in activation_ranges(network) if ".spatial.conv" in name and name.startswith("neck")]
    assert activation_ranges(network)
    assert not halves


def test_shipping_gives_the_float_weights_and_the_ranges(tmp_path):
    network, plain = detector(), detector()
    quantize(network, QuantizationAwareConfig())
    network.train()(torch.rand(2, 3, 96, 96))
    path = tmp_path / "quantized.safetensors"
    save_weights(path, network.eval(), {"epoch": "3"})
    assert load_activation_ranges(path) == pytest.approx(activation_ranges(network))
    loaded = load_detector(path)
    for name, value in plain.named_parameters():
        assert torch.equal(loaded.get_parameter(name), value)
    images = torch.rand(1, 3, 96, 96)
    assert torch.equal(loaded(images).rows, without_quantization(network)(images).rows)
    assert (loaded(images).rows - network(images).rows).abs().max() > 0
    ordinary = tmp_path / "plain.safetensors"
    save_weights(ordinary, plain)
    assert load_activation_ranges(ordinary) == {}


def start(folder: Path) -> Path:
    save_detector(folder / "start.safetensors", detector())
    return folder / "start.safetensors"


@pytest.mark.slow
def test_training_rounds_learns_ranges_and_goes_on_bit_for_bit(small_config, tmp_path):
    config = small_config(detector=NANO, start_from=start(tmp_path), quantization_aware={})
    whole = train_to_step(config, tmp_path / "whole", 4)
    train_to_step(config, tmp_path / "parts", 2)
    parts = train_to_step(config, tmp_path / "parts", 4)
    assert losses_of(parts) == losses_of(whole)
    assert activation_ranges(whole.network)
    ours, theirs = load_file(parts.run.last), load_file(whole.run.last)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    ranges = load_activation_ranges(parts.run.last)
    assert ranges == load_activation_ranges(whole.run.last)
    assert all(amax > 0 for amax in ranges.values())
    load_detector(parts.run.last)


def test_convolutions_of_one_tensor_share_its_range():
    network = detector()
    quantize(network, QuantizationAwareConfig())
    for _ in range(2):
        network.train()(torch.rand(2, 3, 96, 96))
    ranges = activation_ranges(network)
    stage = "backbone.stages.0.block"
    assert ranges[f"{stage}.main.conv"] == ranges[f"{stage}.bypass.conv"]
    assert len(set(ranges.values())) > 20


def test_rounded_weights_cannot_be_judged_before_they_are_trained(small_config):
    with pytest.raises(ConfigError, match="quantization_aware judges trained weights: name a checkpoint as start_from"):
        small_config(quantization_aware={})


def test_a_copy_keeps_what_was_learnt():
    conv = QuantizedConv2d.of(nn.Conv2d(3, 4, 3), momentum=0.5)
    conv.train()(torch.rand(1, 3, 8, 8))
    images = torch.rand(1, 3, 8, 8)
    assert torch.equal(copy.deepcopy(conv).eval()(images), conv.eval()(images))
