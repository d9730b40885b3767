"""YOLO v1 to v5 as ONNX: the decoding of every version lies in the graph and ONNX Runtime agrees with torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from handeye.export.graph.onnx_export import export_onnx
from handeye.vision.detector import Detector, DetectorConfig


def loud_detector(version: str) -> Detector:
    """A tiny detector for 64 x 96 whose scores and boxes differ from row to row."""
    is_coarse = version in ("v1", "v2")
    torch.manual_seed(3)
    detector = Detector(
        DetectorConfig.model_validate(
            {
                "backbone": {"kind": "cspdarknet", "width": 0.125},
                "neck": {"kind": "levels"} if is_coarse else {"kind": "path_aggregation"},
                "head": {"kind": "yolo_grid", "version": version, "hidden_dim": 8},
                "num_classes": 3,
                "preprocessing": {"size_hw": [64, 96]},
            }
        )
    )
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # one batch in training mode sets the statistics: no signal fades or explodes
    for level in detector.head.levels:
        for convolution in (level.predict_box, level.predict_objectness, level.predict_class):
            nn.init.kaiming_normal_(convolution.weight)
            nn.init.zeros_(convolution.bias)
        nn.init.normal_(level.predict_box.weight, 0, 0.1)  # of huge sizes single precision keeps few digits
    with torch.no_grad():
        detector.train()(some_images(2))
    return detector.eval()


def some_images(num_images: int) -> torch.Tensor:
    return torch.rand(num_images, 3, 64, 96, generator=torch.Generator().manual_seed(0)) * 255


@pytest.mark.parametrize(
    "version", ["v3", *(pytest.param(v, marks=pytest.mark.slow) for v in ("v1", "v2", "v4", "v5"))]
)
def test_onnx_runtime_computes_what_torch_computes(version: str, tmp_path: Path) -> None:
    detector = loud_detector(version)
    path = tmp_path / f"{version}.onnx"
    manifest = export_onnx(detector, path)
    assert manifest.output.kind == "yolox_rows"
    assert manifest.output.decoded
    images = some_images(1)
    with torch.inference_mode():
        expected = detector(images).rows.numpy()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (rows,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    np.testing.assert_allclose(rows[..., :4], expected[..., :4], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(rows[..., 4:], expected[..., 4:], rtol=0, atol=1e-3)
    assert np.ptp(expected[..., 4]) > 0.1, "with constant scores the comparison would prove nothing"
