"""The feature pyramid: by hand, torchvision's pyramid as the second opinion."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch.nn import functional
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from handeye.vision.backbones.resnet import ResNet, ResNetConfig
from handeye.vision.necks.build import build_neck
from handeye.vision.necks.feature_pyramid import FeaturePyramid, FeaturePyramidConfig

CHANNELS, STRIDES = (8, 16, 32), (8, 16, 32)


def features_of(height: int, width: int) -> list[torch.Tensor]:
    """Features of three levels, each side half of the one before, rounded up; in double precision.

    In single precision two ways to the same sum are apart by as much as the tolerance of the tests.
    """
    torch.manual_seed(0)
    return [
        torch.randn(2, channels, -(-height // 2**level), -(-width // 2**level), dtype=torch.float64)
        for level, channels in enumerate(CHANNELS)
    ]


@pytest.mark.parametrize("size_hw", [(16, 24), (13, 9)])
def test_it_is_torchvisions_pyramid(size_hw):
    ours = FeaturePyramid(FeaturePyramidConfig(hidden_dim=12), CHANNELS, STRIDES).double()
    theirs = FeaturePyramidNetwork(list(CHANNELS), 12, LastLevelMaxPool()).double()
    weights = {}
    for level in range(len(CHANNELS)):
        for part in ("weight", "bias"):
            weights[f"inner_blocks.{level}.0.{part}"] = ours.laterals[level].state_dict()[part]
            weights[f"layer_blocks.{level}.0.{part}"] = ours.smooth[level].state_dict()[part]
    theirs.load_state_dict(weights)
    features = features_of(*size_hw)
    expected = theirs(OrderedDict((str(level), values) for level, values in enumerate(features)))
    for level, other in zip(ours(features), expected.values(), strict=True):
        torch.testing.assert_close(level, other, rtol=0, atol=1e-6)


def test_22_21_each_level_is_the_coarser_one_upsampled_plus_its_lateral():
    neck = FeaturePyramid(FeaturePyramidConfig(hidden_dim=4, num_extra_levels=0), CHANNELS, STRIDES).double()
    features = features_of(8, 8)
    merged = [lateral(level) for lateral, level in zip(neck.laterals, features, strict=True)]
    merged[1] = merged[1] + merged[2].repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    merged[0] = merged[0] + merged[1].repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    for level, (smooth, values) in zip(neck(features), zip(neck.smooth, merged, strict=True), strict=True):
        torch.testing.assert_close(level, smooth(values), rtol=0, atol=1e-6)


def test_22_20_to_22_26_the_shapes_m2_to_m6_of_resnet_50_at_224():
    with torch.device("meta"):
        backbone = ResNet(ResNetConfig(depth=50, strides=(4, 8, 16, 32)))
        neck = build_neck(FeaturePyramidConfig(), backbone.channels, backbone.strides)
        pyramid = neck(backbone(torch.empty(1, 3, 224, 224)))
    assert [tuple(level.shape[1:]) for level in pyramid] == [(256, side, side) for side in (56, 28, 14, 7, 4)]
    assert neck.strides == (4, 8, 16, 32, 64)
    assert neck.channels == (256,) * 5


@pytest.mark.parametrize("strides", [(16,), (8, 16), (4, 8, 16, 32)])
@pytest.mark.parametrize("extra_by", ["subsampling", "convolution"])
def test_any_backbone_strides_and_extra_levels_will_do(strides, extra_by):
    config = FeaturePyramidConfig(hidden_dim=4, num_extra_levels=2, extra_by=extra_by)
    neck = FeaturePyramid(config, (3,) * len(strides), strides)
    pyramid = neck([torch.randn(1, 3, 128 // stride, 256 // stride) for stride in strides])
    assert neck.strides == (*strides, 2 * strides[-1], 4 * strides[-1])
    assert [tuple(level.shape) for level in pyramid] == [(1, 4, 128 // s, 256 // s) for s in neck.strides]


def test_extra_levels_keep_every_second_cell_or_convolve():
    features = features_of(8, 8)
    kept = FeaturePyramid(FeaturePyramidConfig(hidden_dim=4), CHANNELS, STRIDES).double()(features)
    torch.testing.assert_close(kept[-1], kept[-2][..., ::2, ::2], rtol=0, atol=0)
    config = FeaturePyramidConfig(hidden_dim=4, num_extra_levels=2, extra_by="convolution")
    neck = FeaturePyramid(config, CHANNELS, STRIDES).double()
    pyramid = neck(features)
    first, second = neck.extra[0], neck.extra[1][1]
    halved = functional.conv2d(pyramid[2], first.weight, first.bias, stride=2, padding=1)
    torch.testing.assert_close(pyramid[3], halved, rtol=0, atol=1e-6)
    halved_again = functional.conv2d(halved.relu(), second.weight, second.bias, stride=2, padding=1)
    torch.testing.assert_close(pyramid[4], halved_again, rtol=0, atol=1e-6)
