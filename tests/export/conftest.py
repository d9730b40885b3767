"""A small detector whose random weights are loud enough that differences show."""

from __future__ import annotations

import onnx
import pytest
import torch
from torch import nn

from handeye.export.graph.onnx_export import export_onnx
from handeye.vision.checkpoints.yolox import yolox_config
from handeye.vision.detector import Detector, DetectorConfig
from handeye.vision.images import Preprocessing
from handeye.vision.runtime.manifest import Manifest

NAMES = ("red_cube", "green_cube", "blue_cube", "yellow_cube")


@pytest.fixture(scope="session")
def detector() -> Detector:
    """YOLOX-nano for four classes at 96 x 128, with lively batch norms and scores across the whole range."""
    config = yolox_config("nano", NAMES).model_dump() | {"preprocessing": Preprocessing(size_hw=(96, 128)).model_dump()}
    torch.manual_seed(5)
    detector = Detector(DetectorConfig.model_validate(config)).eval()
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.8, 1.6)
            nn.init.normal_(module.bias, 0, 0.2)
    for level in detector.head.levels:
        nn.init.normal_(level.predict_objectness.weight, 0, 1.0)
        nn.init.normal_(level.predict_class.weight, 0, 1.0)
        nn.init.normal_(level.predict_box.weight, 0, 0.3)
        nn.init.zeros_(level.predict_objectness.bias)
        nn.init.zeros_(level.predict_class.bias)
    return detector


@pytest.fixture(scope="session")
def float_model(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> tuple[onnx.ModelProto, Manifest]:
    """The same as a graph, with its manifest. Not to be changed."""
    path = tmp_path_factory.mktemp("float") / "cubes.onnx"
    manifest = export_onnx(detector, path)
    return onnx.load(path), manifest
