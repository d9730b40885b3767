"""Path aggregation: shapes stay, and every level hears of every other."""

from __future__ import annotations

import pytest
import torch

from handeye.vision.necks.build import build_neck
from handeye.vision.necks.path_aggregation import PathAggregation, PathAggregationConfig


def pyramid_of(channels, size_hw, num_images=1):
    return [
        torch.randn(num_images, width, size_hw[0] >> level, size_hw[1] >> level).requires_grad_()
        for level, width in enumerate(channels)
    ]


@pytest.mark.parametrize("channels", [(8, 16, 32), (8, 8, 8), (4, 12), (6, 10, 14, 18)])
@pytest.mark.parametrize("depthwise", [False, True])
def test_the_pyramid_has_the_shapes_of_the_features(channels, depthwise):
    neck = build_neck(PathAggregationConfig(depthwise=depthwise), channels, (8, 16, 32)).eval()
    features = pyramid_of(channels, (16, 24))
    assert neck.channels == channels
    assert [level.shape for level in neck(features)] == [level.shape for level in features]


@pytest.mark.parametrize("level", range(3))
def test_every_level_depends_on_every_feature(level):
    features = pyramid_of((8, 16, 32), (16, 16))
    PathAggregation(PathAggregationConfig(), (8, 16, 32), (8, 16, 32)).eval()(features)[level].sum().backward()
    for feature in features:
        assert feature.grad is not None
        assert feature.grad.abs().sum() > 0


@pytest.mark.parametrize(("depth", "num_blocks"), [(0.1, 1), (0.33, 1), (0.67, 2), (1.0, 3), (1.33, 4)])
def test_depth_scales_the_merging_blocks(depth, num_blocks):
    neck = PathAggregation(PathAggregationConfig(depth=depth), (4, 8, 16), (8, 16, 32))
    assert {len(block.blocks) for block in (*neck.merge_down, *neck.merge_up)} == {num_blocks}
    assert not any(block.blocks[0].shortcut for block in (*neck.merge_down, *neck.merge_up))
