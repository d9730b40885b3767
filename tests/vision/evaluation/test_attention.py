"""Where queries looked: the head's own maps, laid over the image; models that cannot show it are errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from handeye.vision.checkpoints.native import save_detector
from handeye.vision.config import validate_config
from handeye.vision.detector import Detector, DetectorConfig
from handeye.vision.errors import UserError
from handeye.vision.evaluation.torch_session import AttentionMaps, TorchSession, detector_manifest, open_detector
from handeye.vision.images import preprocess
from handeye.vision.runtime.image_detector import ImageDetector
from tests.vision.runtime.tiny_models import empty_rows, write_model

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 96, 3), dtype=np.uint8)
"""Wider than the square input: letterboxed, its lower part is padding."""


def tiny_detector(head: dict[str, object]) -> Detector:
    torch.manual_seed(0)
    content = {
        "backbone": {"kind": "cspdarknet", "depth": 0.33, "width": 0.125},
        "neck": {"kind": "levels", "num_levels": 1 if head["kind"] == "detr" else 3},
        "head": head,
        "num_classes": 3,
        "preprocessing": {"size_hw": [128, 128]},
    }
    return Detector(validate_config(DetectorConfig, content, origin="test")).eval()


@pytest.fixture(scope="module")
def detr() -> Detector:
    sizes = {"hidden_dim": 16, "num_heads": 2, "feed_forward_dim": 16, "num_queries": 7}
    return tiny_detector({"kind": "detr", "num_encoder_layers": 1, "num_decoder_layers": 2, **sizes})


def test_the_map_of_a_detection_is_that_of_its_query(detr: Detector, tmp_path: Path):
    path = tmp_path / "detr.safetensors"
    save_detector(path, detr)
    opened = open_detector(path, score_threshold=0.0)
    found = opened(IMAGE)
    assert len(found) == 7
    maps = AttentionMaps(opened)(IMAGE, opened.row_index)
    assert maps.shape == (7, 40, 96)
    np.testing.assert_allclose(maps.reshape(7, -1).min(axis=1), 0, atol=1e-6)
    np.testing.assert_allclose(maps.reshape(7, -1).max(axis=1), 1, atol=1e-6)
    values, transform = preprocess(IMAGE, detr.config.preprocessing)
    with torch.no_grad():
        cells = detr.head.attention_maps(detr.neck(detr.backbone(torch.from_numpy(values)[None])))[0].numpy()
    # The centres of rows 0 and 1, columns 0 to 3 lie at input (16, 48, 80, 112) x (16, 48): image x and y below.
    assert transform.scale_x == pytest.approx(128 / 96)
    for map_, query in zip(maps, opened.row_index, strict=True):
        seen = [map_[y - 1 : y + 1, x - 1 : x + 1].mean() for y in (12, 36) for x in (12, 36, 60, 84)]
        assert np.corrcoef(seen, cells[query, :2].ravel())[0, 1] > 0.99


@pytest.mark.parametrize("kind", ["rtdetr", "dfine"])
def test_heads_that_look_at_points_have_maps_too(kind: str):
    sizes = {"hidden_dim": 16, "num_heads": 2, "feed_forward_dim": 16, "num_queries": 7, "num_decoder_layers": 2}
    detector = tiny_detector({"kind": kind, **sizes})
    opened = ImageDetector(TorchSession(detector), detector_manifest(detector, kind), score_threshold=0.0)
    found = opened(IMAGE)
    maps = AttentionMaps(opened)(IMAGE, opened.row_index[:10])
    assert maps.shape == (10, 40, 96)
    assert maps.min() >= 0
    assert maps.max() == pytest.approx(1)
    same_query = opened.row_index[:10] == opened.row_index[0]
    np.testing.assert_array_equal(maps[same_query], maps[[0] * int(same_query.sum())])
    assert len(found) > 10, "a query of these heads is found once for each class"


def test_nothing_found_is_no_map(detr: Detector, tmp_path: Path):
    path = tmp_path / "detr.safetensors"
    save_detector(path, detr)
    opened = open_detector(path)
    assert AttentionMaps(opened)(IMAGE, np.zeros(0, np.int64)).shape == (0, 40, 96)


def test_models_without_queries_or_outside_torch_are_rejected(tmp_path: Path):
    checkpoint, exported = tmp_path / "yolox.safetensors", tmp_path / "cubes.onnx"
    save_detector(checkpoint, tiny_detector({"kind": "yolox", "hidden_dim": 16}))
    with pytest.raises(UserError, match="a head of kind yolox has no queries"):
        AttentionMaps(open_detector(checkpoint))
    write_model(exported, empty_rows((64, 96)))
    with pytest.raises(UserError, match="need a native checkpoint"):
        AttentionMaps(open_detector(exported))
