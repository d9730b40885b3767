"""ResNet: shapes at every size, what is frozen, and worked examples."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional

from handeye.vision.backbones.build import build_backbone
from handeye.vision.backbones.resnet import ResNet, ResNetConfig, build_shortcut, build_stem
from handeye.vision.layers.convolution import TORCH_NORM

SHALLOW = (1, 1, 1, 1)


@pytest.mark.parametrize("variant", ["plain", "vd"])
@pytest.mark.parametrize(("depth", "channels"), [(18, (64, 128, 256, 512)), (50, (256, 512, 1024, 2048))])
@pytest.mark.parametrize("size_hw", [(64, 96), (75, 131)])
def test_features_have_the_promised_channels_and_strides(variant, depth, channels, size_hw):
    config = ResNetConfig(depth=depth, variant=variant, blocks_per_stage=SHALLOW, strides=(4, 8, 16, 32))
    backbone = build_backbone(config).eval()
    with torch.no_grad():
        features = backbone(torch.zeros(2, 3, *size_hw))
    assert backbone.channels == channels
    assert [tuple(level.shape) for level in features] == [
        (2, width, math.ceil(size_hw[0] / stride), math.ceil(size_hw[1] / stride))
        for width, stride in zip(channels, (4, 8, 16, 32), strict=True)
    ]


@pytest.mark.parametrize(("strides", "num_stages"), [((32,), 4), ((8, 16), 3), ((4,), 1)])
def test_only_the_chosen_strides_are_given_and_nothing_is_built_beyond(strides, num_stages):
    backbone = ResNet(ResNetConfig(depth=18, strides=strides))
    assert len(backbone.stages) == num_stages
    assert [64 // level.shape[-1] for level in backbone(torch.zeros(2, 3, 64, 64))] == list(strides)
    assert len(backbone.channels) == len(strides)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"strides": (16, 8)}, "ascend"),
        ({"strides": (8, 8)}, "ascend"),
        ({"strides": ()}, "at least 1"),
        ({"strides": (12,)}, "4, 8, 16 or 32"),
        ({"depth": 152}, "18, 34, 50 or 101"),
        ({"blocks_per_stage": (2, 2)}, "4 numbers, got 2"),
        ({"blocks_per_stage": (2, 2, 0, 2)}, "greater than 0"),
        ({"width": 0.3}, "multiple of 0.25"),
    ],
)
def test_wrong_configurations_are_refused_in_words(content, complaint):
    with pytest.raises(ValidationError, match=complaint):
        ResNetConfig.model_validate(content)


@pytest.mark.parametrize("variant", ["plain", "vd"])
def test_width_scales_every_layer(variant):
    narrow, whole = (ResNet(ResNetConfig(depth=18, variant=variant, width=width)) for width in (0.5, 1.0))
    assert narrow.channels == (64, 128, 256)
    assert [level.shape[1] for level in narrow.eval()(torch.zeros(1, 3, 64, 64))] == [64, 128, 256]
    for thin, thick in zip(narrow.modules(), whole.modules(), strict=True):
        if isinstance(thin, nn.Conv2d) and isinstance(thick, nn.Conv2d):
            assert thick.weight.numel() == (2 if thin.in_channels == 3 else 4) * thin.weight.numel()


def test_frozen_parts_do_not_learn_and_their_norms_do_not_follow_the_batch():
    backbone = ResNet(ResNetConfig(depth=18, frozen_parts=2, blocks_per_stage=SHALLOW)).train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    sum(level.sum() for level in backbone(torch.randn(2, 3, 64, 64))).backward()
    frozen = [weight for part in (backbone.stem, backbone.stages[0]) for weight in part.parameters()]
    learning = [weight for stage in backbone.stages[1:] for weight in stage.parameters()]
    assert all(weight.grad is None for weight in frozen)
    assert all(weight.grad is not None for weight in learning)
    changed = {key.split(".")[1] for key, value in backbone.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"1", "2", "3"}


def test_frozen_norms_have_no_parameters():
    live, frozen = (ResNet(ResNetConfig(depth=18, batch_norm=norm)) for norm in ("live", "frozen"))
    num_norm_weights = sum(2 * norm.num_features for norm in live.modules() if isinstance(norm, nn.BatchNorm2d))
    num_live, num_frozen = (sum(weight.numel() for weight in net.parameters()) for net in (live, frozen))
    assert num_live - num_frozen == num_norm_weights
    assert {key for key in live.state_dict() if not key.endswith("num_batches_tracked")} == set(frozen.state_dict())


def test_the_vd_shortcut_sees_all_cells_and_the_plain_one_a_quarter():
    features = torch.randn(1, 4, 6, 6, requires_grad=True)
    for variant, share in (("plain", 0.25), ("vd", 1.0)):
        shortcut = build_shortcut(4, 8, 2, variant, TORCH_NORM).eval()
        (seen,) = torch.autograd.grad(shortcut(features).square().sum(), features)
        assert (seen.abs().sum(dim=1) > 0).float().mean() == share


def test_two_sizes_in_one_process_do_not_disturb_each_other():
    first = [tuple(weight.shape) for weight in ResNet(ResNetConfig(depth=18)).parameters()]
    ResNet(ResNetConfig(depth=50, variant="vd", batch_norm="frozen"))
    assert [tuple(weight.shape) for weight in ResNet(ResNetConfig(depth=18)).parameters()] == first


# Worked examples.


def test_22_13_to_22_17_the_sizes_of_resnet_50_at_224():
    with torch.device("meta"):
        backbone = ResNet(ResNetConfig(depth=50, strides=(4, 8, 16, 32)))
        images = torch.empty(1, 3, 224, 224)
        stem, features = backbone.stem(images), backbone(images)
    assert tuple(stem.shape) == (1, 64, 112, 112)
    assert [tuple(level.shape) for level in features] == [
        (1, 256, 56, 56),
        (1, 512, 28, 28),
        (1, 1024, 14, 14),
        (1, 2048, 7, 7),
    ]
    assert [len(stage) for stage in backbone.stages] == [3, 4, 6, 3]


def test_22_14_the_pool_gives_56_only_with_its_padding():
    """Printed: floor((112 - 3) / 2) + 1 = 56. That is 55; ResNet pads by 1, and so comes to 56."""
    images = torch.zeros(1, 1, 112, 112)
    assert functional.max_pool2d(images, 3, stride=2).shape[-1] == (112 - 3) // 2 + 1 == 55
    pool = ResNet(ResNetConfig(depth=18, blocks_per_stage=SHALLOW)).pool
    assert pool(images).shape[-1] == (112 + 2 * 1 - 3) // 2 + 1 == 56


@pytest.mark.parametrize(("size", "kernel", "padding", "stride"), [(224, 7, 3, 2), (10, 3, 0, 1), (31, 5, 2, 3)])
def test_22_2_and_22_4_the_length_of_a_convolution(size, kernel, padding, stride):
    length = functional.conv1d(torch.zeros(1, 1, size), torch.zeros(1, 1, kernel), padding=padding, stride=stride)
    assert length.shape[-1] == (size + 2 * padding - kernel) // stride + 1


def test_22_1_a_convolution_is_a_sum_of_products():
    signal, weights = torch.tensor([1.0, 2.0, 4.0, 8.0]), torch.tensor([3.0, -1.0])
    by_hand = [sum(weights[s] * signal[t + s] for s in range(2)) for t in range(3)]
    assert functional.conv1d(signal[None, None], weights[None, None])[0, 0].tolist() == by_hand == [1.0, 2.0, 4.0]


def test_22_6_and_22_8_parameters_of_full_and_depthwise_convolutions():
    full, depthwise = nn.Conv2d(16, 32, 3), nn.Conv2d(16, 16, 3, groups=16, bias=False)
    assert sum(weight.numel() for weight in full.parameters()) == 3 * 3 * 16 * 32 + 32
    # Each filter of a depthwise convolution sees one channel: the reduction is by C_in for as many outputs.
    assert depthwise.weight.numel() == nn.Conv2d(16, 16, 3, bias=False).weight.numel() // 16


def test_22_12_the_bottleneck_works_on_a_quarter_of_the_channels():
    block = ResNet(ResNetConfig(depth=50)).stages[0][1].layers
    assert [(layer.conv.kernel_size[0], layer.conv.out_channels) for layer in block] == [(1, 64), (3, 64), (1, 256)]


def test_22_10_a_block_without_a_projection_adds_its_input():
    block = ResNet(ResNetConfig(depth=18)).stages[0][0].eval()
    nn.init.zeros_(block.layers[1].norm.weight)
    features = torch.randn(1, 64, 5, 5)
    torch.testing.assert_close(block(features), features.relu(), rtol=0, atol=0)


def test_the_vd_stem_has_three_convolutions_and_halves_once():
    stem = build_stem("vd", 64, TORCH_NORM)
    assert [tuple(layer.conv.weight.shape) for layer in stem] == [(32, 3, 3, 3), (32, 32, 3, 3), (64, 32, 3, 3)]
    assert tuple(stem.eval()(torch.zeros(1, 3, 10, 14)).shape) == (1, 64, 5, 7)
