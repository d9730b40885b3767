"""RT-DETRv2 r18 in TensorRT's 8-bit form: a valid graph, attention in float, and as near to float as noise lets it be.

The weights are random, so the error of each of some sixty layers in a row adds to the next and the choice of queries
is a toss-up: what is measured is how much of the features survives, beside the plain recipe.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from handeye.export.graph.graph_index import GraphIndex
from handeye.export.graph.onnx_export import export_onnx, write_onnx
from handeye.export.graph.operator_support import find_unsupported
from handeye.export.measurement import ImageSet
from handeye.export.quantization.calibration import MinMaxRule, SquaredErrorRule, tensor_values
from handeye.export.quantization.int8_recipe import PLAIN, Int8Config, make_int8
from handeye.export.quantization.qdq_linter import lint_for_tensorrt
from handeye.vision.checkpoints.rtdetr import rtdetr_config
from handeye.vision.detector import Detector, DetectorConfig
from handeye.vision.images import preprocess, read_image
from handeye.vision.runtime.image_detector import ImageDetector

RECIPE = Int8Config(rules=(SquaredErrorRule(),), allowed_loss=1.0)
DEEPEST = "/detector/backbone/stages.3/stages.3.1/layers/layers.1/conv/Conv"
SIDE = 256


def random_r18(images: list[Path]) -> Detector:
    """The published architecture; its norms have seen the images, so that numbers neither vanish nor grow."""
    config = rtdetr_config(2, "r18vd").model_dump()
    config["preprocessing"]["size_hw"] = (SIDE, SIDE)
    torch.manual_seed(0)
    detector = Detector(DetectorConfig.model_validate(config)).train()
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain mean of what was seen
    for name, weight in detector.head.named_parameters():
        if "predict" in name and weight.ndim > 1:
            nn.init.normal_(weight, std=0.1)
    batch = np.stack([preprocess(read_image(path), detector.config.preprocessing)[0] for path in images])
    with torch.no_grad():
        detector(torch.from_numpy(batch))
    return detector.eval()


@pytest.mark.slow
def test_the_graph_is_valid_and_near_to_float(shared, tmp_path: Path):
    paths = sorted(shared("data/coco_mini/train2017").iterdir())
    manifest = export_onnx(random_r18(paths[:4]), tmp_path / "r18.onnx")
    model, images = onnx.load(tmp_path / "r18.onnx"), ImageSet(dict(enumerate(paths[:4])), None)
    ours, plain = (make_int8(model, manifest, images, recipe) for recipe in (RECIPE, PLAIN))
    assert PLAIN.rules == (MinMaxRule(),)
    assert lint_for_tensorrt(ours.model, ours.keep_float) == []
    assert find_unsupported(ours.model) == []
    assert set(ours.pinned.values()) == {"stem", "attention", "prediction"}
    assert ours.num_layers - len(ours.keep_float) >= 80

    (deepest,) = (node.output[0] for node in GraphIndex(model.graph).layers() if node.name == DEEPEST)
    seen = list(ImageSet(dict(enumerate(paths[20:22])), None).inputs(manifest.preprocessing))
    expected, got, plainly = (
        np.stack([values[0] for values in tensor_values(graph, [deepest], seen)])
        for graph in (model, ours.model, plain.model)
    )
    noise, plain_noise = ((other - expected).std() / expected.std() for other in (got, plainly))
    assert noise < 0.3
    assert noise < 0.85 * plain_noise

    write_onnx(tmp_path / "r18.int8.onnx", ours.model, manifest)
    rows = ImageDetector.load(tmp_path / "r18.int8.onnx", engine="onnxruntime").raw_rows(read_image(paths[20]))
    assert rows.shape == (300, 84)
    assert rows.min() >= 0
    assert rows.max() <= 1
