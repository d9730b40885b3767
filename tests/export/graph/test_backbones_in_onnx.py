"""Backbones with attention or affine blocks as ONNX graphs: torch's maps, square and wide, no dynamic shapes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from handeye.export.graph.onnx_export import OPSET, simplify
from handeye.vision.backbones.hgnetv2 import HGNetv2, HGNetv2Config
from handeye.vision.backbones.swin import Swin, SwinConfig
from handeye.vision.backbones.vit import ViT, ViTConfig
from handeye.vision.necks.simple_pyramid import SimplePyramid, SimplePyramidConfig


def hgnetv2() -> nn.Module:
    return HGNetv2(HGNetv2Config(affine=True))


def swin() -> nn.Module:
    return Swin(SwinConfig(blocks_per_stage=(2, 1, 1, 1)))


def vit_with_pyramid() -> nn.Module:
    backbone = ViT(ViTConfig(depth=2, window=7, global_blocks=(1,)))
    config = SimplePyramidConfig(out_dim=32, strides=(4, 8, 16, 32))
    return nn.Sequential(backbone, SimplePyramid(config, backbone.channels, backbone.strides))


def loud(network: nn.Module) -> nn.Module:
    """Batch norms that have seen something, so that the maps are not almost zero."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 2.0, 4.0)
            nn.init.normal_(module.bias, 0, 0.2)
    return network.eval()


def exported(network: nn.Module, images: Tensor, path: Path) -> onnx.ModelProto:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (images,), str(path), opset_version=OPSET, input_names=["images"], dynamo=False)
    model = simplify(onnx.load(path))
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.mark.parametrize(
    ("build", "size_hw"),
    [
        (hgnetv2, (256, 384)),
        (swin, (256, 384)),
        pytest.param(vit_with_pyramid, (256, 384), marks=pytest.mark.slow),
        *(pytest.param(build, (320, 320), marks=pytest.mark.slow) for build in (hgnetv2, swin, vit_with_pyramid)),
    ],
)
def test_the_graph_computes_what_torch_computes(build: Callable[[], nn.Module], size_hw, tmp_path: Path):
    network, images = loud(build()), torch.rand(1, 3, *size_hw, generator=torch.Generator().manual_seed(1))
    model = exported(network, images, tmp_path / "network.onnx")
    assert not {"Shape", "If", "Loop", "NonZero"} & {node.op_type for node in model.graph.node}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = network(images)
    for ours, theirs in zip(expected, session.run(None, {"images": images.numpy()}), strict=True):
        torch.testing.assert_close(torch.from_numpy(theirs), ours, rtol=0, atol=1e-4 * float(ours.std()))
