"""The smallest weights of the whole detector become zero and stay so, the others are left to learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from handeye.vision.checkpoints.native import load_detector, save_detector
from handeye.vision.detector import Detector, DetectorConfig
from handeye.vision.errors import ConfigError
from handeye.vision.training.pruning import MagnitudePruningConfig, magnitude_masks, sparsity_report
from tests.vision.training.conftest import NANO, losses_of, train_to_step


def network(seed: int = 0) -> nn.Sequential:
    """Of two layers, one with far smaller weights."""
    torch.manual_seed(seed)
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1, bias=False), nn.Linear(4, 5))
    with torch.no_grad():
        layers[2].weight.mul_(0.01)
    return layers


def kernels(layers: nn.Module) -> torch.Tensor:
    parts = [part.weight for part in layers.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    return torch.cat([weight.detach().flatten() for weight in parts])


@given(st.integers(0, 2**31), st.floats(0.001, 0.999))
def test_it_is_the_published_threshold(seed, sparsity):
    """The threshold is the k-th smallest magnitude, as numpy sorts them."""
    layers = network(seed)
    before = kernels(layers).numpy()
    magnitude_masks(layers, MagnitudePruningConfig(sparsity=sparsity)).apply(layers)
    number = round(sparsity * len(before))
    threshold = np.partition(np.abs(before), number - 1)[number - 1] if number else -1.0
    expected = np.where(np.abs(before) > threshold, before, 0)
    np.testing.assert_array_equal(kernels(layers).numpy(), expected)
    # As many as asked for; of several weights equal to the threshold all go.
    assert np.count_nonzero(np.abs(before) < threshold) <= number <= np.count_nonzero(expected == 0)


def test_layers_of_small_weights_lose_more_and_norms_and_biases_nothing():
    layers = network()
    others = {name: value.clone() for name, value in layers.state_dict().items() if "bias" in name or name[0] == "1"}
    magnitude_masks(layers, MagnitudePruningConfig(sparsity=0.1)).apply(layers)
    first, second, third = sparsity_report(layers)
    assert (first.name, first.weights, second.name, third.name) == ("0", 8 * 27, "2", "3")
    assert second.zeros / second.weights > 0.5
    assert first.zeros / first.weights < 0.05
    assert first.zeros + second.zeros + third.zeros == round(0.1 * (216 + 32 + 20))
    assert all(torch.equal(layers.state_dict()[name], value) for name, value in others.items())


def test_spared_parts_stay_whole_and_must_exist():
    layers = network()
    magnitude_masks(layers, MagnitudePruningConfig(sparsity=0.5, spared_parts=("2",))).apply(layers)
    zeros = {layer.name: layer.zeros for layer in sparsity_report(layers)}
    assert zeros["2"] == 0
    assert zeros["0"] + zeros["3"] == 118
    with pytest.raises(ConfigError, match="nothing named '7'"):
        magnitude_masks(layers, MagnitudePruningConfig(spared_parts=("7",)))
    with pytest.raises(ConfigError, match="leave no weight"):
        magnitude_masks(layers, MagnitudePruningConfig(spared_parts=("0", "2", "3")))


def test_what_is_gone_stays_gone_while_the_rest_learns(small_config, tmp_path):
    torch.manual_seed(4)
    detector, path = Detector(DetectorConfig.model_validate({**NANO, "num_classes": 2})), tmp_path / "whole.safetensors"
    save_detector(path, detector)
    config = small_config(detector=NANO, start_from=path, pruning={"kind": "magnitude", "sparsity": 0.7})
    whole = train_to_step(config, tmp_path / "whole", 4)
    unlearnt = train_to_step(config, tmp_path / "none", 0)
    train_to_step(config, tmp_path / "parts", 2)
    save_detector(path, Detector(detector.config))  # the file is judged once, at the beginning
    parts = train_to_step(config, tmp_path / "parts", 4)
    assert losses_of(parts) == losses_of(whole)
    for trained in (whole.network, load_detector(parts.run.last)):  # the weights themselves, and their average
        report = sparsity_report(trained)
        share = sum(layer.zeros for layer in report) / sum(layer.weights for layer in report)
        assert share == pytest.approx(0.7, abs=1e-3)
    assert not torch.equal(kernels(whole.network), kernels(unlearnt.network))
