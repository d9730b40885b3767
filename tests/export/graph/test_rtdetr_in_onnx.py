"""RT-DETRv2 as ONNX: the graph agrees with torch, whatever the shape of the input, and reads points by index."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from handeye.export.graph.folding import fold_for_inference
from handeye.export.graph.onnx_export import export_onnx
from handeye.vision.config import validate_config
from handeye.vision.detector import Detector, DetectorConfig
from handeye.vision.layers.convolution import ConvNormAct
from handeye.vision.layers.csp_blocks import RepBlock
from tests.export.clear_choice import clear_images


def small_rtdetr(size_hw: tuple[int, int], sampling: str = "gather") -> Detector:
    """A few hundred thousand weights, loud enough that boxes and scores differ, with norms that have seen something."""
    content = {
        "backbone": {"kind": "resnet", "depth": 18, "variant": "vd", "blocks_per_stage": [1, 1, 1, 1]},
        "neck": {"kind": "hybrid_encoder", "hidden_dim": 32, "feed_forward_dim": 40, "num_heads": 4, "expansion": 0.5},
        "head": {
            "kind": "rtdetr",
            "hidden_dim": 32,
            "num_heads": 4,
            "num_decoder_layers": 2,
            "feed_forward_dim": 40,
            "num_queries": 30,
            "sampling": sampling,
        },
        "num_classes": 4,
        "preprocessing": {"size_hw": list(size_hw), "resize": "stretch", "colour": "rgb", "scale": 1 / 255},
    }
    torch.manual_seed(0)
    detector = Detector(validate_config(DetectorConfig, content, origin="test")).train()
    for name, weight in detector.head.named_parameters():
        if "predict" in name:
            nn.init.normal_(weight, std=0.3)
    with torch.no_grad():
        for _ in range(3):
            detector(torch.rand(2, 3, 64, 64))
    return detector.eval()


@pytest.mark.parametrize("size_hw", [pytest.param((320, 320), marks=pytest.mark.slow), (256, 384)])
def test_the_graph_agrees_with_torch_and_needs_no_grid_sample(tmp_path, size_hw):
    detector = small_rtdetr(size_hw)
    path = tmp_path / "rtdetr.onnx"
    export_onnx(detector, path)
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert "GridSample" not in kinds
    assert "BatchNormalization" not in kinds
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    images = clear_images(detector, size_hw)
    with torch.no_grad():
        expected = detector(images).rows.numpy()[0]
    rows = session.run(None, {session.get_inputs()[0].name: images.numpy()})[0][0]
    assert expected[:, 4:].std() > 0.05
    # Queries are a set: rounding may exchange near ties, so each row is compared with the one nearest to it.
    nearest = np.abs(rows[:, None] - expected[None]).max(axis=-1).argmin(axis=0)
    assert len(set(nearest)) == len(expected)
    np.testing.assert_allclose(rows[nearest], expected, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_grid_sample_is_written_where_the_configuration_asks_for_it(tmp_path):
    export_onnx(small_rtdetr((64, 64), sampling="grid_sample"), tmp_path / "rtdetr.onnx")
    assert "GridSample" in {node.op_type for node in onnx.load(tmp_path / "rtdetr.onnx").graph.node}


def test_folding_leaves_the_function_and_no_rep_block():
    detector = small_rtdetr((64, 64))
    folded = fold_for_inference(detector)
    assert any(isinstance(module, RepBlock) for module in detector.modules())
    assert not any(isinstance(module, RepBlock | nn.BatchNorm2d) for module in folded.modules())
    assert all(module.conv.bias is not None for module in folded.modules() if isinstance(module, ConvNormAct))
    images = torch.rand(2, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        # In double precision, where rounding exchanges no queries.
        torch.testing.assert_close(folded.double()(images).rows, detector.double()(images).rows, rtol=0, atol=1e-5)
