"""Every architecture learns eight real images by heart, by the command that a user would type."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from handeye.tools.command_line import run_command

CONFIG = Path(__file__).resolve().parents[3] / "configs/detector/eight_images.yaml"
IMAGE_IDS = (84533, 89232, 133030, 172123, 213148, 281789, 353072, 420862)
"""Of coco_mini: one to four objects each, of ten classes, none of them tiny."""

QUERIES = "hidden_dim: 64, num_heads: 4, feed_forward_dim: 128"
ENCODER = f"kind: hybrid_encoder, {QUERIES}, expansion: 0.5, depth: 0.34"
DECODER = f"{QUERIES}, num_queries: 50, num_decoder_layers: 2, num_denoising: 20"
OVERRIDES = {
    "YOLO v1": [
        "detector.neck={kind: levels}",
        "detector.head={kind: yolo_grid, version: v1, hidden_dim: 64}",
        "detector.preprocessing.size_hw=[224,224]",
    ],
    "YOLO v2": [
        "detector.neck={kind: levels}",
        "detector.head={kind: yolo_grid, version: v2, hidden_dim: 64}",
        "detector.preprocessing.size_hw=[224,224]",
    ],
    "YOLO v3": ["detector.head={kind: yolo_grid, version: v3}"],
    "YOLO v5": ["detector.head={kind: yolo_grid, version: v5}"],
    "YOLOX": [],
    "DETR": [
        "detector.neck={kind: levels}",
        "detector.head={kind: detr, hidden_dim: 64, num_heads: 4, feed_forward_dim: 128, num_queries: 20, "
        "num_encoder_layers: 1, num_decoder_layers: 3, dropout: 0.0}",
        "optimizer.lr=0.001",
        "epochs=300",
    ],
    "RT-DETRv2": [
        f"detector.neck={{{ENCODER}}}",
        f"detector.head={{kind: rtdetr, {DECODER}}}",
        "optimizer.lr=0.001",
    ],
    "D-FINE": [
        f"detector.neck={{{ENCODER}, blocks: dfine}}",
        f"detector.head={{kind: dfine, {DECODER}}}",
        "optimizer.lr=0.001",
    ],
}


@pytest.fixture
def eight(shared, tmp_path: Path) -> list[str]:
    """The images as options of `handeye train`."""
    content = json.loads(shared("data/coco_mini/annotations/instances_train2017.json").read_text())
    content["images"] = [image for image in content["images"] if image["id"] in IMAGE_IDS]
    content["annotations"] = [box for box in content["annotations"] if box["image_id"] in IMAGE_IDS]
    assert len(content["images"]) == 8
    path = tmp_path / "eight.json"
    path.write_text(json.dumps(content))
    images = str(shared("data/coco_mini/train2017"))
    return ["--data.annotations", str(path), "--data.val-annotations", str(path), "--data.images", images]


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.long  # the slow tests have drawn images learnt by heart: of YOLOX in test_train_detector
@pytest.mark.parametrize("name", OVERRIDES)
def test_an_architecture_learns_eight_images_by_heart(name: str, eight: list[str], one_thread, tmp_path: Path):
    output = ["--output", str(tmp_path / "run"), "--json", str(tmp_path / "result.json")]
    assert run_command(["train", str(CONFIG), *OVERRIDES[name], *eight, *output]) == 0
    best = json.loads((tmp_path / "result.json").read_text())["best"]
    assert best["metric"] == "AP50"
    assert best["value"] >= 0.9
