"""RepVGG blocks: the one convolution equals the two, and the cross-stage block adds what it splits."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from handeye.vision.layers.csp_blocks import RepBlock, RepCrossStage


def with_experience(module: nn.Module, channels: int) -> nn.Module:
    """The module in eval mode, its norms having seen something and their weights not being those they start with."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias)
    module.train()(3 * torch.randn(4, channels, 9, 9) + 1)
    return module.eval()


@pytest.mark.parametrize("activation", ["silu", "relu", "none"])
def test_one_convolution_computes_what_the_two_compute(activation):
    torch.manual_seed(0)
    block = with_experience(RepBlock(6, 10, activation=activation), 6).double()
    assert isinstance(block, RepBlock)
    features = torch.randn(2, 6, 7, 5, dtype=torch.float64)
    both = block.activation(block.spatial(features) + block.mix(features))
    kernel, bias = block.fused_kernel()
    fused = block.activation(functional.conv2d(features, kernel, bias, padding=1))
    torch.testing.assert_close(fused, both, rtol=0, atol=1e-5)
    torch.testing.assert_close(block(features), both, rtol=0, atol=1e-5)


def test_both_ways_have_the_same_gradients():
    torch.manual_seed(0)
    block = with_experience(RepBlock(3, 4), 3).double()
    assert isinstance(block, RepBlock)
    features = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    ways = block(features), block.activation(block.spatial(features) + block.mix(features))
    gradients = [torch.autograd.grad(way.square().sum(), list(block.parameters())) for way in ways]
    for fused, separate in zip(*gradients, strict=True):
        torch.testing.assert_close(fused, separate)


def test_training_takes_the_statistics_of_the_batch():
    torch.manual_seed(0)
    block = RepBlock(3, 4, activation="none").train()
    found = block(5 * torch.randn(8, 3, 6, 6) + 2)
    torch.testing.assert_close(found.mean(dim=(0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-5)


def test_the_fused_kernel_of_a_block_by_hand():
    block = RepBlock(1, 1, activation="none").eval()
    nn.init.constant_(block.spatial.conv.weight, 2.0)
    nn.init.constant_(block.mix.conv.weight, 3.0)
    block.spatial.norm.running_var.fill_(4.0 - 1e-5)  # a standard deviation of 2
    block.mix.norm.running_mean.fill_(1.0)
    kernel, bias = block.fused_kernel()
    expected = torch.ones(1, 1, 3, 3)
    expected[0, 0, 1, 1] += 3.0
    torch.testing.assert_close(kernel, expected, rtol=0, atol=2e-5)
    torch.testing.assert_close(bias, torch.tensor([-1.0]), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("expansion", "joins"), [(1.0, False), (0.5, True)])
def test_the_cross_stage_block_adds_its_two_ways(expansion, joins):
    torch.manual_seed(0)
    block = with_experience(RepCrossStage(8, 12, 2, expansion=expansion), 8)
    assert isinstance(block, RepCrossStage)
    features = torch.randn(1, 8, 6, 4)
    both = block.blocks[1](block.blocks[0](block.main(features))) + block.bypass(features)
    assert both.shape[1] == 12 * expansion
    assert isinstance(block.join, nn.Identity) is not joins
    torch.testing.assert_close(block(features), block.join(both))
    assert block(features).shape == (1, 12, 6, 4)
