"""The blocks of D-FINE's neck: shapes, paths, and counts by hand."""

from __future__ import annotations

import pytest
import torch

from handeye.vision.layers.csp_blocks import DecoupledShrink, RepElan


@pytest.mark.parametrize(("hidden", "num_blocks"), [(3, 1), (5, 2)])
def test_channels_change_and_places_stay(hidden, num_blocks):
    block = RepElan(12, 7, hidden, num_blocks).eval()
    assert block(torch.randn(2, 12, 5, 6)).shape == (2, 7, 5, 6)
    assert block.join.conv.in_channels == 12 + 2 * hidden
    assert [len(stage.block.blocks) for stage in block.stages] == [num_blocks, num_blocks]


def test_every_path_reaches_the_end():
    block = RepElan(4, 6, 3, 1).eval()
    weight = block.join.conv.weight
    block(torch.randn(1, 4, 5, 5)).sum().backward()
    # Two channels of each half, then three of each stage.
    assert (weight.grad.abs().sum(dim=(0, 2, 3)) > 0).all()


def test_the_first_half_is_not_touched_by_the_stages():
    torch.manual_seed(0)
    block = RepElan(4, 6, 3, 1).eval()
    joined = []
    block.join.register_forward_hook(lambda _, inputs, __: joined.append(inputs[0]))
    features = torch.randn(1, 4, 5, 5)
    block(features)
    torch.testing.assert_close(joined[0][:, :4], block.split(features))


@pytest.mark.parametrize(("size", "half"), [((8, 6), (4, 3)), ((7, 5), (4, 3))])
def test_shrinking_halves_and_is_linear(size, half):
    torch.manual_seed(0)
    shrink = DecoupledShrink(6).double().eval()
    first, second = torch.randn(2, 1, 6, *size, dtype=torch.float64)
    assert shrink(first).shape == (1, 6, *half)
    torch.testing.assert_close(shrink(first) + shrink(second), shrink(first + second) + shrink(0 * first))
    # 6 x 6 weights across channels, 3 x 3 for each channel, and two norms.
    assert sum(weight.numel() for weight in shrink.parameters()) == 36 + 54 + 24
