"""The published YOLOX-nano as one of our detectors, its weights taken from the published ONNX file.

In that file batch norms are folded into the convolutions and the names of these are lost, but the nodes stand in
the order in which the network runs. So the convolutions are matched by order, and batch norms become identities.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch import nn

from handeye.vision.checkpoints.yolox import yolox_config
from handeye.vision.detector import Detector
from handeye.vision.layers.convolution import ConvNormAct


def published_yolox_nano(path: Path) -> Detector:
    """Build the detector; raises ValueError when a convolution has another shape than its counterpart."""
    detector = Detector(yolox_config("nano")).eval()
    graph = onnx.load(path).graph
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = [node for node in graph.node if node.op_type == "Conv"]
    for (conv, norm), node in zip(convolutions_in_order(detector), nodes, strict=True):
        weight, bias = (torch.from_numpy(values[name].copy()) for name in node.input[1:3])
        if weight.shape != conv.weight.shape:
            raise ValueError(f"{node.name}: expected {tuple(conv.weight.shape)}, got {tuple(weight.shape)}")
        conv.weight = nn.Parameter(weight)
        if norm is None:
            conv.bias = nn.Parameter(bias)
        else:
            make_identity(norm, bias)
    return detector


def convolutions_in_order(detector: Detector) -> list[tuple[nn.Conv2d, nn.BatchNorm2d | None]]:
    """Convolutions with their batch norms in the order in which the published network runs them."""
    neck = detector.neck
    parts = [detector.backbone, neck.reduce[1], neck.merge_down[1], neck.reduce[0], neck.merge_down[0]]
    parts += [neck.shrink[0], neck.merge_up[0], neck.shrink[1], neck.merge_up[1]]
    for level in detector.head.levels:
        parts += [level.stem, level.class_branch, level.predict_class]
        parts += [level.box_branch, level.predict_box, level.predict_objectness]
    return [pair for part in parts for pair in in_definition_order(part)]


def in_definition_order(part: nn.Module) -> list[tuple[nn.Conv2d, nn.BatchNorm2d | None]]:
    if isinstance(part, nn.Conv2d):
        return [(part, None)]
    return [(block.conv, block.norm) for block in part.modules() if isinstance(block, ConvNormAct)]


def make_identity(norm: nn.BatchNorm2d, bias: torch.Tensor) -> None:
    """Let a batch norm in eval mode add `bias` and nothing else."""
    norm.weight = nn.Parameter(torch.ones_like(bias))
    norm.bias = nn.Parameter(bias)
    norm.running_mean = torch.zeros_like(bias)
    norm.running_var = torch.full_like(bias, 1 - norm.eps)
