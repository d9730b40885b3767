"""A native checkpoint behind the run time: the rows are the detector's, every way of opening a model is sorted out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vision.checkpoints.native import save_detector
from vision.checkpoints.zoo import yolox_config
from vision.detector import Detector, DetectorConfig
from vision.errors import ModelFileError, UserError
from vision.evaluation.torch_session import TorchSession, detector_manifest, open_detector
from vision.images import Preprocessing, prepare

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
        expected = detector(torch.from_numpy(images)).raw.numpy()
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
    values, _ = prepare(image, detector.config.preprocessing)
    with torch.no_grad():
        rows = detector(torch.from_numpy(values)[None]).raw[0].numpy()
    expected = np.sort(rows[:, 4] * rows[:, 5:].max(axis=1))[::-1]
    np.testing.assert_allclose(found.scores, expected, rtol=1e-6)


def test_the_manifest_is_the_configuration(detector: Detector):
    manifest = detector_manifest(detector, name="cubes")
    assert manifest.class_names == NAMES
    assert manifest.preprocessing == detector.config.preprocessing
    assert manifest.output.decoded
    assert manifest.output.strides == (8, 16, 32)


def test_engines_and_formats_make_no_sense_for_a_checkpoint(detector: Detector, tmp_path: Path):
    path = tmp_path / "cubes.safetensors"
    save_detector(path, detector)
    with pytest.raises(UserError, match="handeye export"):
        open_detector(path, engine="openvino")
    with pytest.raises(UserError, match="handeye export"):
        open_detector(path, model_format="yolox")
    with pytest.raises(ModelFileError, match="absent"):
        open_detector(tmp_path / "absent.safetensors")
