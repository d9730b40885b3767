"""The blocks of CSPDarknet, each against what it should compute."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from handeye.vision.layers.csp_blocks import Bottleneck, CrossStagePartial, Focus, SpatialPyramidPooling, scaled_depth


def test_focus_keeps_every_pixel_in_the_published_order():
    focus = Focus(1, 4)
    focus.conv = nn.Identity()
    image = torch.tensor([[0.0, 1, 2, 3], [4, 5, 6, 7]]).view(1, 1, 2, 4)
    top_left, bottom_left, top_right, bottom_right = [0, 2], [4, 6], [1, 3], [5, 7]
    expected = torch.tensor([[top_left], [bottom_left], [top_right], [bottom_right]], dtype=torch.float32)
    torch.testing.assert_close(focus(image)[0], expected)


@pytest.mark.parametrize("depthwise", [False, True])
def test_shortcut_adds_the_input(depthwise):
    block = Bottleneck(4, shortcut=True, depthwise=depthwise).eval()
    features = torch.randn(1, 4, 5, 5)
    added = block(features)
    block.shortcut = False
    torch.testing.assert_close(added, features + block(features))


def test_half_of_the_channels_pass_by_the_bottlenecks():
    block = CrossStagePartial(6, 8, 2, shortcut=True, depthwise=False).eval()
    features = torch.randn(1, 6, 5, 7)
    main = block.blocks[1](block.blocks[0](block.main(features)))
    expected = block.join(torch.cat((main, block.bypass(features)), dim=1))
    torch.testing.assert_close(block(features), expected)
    assert main.shape == (1, 4, 5, 7)


def test_pyramid_pooling_joins_the_input_and_three_widths_of_maximum():
    block = SpatialPyramidPooling(4, 6)
    joined: list[torch.Tensor] = []
    block.join.register_forward_pre_hook(lambda _, inputs: joined.append(inputs[0]))
    features = torch.randn(1, 4, 20, 24)
    block.eval()(features)
    reduced = block.reduce(features)
    pooled = [functional.max_pool2d(reduced, size, stride=1, padding=size // 2) for size in (5, 9, 13)]
    torch.testing.assert_close(joined[0], torch.cat((reduced, *pooled), dim=1))


@pytest.mark.parametrize(("depth", "expected"), [(0.01, 1), (0.33, 1), (0.5, 2), (1.0, 3), (1.33, 4)])
def test_depth_scales_the_number_of_blocks_and_leaves_one(depth, expected):
    assert scaled_depth(3, depth) == expected
