"""Folding changes the operations, not the function, and leaves the detector alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from handeye.export.graph.folding import fold_focus, fold_for_inference, fold_rep_block
from handeye.vision.detector import Detector
from handeye.vision.layers.csp_blocks import Focus, RepBlock


def test_the_folded_detector_computes_the_same_to_rounding(detector: Detector):
    torch.manual_seed(0)
    images = torch.rand(2, 3, 96, 128, dtype=torch.float64) * 255
    precise = copy.deepcopy(detector).double()
    with torch.no_grad():
        expected, folded = precise(images).raw, fold_for_inference(precise)(images).raw
    assert expected.std(dim=1).max() > 1
    torch.testing.assert_close(folded, expected, rtol=1e-9, atol=1e-9)


def test_no_batch_norm_and_no_focus_block_remain(detector: Detector):
    folded = fold_for_inference(detector)
    kinds = {type(module) for module in folded.modules()}
    assert not kinds & {nn.BatchNorm2d, Focus}
    assert sum(isinstance(module, nn.BatchNorm2d) for module in detector.modules()) > 50
    assert any(isinstance(module, Focus) for module in detector.modules())


@pytest.mark.parametrize("size", [(2, 2), (6, 10), (32, 64)])
def test_the_focus_block_is_one_convolution_also_at_the_border(size: tuple[int, int]):
    torch.manual_seed(1)
    focus = Focus(3, 8).eval()
    block = focus.conv
    block.conv.bias = nn.Parameter(torch.randn(8))
    block.register_module("norm", nn.Identity())
    focus.double()
    images = torch.randn(1, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(fold_focus(focus)(images), focus(images), rtol=1e-9, atol=1e-9)


def test_an_unfolded_batch_norm_is_refused():
    with pytest.raises(ValueError, match="folded first"):
        fold_focus(Focus(3, 8))


@pytest.mark.parametrize("norms_first", [False, True])
def test_a_rep_block_is_one_convolution_also_at_the_border(norms_first: bool):
    torch.manual_seed(1)
    block = RepBlock(6, 10).train()
    for part in (block.spatial, block.mix):
        nn.init.uniform_(part.norm.weight, 0.5, 1.5)
        nn.init.normal_(part.norm.bias)
    block(3 * torch.randn(4, 6, 9, 9) + 1)
    block.eval()
    features = torch.randn(2, 6, 7, 5)
    with torch.no_grad():
        expected = block.activation(block.spatial(features) + block.mix(features))
        before = fold_batch_norms(block) if norms_first else block
        folded = fold_rep_block(before)
        torch.testing.assert_close(folded(features), expected, rtol=0, atol=1e-5)
    assert [type(module) for module in folded.modules()].count(nn.Conv2d) == 1


def fold_batch_norms(block: RepBlock) -> RepBlock:
    """As folding does it before it comes to the blocks."""
    folded = copy.deepcopy(block)
    for part in (folded.spatial, folded.mix):
        part.conv = torch.nn.utils.fusion.fuse_conv_bn_eval(part.conv, part.norm)
        part.register_module("norm", nn.Identity())
    return folded
