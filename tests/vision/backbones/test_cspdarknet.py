"""CSPDarknet: it keeps what it promises about channels and strides, at every size."""

from __future__ import annotations

import pytest
import torch

from handeye.vision.backbones.build import build_backbone
from handeye.vision.backbones.cspdarknet import CSPDarknet, CSPDarknetConfig


@pytest.mark.parametrize(
    ("width", "depthwise", "size_hw"), [(0.125, True, (64, 96)), (0.375, False, (96, 32)), (0.5, False, (32, 32))]
)
def test_features_have_the_promised_channels_and_strides(width, depthwise, size_hw):
    backbone = build_backbone(CSPDarknetConfig(width=width, depthwise=depthwise)).eval()
    features = backbone(torch.zeros(2, 3, *size_hw))
    assert [tuple(level.shape) for level in features] == [
        (2, channels, size_hw[0] // stride, size_hw[1] // stride)
        for channels, stride in zip(backbone.channels, backbone.strides, strict=True)
    ]


@pytest.mark.parametrize(
    ("depth", "blocks"), [(0.33, [1, 3, 3, 1]), (0.67, [2, 6, 6, 2]), (1.0, [3, 9, 9, 3]), (1.33, [4, 12, 12, 4])]
)
def test_depth_of_the_published_sizes(depth, blocks):
    backbone = CSPDarknet(CSPDarknetConfig(depth=depth, width=0.125, depthwise=True))
    assert [len(stage.block.blocks) for stage in backbone.stages] == blocks


def test_only_the_coarsest_stage_pools_and_has_no_shortcuts():
    backbone = CSPDarknet(CSPDarknetConfig(width=0.125))
    assert [isinstance(stage.pooling, torch.nn.Identity) for stage in backbone.stages] == [True, True, True, False]
    assert [stage.block.blocks[0].shortcut for stage in backbone.stages] == [True, True, True, False]
