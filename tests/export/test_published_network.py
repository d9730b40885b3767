"""The published YOLOX-nano through our detector and our export: the same rows as the published file, the same AP."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from handeye.export.graph.nms_in_graph import nms_in_graph
from handeye.export.graph.onnx_export import export_onnx, write_onnx
from handeye.tools.command_line import run_command
from handeye.vision.checkpoints.native import save_detector
from handeye.vision.evaluation.torch_session import TorchSession
from handeye.vision.images import preprocess, read_image
from handeye.vision.runtime.decode import decode_boxes, grid_cells
from handeye.vision.runtime.engines import EngineName, open_session
from handeye.vision.runtime.image_detector import ImageDetector
from tests.export.published_network import published_yolox_nano

MODEL = "data/yolox_nano_coco/yolox_nano.onnx"


def test_our_detector_computes_what_the_published_file_computes(shared):
    detector = published_yolox_nano(shared(MODEL))
    session = open_session(shared(MODEL), "onnxruntime", num_threads=1)
    image = read_image(shared("data/coco_mini/val2017/000000000139.jpg"))
    values = preprocess(image, detector.config.preprocessing)[0][None]
    published = session.run({"images": values})["output"][0]
    ours = TorchSession(detector).run({"images": values})["rows"][0]
    np.testing.assert_allclose(ours[:, 4:], published[:, 4:], atol=1e-4)
    boxes = decode_boxes(published[:, :4], *grid_cells((416, 416), (8, 16, 32)))
    np.testing.assert_allclose(ours[:, :4], boxes, atol=0.05)
    assert ours[:, 4].max() > 0.5


@pytest.mark.slow
def test_its_export_has_the_published_ap_in_every_engine(shared, tmp_path: Path):
    checkpoint = tmp_path / "yolox_nano.safetensors"
    save_detector(checkpoint, published_yolox_nano(shared(MODEL)))
    annotations = shared("data/coco_mini/annotations/instances_val2017.json")
    data = ["--annotations", str(annotations), "--images", str(shared("data/coco_mini/val2017"))]
    data += ["--protocol", "published"]
    result = tmp_path / "r.json"
    assert run_command(["export", str(checkpoint), "--output", str(tmp_path), *data, "--json", str(result)]) == 0
    exported = json.loads(result.read_text())
    assert exported["AP"]["float32"] == pytest.approx(0.339, abs=0.001)
    assert exported["parity"]["float32"] < 2e-4
    # The export measured its AP in the engine that auto takes, OpenVINO; here are ONNX Runtime and torch.
    for model, engine in (("onnx", "onnxruntime"), ("safetensors", "auto")):
        words = ["evaluate", str(tmp_path / f"yolox_nano.{model}"), "--engine", engine, *data, "--json", str(result)]
        assert run_command(words) == 0
        assert json.loads(result.read_text())["AP"] == pytest.approx(0.339, abs=0.001)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_nms_in_the_graph_finds_the_same_in_real_images(shared, tmp_path: Path, engine: EngineName):
    manifest = export_onnx(published_yolox_nano(shared(MODEL)), tmp_path / "outside.onnx", score_threshold=0.05)
    write_onnx(tmp_path / "inside.onnx", *nms_in_graph(onnx.load(tmp_path / "outside.onnx"), manifest))
    paths = sorted(shared("data/coco_mini/val2017").iterdir())
    outside, inside = (
        ImageDetector.load(tmp_path / f"{name}.onnx", engine=engine, num_threads=1) for name in ("outside", "inside")
    )
    total = 0
    for image in map(read_image, paths):
        expected, got = outside(image), inside(image)
        np.testing.assert_array_equal(got.class_ids, expected.class_ids)
        np.testing.assert_allclose(got.scores, expected.scores, atol=1e-5)
        np.testing.assert_allclose(got.boxes_xyxy, expected.boxes_xyxy, atol=0.01)
        total += len(got.scores)
    assert total > 4 * len(paths)
