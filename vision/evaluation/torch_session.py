"""Native checkpoints behind the run time's `Session`, so that every verb takes a checkpoint as well as an export.

torch is imported when a checkpoint is opened and not before: this module itself loads without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from typing_extensions import assert_never

from handeye.vision.errors import UserError
from handeye.vision.runtime.engines import EngineChoice, available_processors
from handeye.vision.runtime.image_detector import ImageDetector, ModelFormat
from handeye.vision.runtime.manifest import Manifest, OutputLayout, QueryRows, YoloxRows

if TYPE_CHECKING:
    from handeye.vision.detector import Detector

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
    from handeye.vision.checkpoints.native import load_detector

    detector = load_detector(Path(model))
    return ImageDetector(
        TorchSession(detector, num_threads or available_processors()),
        detector_manifest(detector, name=Path(model).stem),
        score_threshold=score_threshold,
        iou_threshold=iou_threshold,
        clip_boxes=clip_boxes,
    )


def detector_manifest(detector: Detector, name: str, class_names: Sequence[str] | None = None) -> Manifest:
    """What the run time must know of a detector, out of its configuration; class_names None means all of them."""
    return Manifest(
        name=name,
        class_names=tuple(class_names or detector.config.class_names),
        preprocessing=detector.config.preprocessing,
        output=output_layout(detector),
    )


class TorchSession:
    """A `Session` that runs a detector in torch on the device it lies on; its output is the decoded rows."""

    def __init__(
        self, detector: Detector, num_threads: int | None = None, class_names: Sequence[str] | None = None
    ) -> None:
        """`num_threads` changes torch's setting for the whole process; None leaves it alone.

        With class_names the rows have the scores of these classes only, in this order.
        """
        import torch

        if num_threads is not None:
            torch.set_num_threads(num_threads)
        self._torch = torch
        self.detector = detector.eval()
        self._device = next(detector.parameters()).device
        self._columns = row_columns(detector, class_names or detector.config.class_names)
        self.engine = f"torch {torch.__version__}"
        self.num_threads = torch.get_num_threads()
        preprocessing = detector.config.preprocessing
        size_hw = (None, None) if preprocessing.resize == "shorter_side" else preprocessing.size_hw
        self.inputs = {INPUT_NAME: (None, 3, *size_hw)}
        self.outputs = {OUTPUT_NAME: (None, None, len(self._columns))}

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Compute the rows of a batch of inputs."""
        with self._torch.inference_mode():
            images = self._torch.from_numpy(inputs[INPUT_NAME]).to(self._device)
            return {OUTPUT_NAME: self.detector(images).rows[..., self._columns].float().cpu().numpy()}


def row_columns(detector: Detector, class_names: Sequence[str]) -> list[int]:
    """Which columns of a detector's rows belong to a row that names only these classes, in this order.

    Leaving columns out is exact for every head. Leaving weights out is not: a softmax would share the rest among fewer
    classes, and RT-DETR would choose other queries. Raises UserError for a class that is not there, or none at all.
    """
    known = detector.config.class_names
    unknown = [name for name in class_names if name not in known]
    if unknown or not class_names:
        raise UserError(f"expected classes out of {', '.join(known)}, got {', '.join(unknown) or 'none'}")
    first = 4 if isinstance(output_layout(detector), QueryRows) else 5
    return [*range(first), *(first + known.index(name) for name in class_names)]


def output_layout(detector: Detector) -> OutputLayout:
    """How the rows of a detector are to be read, which its head decides."""
    head = detector.config.head
    match head.kind:
        case "yolox":
            return YoloxRows(strides=detector.neck.strides)
        case "yolo_grid":
            num_levels = len(detector.neck.strides)
            boxes = (head.boxes_per_cell,) * num_levels if head.version == "v1" else tuple(map(len, head.anchors))
            return YoloxRows(strides=detector.neck.strides, boxes_per_cell=boxes)
        case "detr":
            return QueryRows(classes_per_query="one")
        case "rtdetr" | "dfine":
            return QueryRows(classes_per_query="any")
        case _:
            assert_never(head.kind)
