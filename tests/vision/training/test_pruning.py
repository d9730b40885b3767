"""What is cut out is what was silent: a pruned detector computes what the whole one does with those channels at zero.

That holds for every architecture only if each residual, concatenation and depthwise convolution was understood.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from handeye.vision.checkpoints.native import load_detector, save_detector
from handeye.vision.detector import Detector, DetectorConfig
from handeye.vision.errors import ConfigError
from handeye.vision.training.channel_graph import ChannelGraph, channel_graph
from handeye.vision.training.pruning import (
    ChannelPruningConfig,
    channel_importance,
    choose_channels,
    keep_channels,
    prune_channels,
)
from tests.vision.training.conftest import NANO, losses_of, train_to_step

PLAIN = {
    "backbone": {"kind": "cspdarknet", "depth": 0.33, "width": 0.25},
    "neck": {"kind": "path_aggregation", "depth": 0.33},
    "head": {"kind": "yolox", "hidden_dim": 64},
}
HYBRID = {"kind": "hybrid_encoder", "hidden_dim": 32, "feed_forward_dim": 32}
QUERIES = {"hidden_dim": 32, "num_decoder_layers": 1, "num_queries": 12, "num_denoising": 0}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "plain": PLAIN,
    "depthwise": NANO,
    "repvgg": {
        "backbone": {"kind": "resnet", "depth": 18, "blocks_per_stage": [1, 1, 1, 1]},
        "neck": HYBRID,
        "head": {"kind": "rtdetr", **QUERIES},
    },
    "bottlenecks": {
        "backbone": {"kind": "resnet", "depth": 50, "blocks_per_stage": [2, 1, 1, 1]},
        "neck": {"kind": "levels", "num_levels": 3},
        "head": {"kind": "yolo_grid", "version": "v5"},
    },
    "hgnet": {"backbone": {"kind": "hgnetv2"}, "neck": HYBRID, "head": {"kind": "dfine", **QUERIES}},
    "darknet": {
        "backbone": {"kind": "darknet", "width": 0.25, "units_per_stage": [1, 1, 1, 1, 1]},
        "neck": {"kind": "feature_pyramid", "hidden_dim": 48, "num_extra_levels": 0},
        "head": {"kind": "yolo_grid", "version": "v3", "hidden_dim": 64},
    },
    "tokens": {
        "backbone": {"kind": "vit", "depth": 1},
        "neck": {"kind": "simple_pyramid", "out_dim": 32},
        "head": {"kind": "yolox", "hidden_dim": 32},
    },
}


def build(name: str) -> Detector:
    """In eval mode, norms as different as after a training."""
    torch.manual_seed(3)
    parts = {**ARCHITECTURES[name], "preprocessing": {"size_hw": [96, 96]}, "class_names": ("red", "green")}
    detector = Detector(DetectorConfig.model_validate(parts)).eval()
    for part in detector.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.1)
            assert part.running_mean is not None
            part.running_mean.normal_(std=0.1)
    return detector


def some_of_each_family(graph: ChannelGraph, seed: int) -> np.ndarray:
    """At random, at least one channel of every family stays."""
    rng = np.random.default_rng(seed)
    kept = np.ones(len(graph.may_go), dtype=bool)
    for family in graph.families():
        gone = rng.permutation(family)[: rng.integers(0, len(family))]
        kept[gone] = False
    return kept


@torch.no_grad()
def silence(detector: Detector, graph: ChannelGraph, kept: np.ndarray) -> None:
    """Set every channel that is not kept to zero, at its convolutions and at its norms."""
    for name, conv in graph.convolutions.items():
        gone = torch.from_numpy(~kept[conv.out_channels])
        part = detector.get_submodule(name)
        for key in ("weight", "bias"):
            value = getattr(part, key)
            if value is not None:
                value[gone] = 0
    for name, channels in graph.norms.items():
        for key in ("weight", "bias"):
            detector.get_submodule(name).get_parameter(key)[torch.from_numpy(~kept[channels])] = 0


def macs(detector: Detector) -> int:
    """As torch counts them for one picture of 96 x 96."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        detector.eval()(torch.zeros(1, 3, 96, 96))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_pruned_computes_what_the_silenced_does(name: str):
    detector = build(name)
    graph = channel_graph(detector)
    kept = some_of_each_family(graph, seed=1)
    assert graph.macs(np.ones_like(kept)) == macs(detector)
    pruned = keep_channels(detector, graph, kept)
    assert graph.macs(kept) == macs(pruned) < macs(detector)
    assert not kept.all()
    silence(detector, graph, kept)
    images = 255 * torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        ours, theirs = pruned.double()(images.double()).rows, detector.double()(images.double()).rows
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["plain", "depthwise", "repvgg"])
def test_half_is_at_most_half_in_whole_blocks(name: str):
    detector = build(name)
    config = ChannelPruningConfig(keep_macs=0.5, multiple=8, least=0.25)
    pruned, report = prune_channels(detector, config)
    assert macs(pruned) == report.macs_after <= 0.5 * report.macs_before
    assert report.macs_before == macs(detector)
    assert report.macs_after > 0.4 * report.macs_before  # no more went than had to
    assert report.parameters_after == sum(value.numel() for value in pruned.parameters()) < report.parameters_before
    graph, after = channel_graph(detector), channel_graph(pruned)
    sizes = {name: len(conv.out_channels) for name, conv in graph.convolutions.items()}
    for name, conv in after.convolutions.items():
        assert len(conv.out_channels) % 8 == 0 or len(conv.out_channels) == sizes[name]
        assert len(conv.out_channels) >= 0.25 * sizes[name]


def test_terms_of_a_sum_live_and_die_together():
    graph = channel_graph(build("bottlenecks"))
    last, shortcut, next_last = (
        graph.convolutions[f"backbone.stages.0.{name}"].out_channels
        for name in ("0.layers.2.conv", "0.shortcut.0.conv", "1.layers.2.conv")
    )
    assert np.array_equal(last, shortcut)
    assert np.array_equal(last, next_last)


def test_a_depthwise_convolution_has_its_inputs_channels():
    graph = channel_graph(build("depthwise"))
    depthwise = [conv for conv in graph.convolutions.values() if conv.is_depthwise]
    assert depthwise
    for conv in depthwise:
        assert conv.in_channels is not None
        assert np.array_equal(conv.in_channels, conv.out_channels)


@pytest.mark.parametrize("importance", ["l1", "norm_scale"])
def test_the_least_important_leave_first(importance):
    """In every family, silent channels are known as such and are those that go."""
    detector = build("plain")
    graph = channel_graph(detector)
    rng = np.random.default_rng(0)
    kept = np.ones(len(graph.may_go), dtype=bool)
    for family in graph.families():
        kept[rng.permutation(family)[: len(family) // 16 * 8]] = False
    silence(detector, graph, kept)
    config = ChannelPruningConfig(keep_macs=0.6, importance=importance, multiple=8, least=0.0)
    chosen = choose_channels(graph, channel_importance(detector, graph, importance), config)
    assert not (~chosen & kept).any()


def test_importance_is_measured_within_each_layer():
    detector = build("plain")
    graph = channel_graph(detector)
    before = channel_importance(detector, graph, "l1")
    name, conv = next((name, conv) for name, conv in graph.convolutions.items() if "block.join" in name)
    assert before[conv.out_channels].mean() == pytest.approx(1)
    with torch.no_grad():
        detector.get_submodule(name).get_parameter("weight").mul_(100)
    np.testing.assert_allclose(channel_importance(detector, graph, "l1"), before, rtol=1e-5)


def test_what_cannot_be_saved_is_refused():
    detector = build("plain")
    with pytest.raises(ConfigError, match=r"keep_macs 0.01: the least .* is 0\.\d\d of its multiply-adds"):
        prune_channels(detector, ChannelPruningConfig(keep_macs=0.01))
    with pytest.raises(ConfigError, match="norm_scale: not every convolution has its batch norm"):
        prune_channels(build("darknet"), ChannelPruningConfig(importance="norm_scale"))


def test_pruning_again_goes_on_from_there():
    once, first = prune_channels(build("plain"), ChannelPruningConfig(keep_macs=0.7, multiple=8))
    twice, second = prune_channels(once, ChannelPruningConfig(keep_macs=0.7, multiple=8))
    assert second.macs_before == first.macs_after
    assert macs(twice) <= 0.7 * macs(once)
    assert second.widths.keys() >= first.widths.keys()


def test_a_pruned_checkpoint_is_loaded_fine_tuned_and_loaded_again(small_config, tmp_path):
    pruned, report = prune_channels(build("plain"), ChannelPruningConfig(keep_macs=0.5, multiple=8))
    path = tmp_path / "pruned.safetensors"
    save_detector(path, pruned)
    images = 255 * torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        assert torch.equal(load_detector(path)(images).rows, pruned(images).rows)
    config = small_config(detector={**PLAIN, "preprocessing": {"size_hw": [96, 96]}}, start_from=path)
    training = train_to_step(config, tmp_path / "run", 1)
    assert dict(load_detector(training.run.last).config.widths) == report.widths


@pytest.mark.slow
def test_training_prunes_at_its_start_and_goes_on_bit_for_bit(small_config, tmp_path):
    path = tmp_path / "whole.safetensors"
    save_detector(path, build("depthwise"))
    config = small_config(detector=NANO, start_from=path, pruning={"kind": "channels", "keep_macs": 0.6, "multiple": 8})
    whole = train_to_step(config, tmp_path / "whole", 4)
    train_to_step(config, tmp_path / "parts", 2)
    parts = train_to_step(config, tmp_path / "parts", 4)
    assert losses_of(parts) == losses_of(whole)
    ours, theirs = load_detector(parts.run.last), load_detector(whole.run.last)
    assert all(torch.equal(value, theirs.get_parameter(name)) for name, value in ours.named_parameters())
    assert macs(ours) <= 0.6 * macs(build("depthwise"))


def test_weights_must_be_trained_before_they_are_judged(small_config):
    with pytest.raises(ConfigError, match="pruning judges trained weights: name a checkpoint as start_from"):
        small_config(pruning={"kind": "channels"})


@pytest.mark.parametrize("changes", [{"pruning": {"kind": "channels"}}, {"quantization_aware": {}}])
def test_a_file_of_another_detector_is_not_judged(small_config, tmp_path, changes):
    path = tmp_path / "other.safetensors"
    wider = {"backbone": {**NANO["backbone"], "width": 0.375}, "num_classes": 2}
    save_detector(path, Detector(DetectorConfig.model_validate({**NANO, **wider})))
    config = small_config(start_from=path, **changes)
    key = next(iter(changes))
    with pytest.raises(ConfigError, match=rf"{key} judges trained weights, but .*other.* has only \d+% of those"):
        train_to_step(config, tmp_path / "run", 0)
