"""HGNetv2: the published sizes, features of any image size, and the affine blocks where they belong."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from handeye.vision.backbones.build import build_backbone
from handeye.vision.backbones.hgnetv2 import ConvReluAffine, HGNetv2, HGNetv2Config, LearnableAffine, Stem
from handeye.vision.config import validate_config
from handeye.vision.errors import ConfigError
from handeye.vision.layers.convolution import TORCH_NORM
from handeye.vision.layers.frozen_norm import FrozenBatchNorm2d

PUBLISHED_MILLIONS = {"b0": 6.00, "b1": 6.34, "b2": 11.22, "b3": 16.29, "b4": 19.80, "b5": 39.57}
"""Parameters of the published classifiers: the backbone, a 1 x 1 convolution to 2048 channels, 1000 classes."""


@pytest.mark.parametrize("size", PUBLISHED_MILLIONS)
def test_parameters_are_those_of_the_published_classifiers(size):
    with torch.device("meta"):
        backbone = HGNetv2(HGNetv2Config(size=size))
    parameters = sum(values.numel() for values in backbone.parameters())
    classifier = backbone.channels[-1] * 2048 + 2048 * 1000 + 1000
    assert (parameters + classifier) / 1e6 == pytest.approx(PUBLISHED_MILLIONS[size], abs=0.006)


@pytest.mark.parametrize(("size_hw", "strides"), [((64, 96), (8, 16, 32)), ((50, 33), (4, 16)), ((32, 32), (32,))])
def test_features_have_the_promised_channels_and_strides(size_hw, strides):
    backbone = build_backbone(HGNetv2Config(strides=strides)).eval()
    features = backbone(torch.zeros(2, 3, *size_hw))
    assert backbone.strides == strides
    assert [tuple(level.shape) for level in features] == [
        (2, channels, -(-size_hw[0] // stride), -(-size_hw[1] // stride))
        for channels, stride in zip(backbone.channels, strides, strict=True)
    ]


def test_stages_beyond_the_coarsest_stride_are_left_out():
    assert [len(HGNetv2(HGNetv2Config(strides=strides)).stages) for strides in ((4,), (8, 16), (16, 32))] == [1, 3, 4]


def test_an_affine_block_stands_after_every_relu_and_nowhere_else():
    backbone = HGNetv2(HGNetv2Config(affine=True))
    owners = [module for module in backbone.modules() if isinstance(module, ConvReluAffine)]
    assert all(isinstance(owner.affine, LearnableAffine) for owner in owners)
    assert all(isinstance(owner.activation, nn.ReLU) for owner in owners)
    assert sum(isinstance(module, nn.ReLU) for module in backbone.modules()) == len(owners)
    assert sum(isinstance(module, LearnableAffine) for module in backbone.modules()) == len(owners)


def test_the_affine_block_comes_after_the_relu():
    block = ConvReluAffine(1, 1, 1, affine=True, norm=TORCH_NORM).eval()
    nn.init.constant_(block.affine.scale, 2.0)
    nn.init.constant_(block.affine.bias, -3.0)
    nn.init.ones_(block.conv.weight)
    features = block(torch.tensor([[[[-5.0, 4.0]]]]))
    torch.testing.assert_close(features, torch.tensor([[[[-3.0, 5.0]]]]), rtol=1e-4, atol=0)


def test_the_stem_pads_with_zeros_to_the_right_and_below():
    stem = Stem((4, 4), affine=True, norm=TORCH_NORM).eval()
    nn.init.constant_(stem.shrink.affine.bias, -100.0)  # every feature before the pool is far below the padding
    pooled = []
    stem.pool.register_forward_hook(lambda _module, _inputs, output: pooled.append(output))
    stem(torch.rand(1, 3, 16, 12))
    assert pooled[0].shape == (1, 4, 8, 6)
    assert pooled[0][:, :, -1].eq(0).all()
    assert pooled[0][..., -1].eq(0).all()
    assert pooled[0][:, :, :-1, :-1].lt(-90).all()


def test_frozen_parts_neither_learn_nor_follow_the_batches():
    backbone = HGNetv2(HGNetv2Config(frozen_parts=2)).train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    sum(level.square().mean() for level in backbone(torch.rand(2, 3, 32, 32))).backward()
    for part in (backbone.stem, backbone.stages[0]):
        assert all(values.grad is None for values in part.parameters())
    assert all(values.grad is not None for values in backbone.stages[1].parameters())
    changed = {key.rsplit(".", 1)[0] for key, value in backbone.state_dict().items() if not value.equal(before[key])}
    assert not any(key.startswith(("stem.", "stages.0.")) for key in changed)
    assert any(key.startswith("stages.1.") for key in changed)


def test_norms_can_be_frozen_throughout():
    backbone = HGNetv2(HGNetv2Config(batch_norm="frozen"))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())
    assert any(isinstance(module, FrozenBatchNorm2d) for module in backbone.modules())


@pytest.mark.parametrize("strides", [[16, 8], [8, 8], [], [64]])
def test_strides_that_do_not_ascend_are_refused(strides):
    with pytest.raises(ConfigError, match="strides|must ascend"):
        validate_config(HGNetv2Config, {"strides": strides}, origin="test")
