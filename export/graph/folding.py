"""Fold a detector for inference: batch norms into convolutions, focus and RepVGG blocks into single convolutions.

Exact up to the order of the sums.
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from handeye.vision.detector import Detector
from handeye.vision.layers.convolution import ConvNormAct
from handeye.vision.layers.csp_blocks import Focus, RepBlock
from handeye.vision.layers.frozen_norm import FrozenBatchNorm2d


def fold_for_inference(detector: Detector) -> Detector:
    """A copy in eval mode without batch norms, focus and RepVGG blocks; the detector itself is not changed."""
    folded = copy.deepcopy(detector).eval()
    for block in list(folded.modules()):
        if isinstance(block, ConvNormAct) and isinstance(block.norm, nn.BatchNorm2d | FrozenBatchNorm2d):
            # A frozen norm has the same fields; its annotation in torch is only narrower than its code.
            block.conv = fuse_conv_bn_eval(block.conv, block.norm)  # pyright: ignore[reportArgumentType]
            block.register_module("norm", nn.Identity())
    for parent in list(folded.modules()):
        for name, child in parent.named_children():
            if isinstance(child, Focus):
                setattr(parent, name, fold_focus(child))
            elif isinstance(child, RepBlock):
                setattr(parent, name, fold_rep_block(child))
    return folded


def fold_rep_block(block: RepBlock) -> ConvNormAct:
    """The 3 x 3 and the 1 x 1 convolution of a RepVGG block as one 3 x 3, whether their norms are folded or not."""
    kernel, bias = block.fused_kernel()
    folded = ConvNormAct(kernel.shape[1], kernel.shape[0], 3)
    conv = nn.Conv2d(kernel.shape[1], kernel.shape[0], 3, padding=1, device="meta")
    conv.weight = nn.Parameter(kernel.detach(), requires_grad=False)
    conv.bias = nn.Parameter(bias.detach(), requires_grad=False)
    folded.conv = conv
    folded.register_module("norm", nn.Identity())
    folded.activation = block.activation
    return folded.eval()


def fold_focus(focus: Focus) -> ConvNormAct:
    """The focus block as a 6 x 6 convolution of stride 2 on the image itself.

    Its 3 x 3 kernel sees 2 x 2 pixels as four channels (top-left, bottom-left, top-right, bottom-right), so each tap
    spreads over 2 x 2 pixels, and one cell of padding becomes two pixels. A stride of 2 over slices is slow in every
    engine: this is about a tenth of YOLOX-nano's time. Raises ValueError unless the batch norm is folded already.
    """
    block, narrow = focus.conv, focus.conv.conv
    if not isinstance(block.norm, nn.Identity) or narrow.bias is None:
        raise ValueError("expected the batch norm of the focus block to be folded first")
    channels = narrow.in_channels // 4
    wide = nn.Conv2d(channels, narrow.out_channels, 6, stride=2, padding=2, dtype=narrow.weight.dtype)
    kernel = torch.zeros_like(wide.weight)
    for quarter, (row, column) in enumerate(((0, 0), (1, 0), (0, 1), (1, 1))):
        kernel[:, :, row::2, column::2] = narrow.weight[:, quarter * channels : (quarter + 1) * channels]
    wide.weight = nn.Parameter(kernel.detach(), requires_grad=False)
    wide.bias = nn.Parameter(narrow.bias.detach().clone(), requires_grad=False)
    folded = copy.deepcopy(block)
    folded.conv = wide
    return folded.eval()
