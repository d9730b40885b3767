"""A data set of a few drawn images, small enough to train on within a test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure
from rich.console import Console

from handeye.vision.config import validate_config
from handeye.vision.data.annotations import AnnotationSet, Categories, annotations_from_lists
from handeye.vision.data.coco import write_coco
from handeye.vision.training.config import TrainDetectorConfig
from handeye.vision.training.run_folder import RunFolder
from handeye.vision.training.train_detector import Training

SIZE_HW = (72, 96)
COLOURS = ((220, 60, 60), (60, 200, 80))

NANO = {
    "backbone": {"kind": "cspdarknet", "depth": 0.33, "width": 0.25, "depthwise": True},
    "neck": {"kind": "path_aggregation", "depth": 0.33, "depthwise": True},
    "head": {"kind": "yolox", "hidden_dim": 64, "depthwise": True},
    "preprocessing": {"size_hw": [96, 96]},
}
SMALL = {
    "backbone": {"kind": "cspdarknet", "depth": 0.1, "width": 0.125},
    "neck": {"kind": "levels", "num_levels": 3},
    "head": {"kind": "yolox", "hidden_dim": 32},
    "preprocessing": {"size_hw": [96, 96]},
}
"""A quarter of the layers of NANO, for what is the same with any network: files, steps, stopping and going on."""


@pytest.fixture(scope="session")
def drawn_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """annotations.json and images/: nine images with one to three rectangles of two colours, which are the classes."""
    folder = tmp_path_factory.mktemp("drawn")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    images = []
    for index in range(9):
        picture = np.full((*SIZE_HW, 3), 90, np.uint8)
        boxes, class_ids = [], []
        for _ in range(1 + index % 3):
            x, y = int(rng.integers(2, 60)), int(rng.integers(2, 40))
            width, height, class_id = int(rng.integers(16, 32)), int(rng.integers(16, 30)), int(rng.integers(2))
            cv2.rectangle(picture, (x, y), (x + width - 1, y + height - 1), COLOURS[class_id][::-1], thickness=-1)
            boxes.append([float(x), float(y), float(x + width), float(y + height)])
            class_ids.append(class_id)
        name = f"{index}.png"
        cv2.imwrite(str(folder / "images" / name), picture)
        images.append(annotations_from_lists(index + 1, name, SIZE_HW, boxes, class_ids))
    write_coco(folder / "annotations.json", AnnotationSet(tuple(images), Categories((1, 2), ("red", "green"))))
    return folder


@pytest.fixture(scope="session")
def small_config(drawn_set: Path) -> Callable[..., TrainDetectorConfig]:
    """`small_config(epochs=2, ...)`: SMALL on the drawn set, with mosaic, multi-scale and average on."""

    def make(**changes: Any) -> TrainDetectorConfig:
        content: dict[str, Any] = {
            "detector": SMALL,
            "data": {
                "annotations": drawn_set / "annotations.json",
                "images": drawn_set / "images",
                "val_annotations": drawn_set / "annotations.json",
                "num_workers": 0,
            },
            "epochs": 3,
            "batch_size": 4,
            "augmentation": {
                "mosaic": {"probability": 0.5},
                "mixup": {"probability": 0.5},
                "affine": {},
                "multi_scale": [0.7, 1.3],
                "weak_last_epochs": 1,
            },
            "l1_last_epochs": 1,
            "optimizer": {"kind": "sgd", "lr_per_image": 0.001},
            "schedule": {"warmup_epochs": 1, "constant_last_epochs": 1},
            "ema": {"decay": 0.9, "ramp_steps": 5},
            "evaluation": {"every_epochs": 2, "batch_size": 4},
            "save_every_steps": 2,
        }
        return validate_config(TrainDetectorConfig, {**content, **changes}, origin="test")

    return make


@pytest.fixture
def quick_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty files in place of drawn curves, for tests that do not look at them: drawing takes longer than training."""
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: Path(path).write_bytes(b""))


def train_to_step(config: TrainDetectorConfig, folder: Path, step: int) -> Training:
    """Train from the state in `folder`, if there is one, to that step and save; nothing is measured or drawn."""
    training = Training(config, RunFolder(folder), Console(quiet=True))
    training.restore()
    while training.progress.step < step:
        training.step(training.samples.make_batch(training.plan.requests(training.progress.step)))
    training.save()
    return training


def losses_of(training: Training) -> list[dict[str, float]]:
    """The losses of every step so far, by name."""
    return [entry["losses"] for entry in training.run.steps.read()]
