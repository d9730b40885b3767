"""A native checkpoint behind the run time: the rows are the detector's, every way of opening a model is sorted out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from handeye.vision.checkpoints.native import save_detector
from handeye.vision.checkpoints.yolox import yolox_config
from handeye.vision.detector import Detector, DetectorConfig
from handeye.vision.errors import ModelFileError, UserError
from handeye.vision.evaluation.torch_session import TorchSession, detector_manifest, open_detector, row_columns
from handeye.vision.images import Preprocessing, preprocess
from handeye.vision.runtime.image_detector import ImageDetector

NAMES = ("cube", "ball")


@pytest.fixture(scope="module")
def detector() -> Detector:
    torch.manual_seed(0)
    preprocessing = Preprocessing(size_hw=(64, 96))
    config = DetectorConfig.model_validate(
        yolox_config("nano", NAMES).model_dump() | {"preprocessing": preprocessing.model_dump()}
    )
    return Detector(config).eval()


def test_rows_are_those_of_the_detector(detector: Detector):
    session = TorchSession(detector)
    images = np.random.default_rng(0).uniform(0, 255, (2, 3, 64, 96)).astype(np.float32)
    with torch.no_grad():
        expected = detector(torch.from_numpy(images)).rows.numpy()
    np.testing.assert_array_equal(session.run({"images": images})["rows"], expected)
    assert session.engine.startswith("torch ")


def test_a_checkpoint_opens_like_any_model(detector: Detector, tmp_path: Path):
    path = tmp_path / "cubes.safetensors"
    save_detector(path, detector)
    opened = open_detector(path, score_threshold=0.0, iou_threshold=1.0)
    image = np.random.default_rng(1).integers(0, 256, (50, 80, 3), dtype=np.uint8)
    found = opened(image)
    assert len(found) == 126
    assert found.class_names == NAMES
    values, _ = preprocess(image, detector.config.preprocessing)
    with torch.no_grad():
        rows = detector(torch.from_numpy(values)[None]).rows[0].numpy()
    expected = np.sort(rows[:, 4] * rows[:, 5:].max(axis=1))[::-1]
    np.testing.assert_allclose(found.scores, expected, rtol=1e-6)


def test_the_manifest_is_the_configuration(detector: Detector):
    manifest = detector_manifest(detector, name="cubes")
    assert manifest.class_names == NAMES
    assert manifest.preprocessing == detector.config.preprocessing
    assert manifest.output.decoded
    assert manifest.output.strides == (8, 16, 32)


def test_chosen_classes_are_scored_as_before_in_the_order_asked_for(detector: Detector):
    images = np.random.default_rng(2).uniform(0, 255, (1, 3, 64, 96)).astype(np.float32)
    whole = TorchSession(detector).run({"images": images})["rows"]
    chosen = TorchSession(detector, class_names=["ball", "cube"])
    np.testing.assert_array_equal(chosen.run({"images": images})["rows"], whole[..., [0, 1, 2, 3, 4, 6, 5]])
    assert chosen.outputs["rows"][-1] == 7
    assert TorchSession(detector, class_names=["ball"]).outputs["rows"][-1] == 6
    assert detector_manifest(detector, "cubes", ["ball"]).class_names == ("ball",)


@pytest.mark.parametrize("names", [["cube", "purple"], []])
def test_classes_that_are_not_there_are_rejected_by_name(detector: Detector, names: list[str]):
    with pytest.raises(UserError, match="expected classes out of cube, ball, got (purple|none)"):
        row_columns(detector, names)


def test_engines_and_formats_make_no_sense_for_a_checkpoint(detector: Detector, tmp_path: Path):
    path = tmp_path / "cubes.safetensors"
    save_detector(path, detector)
    with pytest.raises(UserError, match="handeye export"):
        open_detector(path, engine="openvino")
    with pytest.raises(UserError, match="handeye export"):
        open_detector(path, model_format="yolox")
    with pytest.raises(ModelFileError, match="absent"):
        open_detector(tmp_path / "absent.safetensors")


def test_inputs_may_follow_the_shape_of_the_image():
    """DETR's rule: 60 x 100 with its shorter side at 48 is 48 x 80, no multiple of the stride."""
    sizes = {"hidden_dim": 16, "num_heads": 2, "feed_forward_dim": 16, "num_queries": 5}
    content = {
        "backbone": {"kind": "resnet", "depth": 18},
        "neck": {"kind": "levels", "num_levels": 1},
        "head": {"kind": "detr", "num_encoder_layers": 1, "num_decoder_layers": 1, **sizes},
        "class_names": NAMES,
        "preprocessing": {"size_hw": [48, 96], "resize": "shorter_side"},
    }
    torch.manual_seed(0)
    detector = Detector(DetectorConfig.model_validate(content)).eval()
    opened = ImageDetector(TorchSession(detector), detector_manifest(detector, "detr"), score_threshold=0.0)
    image = np.random.default_rng(1).integers(0, 256, (60, 100, 3), dtype=np.uint8)
    found = opened(image)
    values, _ = preprocess(image, detector.config.preprocessing)
    assert values.shape == (3, 48, 80)
    with torch.no_grad():
        output = detector(torch.from_numpy(values)[None])
    best = output.scores[0].max(dim=1).values.numpy()
    np.testing.assert_allclose(found.scores, np.sort(best)[::-1], rtol=1e-6)
    centres = output.boxes_cxcywh_norm[0, opened.row_index, :2].numpy() * [100, 60]
    inside = (found.boxes_xyxy[:, :2] <= centres + 1e-3) & (centres <= found.boxes_xyxy[:, 2:] + 1e-3)
    assert inside.all()
