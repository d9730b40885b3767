"""Native checkpoints behind the run time's `Session`, so that every verb takes a checkpoint as well as an export.

torch is imported when a checkpoint is opened and not before: this module itself loads without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vision.errors import UserError
from vision.runtime.image_detector import ImageDetector, ModelFormat
from vision.runtime.manifest import Manifest, YoloxRows
from vision.runtime.session import EngineChoice, available_processors

if TYPE_CHECKING:
    from vision.detector import Detector

CHECKPOINT_SUFFIX = ".safetensors"
INPUT_NAME, OUTPUT_NAME = "images", "rows"


def open_detector(
    model: Path,
    *,
    engine: EngineChoice = "auto",
    model_format: ModelFormat | None = None,
    score_threshold: float | None = None,
    iou_threshold: float | None = None,
    num_threads: int | None = None,
    clip_boxes: bool = True,
) -> ImageDetector:
    """`ImageDetector.load` that also takes a native checkpoint (.safetensors), which torch then computes.

    Raises UserError when an engine or a foreign format is named for a checkpoint.
    """
    if Path(model).suffix.lower() != CHECKPOINT_SUFFIX:
        return ImageDetector.load(
            model,
            engine=engine,
            model_format=model_format,
            score_threshold=score_threshold,
            iou_threshold=iou_threshold,
            num_threads=num_threads,
            clip_boxes=clip_boxes,
        )
    if engine != "auto" or model_format is not None:
        raise UserError(f"{model}: a checkpoint runs in torch only; export it first: handeye export {model}")
    from vision.checkpoints.native import load_detector

    detector = load_detector(Path(model))
    return ImageDetector(
        TorchSession(detector, num_threads or available_processors()),
        detector_manifest(detector, name=Path(model).stem),
        score_threshold=score_threshold,
        iou_threshold=iou_threshold,
        clip_boxes=clip_boxes,
    )


def detector_manifest(detector: Detector, name: str) -> Manifest:
    """What the run time must know of a detector, out of its configuration."""
    return Manifest(
        name=name,
        class_names=detector.config.class_names,
        preprocessing=detector.config.preprocessing,
        output=YoloxRows(decoded=True, strides=detector.head.strides),
    )


class TorchSession:
    """A `Session` that runs a detector in torch on the device it lies on; its output is the decoded rows."""

    def __init__(self, detector: Detector, num_threads: int | None = None) -> None:
        """`num_threads` changes torch's setting for the whole process; None leaves it alone."""
        import torch

        if num_threads is not None:
            torch.set_num_threads(num_threads)
        self._torch = torch
        self._detector = detector.eval()
        self._device = next(detector.parameters()).device
        self.engine = f"torch {torch.__version__}"
        self.num_threads = torch.get_num_threads()
        config = detector.config
        self.inputs = {INPUT_NAME: (None, 3, *config.preprocessing.size_hw)}
        self.outputs = {OUTPUT_NAME: (None, None, 5 + config.num_classes)}

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Compute the rows of a batch of inputs."""
        with self._torch.inference_mode():
            images = self._torch.from_numpy(inputs[INPUT_NAME]).to(self._device)
            return {OUTPUT_NAME: self._detector(images).raw.float().cpu().numpy()}
