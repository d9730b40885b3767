"""The simple pyramid: shapes, independence of the levels, the order of resizing and norms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from handeye.vision.config import validate_config
from handeye.vision.errors import ConfigError
from handeye.vision.necks.build import build_neck
from handeye.vision.necks.simple_pyramid import ChannelNorm, SimplePyramid, SimplePyramidConfig, build_resize


@pytest.mark.parametrize("strides", [(8, 16, 32), (4, 8, 16, 32), (16,), (4, 32)])
def test_a_level_for_each_stride(strides):
    neck = build_neck(SimplePyramidConfig(out_dim=12, strides=strides), (32,), (16,)).eval()
    assert (neck.channels, neck.strides) == ((12,) * len(strides), strides)
    pyramid = neck([torch.randn(2, 32, 4, 6)])
    assert [tuple(level.shape) for level in pyramid] == [(2, 12, 64 // stride, 96 // stride) for stride in strides]


def test_a_cell_reaches_the_cells_at_its_place():
    torch.manual_seed(0)
    # In double precision: fast convolutions of single precision let the last bits of neighbours leak into a cell.
    neck = SimplePyramid(SimplePyramidConfig(out_dim=8, strides=(4, 8, 16, 32)), (16,), (16,)).double().eval()
    features = torch.randn(1, 16, 8, 8, dtype=torch.float64)
    moved = features.clone()
    moved[0, :, 4, 6] += 1
    for before, after, stride in zip(neck([features]), neck([moved]), neck.strides, strict=True):
        rows, columns = (after - before).abs().sum(dim=1)[0].gt(1e-6).nonzero().unbind(dim=1)
        first, last = 4 * 16 // stride, max((5 * 16 - 1) // stride, 0)
        # The 3 x 3 convolution reaches one cell further.
        assert (rows.min(), rows.max()) == (first - 1, last + 1)
        assert columns.min() == 6 * 16 // stride - 1


def test_the_norm_is_over_the_channels_of_each_cell():
    features = torch.randn(2, 5, 3, 4) * 3 + 1
    normed = ChannelNorm(5, eps=1e-6)(features)
    expected = (features - features.mean(dim=1, keepdim=True)) / features.var(dim=1, correction=0, keepdim=True).sqrt()
    torch.testing.assert_close(normed, expected, rtol=0, atol=1e-4)


def test_only_the_finest_level_has_an_activation():
    kinds = {stride: [type(step) for step in build_resize(16, stride)[0]] for stride in (4, 8, 16, 32)}
    assert kinds[4] == [nn.ConvTranspose2d, ChannelNorm, nn.GELU, nn.ConvTranspose2d]
    assert kinds[8] == [nn.ConvTranspose2d]
    assert kinds[16] == []
    assert kinds[32] == [nn.MaxPool2d]


def test_features_of_other_strides_are_refused():
    for channels, strides in (((8, 16, 32), (8, 16, 32)), ((32,), (32,))):
        with pytest.raises(ConfigError, match="one map of stride 16"):
            build_neck(SimplePyramidConfig(), channels, strides)


@pytest.mark.parametrize("content", [{"strides": [32, 8]}, {"strides": []}, {"strides": [64]}, {"out_dim": 0}])
def test_configurations_that_make_no_pyramid_are_refused(content):
    with pytest.raises(ConfigError, match=next(iter(content))):
        validate_config(SimplePyramidConfig, content, origin="test")
