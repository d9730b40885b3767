"""Darknet-19 and Darknet-53: the layers that their papers list."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from handeye.vision.backbones.build import build_backbone
from handeye.vision.backbones.darknet import Darknet, DarknetConfig, ResidualBlock


@pytest.mark.parametrize("depth", [19, 53])
def test_features_have_the_promised_channels_and_strides(depth):
    backbone = build_backbone(DarknetConfig(depth=depth, width=0.125)).eval()
    features = backbone(torch.zeros(2, 3, 64, 96))
    assert backbone.channels == (32, 64, 128)
    assert [tuple(level.shape) for level in features] == [(2, 32, 8, 12), (2, 64, 4, 6), (2, 128, 2, 3)]


@pytest.mark.parametrize("depth", [19, 53])
def test_there_are_as_many_convolutions_as_the_name_says(depth):
    with torch.device("meta"):
        backbone = Darknet(DarknetConfig(depth=depth))
    # The last one counted is the classifier: a 1 x 1 convolution there, a linear layer here.
    assert sum(isinstance(module, nn.Conv2d) for module in backbone.modules()) == depth - 1
    assert backbone.channels == (256, 512, 1024)


@pytest.mark.parametrize("depth", [19, 53])
def test_the_convolutions_hold_as_many_weights_as_the_tables_give(depth):
    """The tables' kernels and filters multiplied out by hand, norms and classifier left out."""
    tables = {
        19: ["3x3 3 32", "3x3 32 64", *_bottle(64, 128, 1), *_bottle(128, 256, 1), *_bottle(256, 512, 2)]
        + _bottle(512, 1024, 2),
        53: ["3x3 3 32"]
        + [
            layer
            for channels, blocks in ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4))
            for layer in _bottle(channels // 2, channels, blocks)
        ],
    }
    by_hand = sum(
        int(kernel[0]) ** 2 * int(inside) * int(outside) for kernel, inside, outside in map(str.split, tables[depth])
    )
    with torch.device("meta"):
        backbone = Darknet(DarknetConfig(depth=depth))
    kernels = [module.weight.numel() for module in backbone.modules() if isinstance(module, nn.Conv2d)]
    assert sum(kernels) == by_hand


def _bottle(in_channels: int, channels: int, times: int) -> list[str]:
    """3 x 3 to `channels`, then 1 x 1 to half and 3 x 3 back so many times."""
    half = channels // 2
    return [f"3x3 {in_channels} {channels}", *([f"1x1 {channels} {half}", f"3x3 {half} {channels}"] * times)]


def test_every_activation_is_leaky_with_a_tenth():
    with torch.device("meta"):
        backbone = Darknet(DarknetConfig())
    assert {module.negative_slope for module in backbone.modules() if isinstance(module, nn.LeakyReLU)} == {0.1}


def test_a_residual_block_whose_layers_say_nothing_changes_nothing():
    block = ResidualBlock(8).eval()
    nn.init.zeros_(block.layers[1].norm.weight)
    features = torch.randn(1, 8, 5, 5)
    torch.testing.assert_close(block(features), features, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [({"depth": 21}, "19 or 53"), ({"units_per_stage": (1, 1)}, "5 numbers, got 2"), ({"width": 0.01}, "greater")],
)
def test_wrong_configurations_are_refused_in_words(content, complaint):
    with pytest.raises(ValidationError, match=complaint):
        DarknetConfig.model_validate(content)
