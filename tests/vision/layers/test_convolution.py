"""Convolution blocks: what they compute, against torch's functional operators."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from handeye.vision.layers.convolution import ConvNormAct, DepthwiseSeparable, spatial_convolution


def randomise_norms(module: torch.nn.Module) -> None:
    """Fresh norms are almost the identity and hide mistakes in eps and order."""
    generator = torch.Generator().manual_seed(3)
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            for values in (part.weight.data, part.bias.data, part.running_mean):
                values.copy_(torch.randn(values.shape, generator=generator))
            part.running_var.copy_(torch.rand(part.running_var.shape, generator=generator) * 0.01)


@pytest.mark.parametrize(("kernel_size", "stride"), [(1, 1), (3, 1), (3, 2), (5, 1)])
def test_block_is_convolution_then_norm_with_eps_1e_3_then_silu(kernel_size, stride):
    block = ConvNormAct(4, 6, kernel_size, stride=stride).eval()
    randomise_norms(block)
    features = torch.randn(2, 4, 8, 12)
    mixed = functional.conv2d(features, block.conv.weight, stride=stride, padding=kernel_size // 2)
    shape = (1, -1, 1, 1)
    mean, spread = block.norm.running_mean.view(shape), (block.norm.running_var.view(shape) + 1e-3).sqrt()
    normed = (mixed - mean) / spread * block.norm.weight.view(shape) + block.norm.bias.view(shape)
    expected = normed * torch.sigmoid(normed)
    torch.testing.assert_close(block(features), expected, rtol=1e-4, atol=1e-4)
    assert block(features).shape == (2, 6, 8 // stride, 12 // stride)


def test_running_statistics_move_by_3_percent_a_step():
    block = ConvNormAct(1, 1, 1).train()
    torch.nn.init.ones_(block.conv.weight)
    block(torch.full((2, 1, 4, 4), 5.0))
    torch.testing.assert_close(block.norm.running_mean, torch.tensor([0.03 * 5.0]))


def test_depthwise_looks_at_each_channel_by_itself():
    block = DepthwiseSeparable(3, 5, 3).eval()
    features = torch.zeros(1, 3, 7, 7)
    features[:, 1] = torch.randn(7, 7)
    quiet = block.depthwise(torch.zeros_like(features))
    answer = block.depthwise(features)
    torch.testing.assert_close(answer[:, [0, 2]], quiet[:, [0, 2]])
    assert not torch.allclose(answer[:, 1], quiet[:, 1])


def test_depthwise_separable_halves_the_size_once():
    assert DepthwiseSeparable(3, 5, 3, stride=2)(torch.zeros(1, 3, 8, 12)).shape == (1, 5, 4, 6)


@pytest.mark.parametrize(("depthwise", "num_weights"), [(False, 9 * 16 * 32), (True, 9 * 16 + 16 * 32)])
def test_spatial_convolution_is_plain_or_separable(depthwise, num_weights):
    block = spatial_convolution(16, 32, 3, depthwise=depthwise)
    kernels = [weight for name, weight in block.named_parameters() if name.endswith("conv.weight")]
    assert sum(kernel.numel() for kernel in kernels) == num_weights
