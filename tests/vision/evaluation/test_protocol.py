"""One answer to one question: training, `handeye.evaluate` and export measure the same detector alike."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import handeye
from handeye.export.graph.onnx_export import export_onnx
from handeye.export.measurement import ImageSet, evaluate_file
from handeye.vision.checkpoints.native import save_detector
from handeye.vision.checkpoints.yolox import yolox_config
from handeye.vision.data.formats import read_annotations
from handeye.vision.detector import Detector, DetectorConfig
from handeye.vision.evaluation.average_precision import GroundTruth, evaluate_boxes
from handeye.vision.evaluation.protocol import PROTOCOLS, ProtocolName
from handeye.vision.images import Preprocessing, write_image
from handeye.vision.runtime.image_detector import ImageDetector
from handeye.vision.runtime.manifest import Manifest, PostprocessedBoxes
from handeye.vision.training.config import EvaluationConfig
from handeye.vision.training.validate import detect_all

SIZE_HW = (64, 96)


@pytest.fixture(scope="module")
def detector() -> Detector:
    """Random weights; its scores are high, and boxes of the outermost cells reach beyond the image."""
    torch.manual_seed(0)
    preprocessing = Preprocessing(size_hw=SIZE_HW)
    config = yolox_config("nano", ("cube", "ball")).model_dump() | {"preprocessing": preprocessing.model_dump()}
    detector = Detector(DetectorConfig.model_validate(config)).eval()
    with torch.no_grad():
        for name, parameter in detector.head.named_parameters():
            if parameter.ndim == 1 and "norm" not in name:
                parameter.zero_()
            elif parameter.ndim == 4:
                parameter *= 3
    return detector


@pytest.fixture(scope="module")
def data(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Checkpoint, annotations and images: every fifth detection, as `handeye detect` gives it, is an object."""
    folder = tmp_path_factory.mktemp("data")
    checkpoint, images = folder / "net.safetensors", folder / "images"
    save_detector(checkpoint, detector)
    images.mkdir()
    noise = np.random.default_rng(0)
    content = {"images": [], "annotations": [], "categories": [{"id": 7, "name": "cube"}, {"id": 9, "name": "ball"}]}
    loaded = handeye.load(checkpoint, score_threshold=0.001)
    for number in range(3):
        image_rgb = noise.integers(0, 255, (*SIZE_HW, 3), np.uint8)
        write_image(images / f"{number}.png", image_rgb)
        content["images"].append({"id": number, "file_name": f"{number}.png", "width": 96, "height": 64})
        for box, class_id in zip(*(values[::5] for values in _arrays(loaded(image_rgb))), strict=True):
            x1, y1, x2, y2 = map(float, box)
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": number,
                    "category_id": (7, 9)[class_id],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                }
            )
    annotations = folder / "annotations.json"
    annotations.write_text(json.dumps(content))
    return checkpoint, annotations, images


@pytest.fixture(scope="module")
def exported(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "net.onnx"
    export_onnx(detector, path)
    return path


def _arrays(found: handeye.Detections) -> tuple[np.ndarray, np.ndarray]:
    return found.boxes_xyxy, found.class_ids


@pytest.mark.parametrize("protocol", ["deployed", "published"])
def test_training_evaluation_and_export_measure_the_same(detector: Detector, data, exported: Path, protocol):
    checkpoint, annotations, images = data
    told = handeye.evaluate(checkpoint, annotations, images, protocol=protocol, threads=1)
    content = read_annotations(annotations, images)
    config = EvaluationConfig(protocol=protocol, batch_size=2)
    found = detect_all(detector, content, images, config, torch.device("cpu"))
    trained = evaluate_boxes(GroundTruth(content), found)
    measured = evaluate_file(exported, ImageSet.from_annotations(annotations, images), "onnxruntime", 1, protocol)
    assert told["protocol"] == protocol
    assert told["AP"] > 0.05
    np.testing.assert_allclose([trained.AP, measured.AP], told["AP"], atol=0.01)
    inside = [
        bool((one.boxes_xyxy >= 0).all() and (one.boxes_xyxy <= (96, 64, 96, 64)).all()) for one in found.values()
    ]
    assert all(inside) is (protocol == "deployed")


def test_the_deployed_boxes_fit_what_was_annotated_from_them_better(data):
    checkpoint, annotations, images = data
    deployed = handeye.evaluate(checkpoint, annotations, images, threads=1)["AP"]
    published = handeye.evaluate(checkpoint, annotations, images, protocol="published", threads=1)["AP"]
    assert deployed > published + 0.01


def test_precision_and_recall_are_those_of_the_detections_that_detect_gives(data):
    checkpoint, annotations, images = data
    ground_truth = read_annotations(annotations, images)
    detector = handeye.load(checkpoint, score_threshold=0.001, threads=1)
    scores = np.concatenate([detector(images / image.file_name).scores for image in ground_truth.images])
    threshold = float(np.median(scores))
    found = int((scores > threshold).sum())
    told = handeye.evaluate(checkpoint, annotations, images, score_threshold=threshold, threads=1)
    assert told["score_threshold"] == threshold
    hits = told["precision"] * found
    assert hits == pytest.approx(round(hits), abs=1e-6)
    assert told["recall"] * ground_truth.num_objects() == pytest.approx(hits)
    nothing = handeye.evaluate(checkpoint, annotations, images, score_threshold=1.0, threads=1)
    assert (nothing["precision"], nothing["recall"]) == (None, 0.0)


@pytest.mark.parametrize(
    ("name", "floor", "inside", "expected"),
    [
        ("deployed", 0.001, None, (0.001, 0.4)),
        ("published", 0.001, 0.5, (0.001, 0.5)),
        ("published", 0.2, None, (0.2, 0.4)),
    ],
)
def test_a_file_that_filters_its_boxes_keeps_its_own_thresholds(
    name: ProtocolName, floor: float, inside: float | None, expected: tuple[float, float]
):
    output = PostprocessedBoxes(score_floor=floor, iou_threshold=inside)
    manifest = Manifest(class_names=("cube",), output=output, iou_threshold=0.4)
    assert PROTOCOLS[name].thresholds(manifest) == expected


def test_the_published_protocol_has_the_threshold_of_the_literature_and_the_deployed_one_the_models():
    manifest = Manifest(class_names=("cube",), iou_threshold=0.4, score_threshold=0.3)
    assert PROTOCOLS["published"].thresholds(manifest) == (0.001, 0.65)
    assert PROTOCOLS["deployed"].thresholds(manifest) == (0.001, 0.4)


def test_applying_a_protocol_leaves_the_detector_as_it_was(exported: Path):
    detector = ImageDetector.load(exported, num_threads=1)
    before = detector.score_threshold, detector.iou_threshold, detector.clip_boxes
    measured = PROTOCOLS["published"].apply(detector)
    assert (detector.score_threshold, detector.iou_threshold, detector.clip_boxes) == before
    assert (measured.score_threshold, measured.iou_threshold, measured.clip_boxes) == (0.001, 0.65, False)
    assert measured.session is detector.session
