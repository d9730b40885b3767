"""A detector that runs: an image in, detections in its own pixels out. Needs an inference engine, but no torch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32, UInt8

from vision.boxes.suppression import suppress
from vision.errors import ModelFileError
from vision.images import prepare
from vision.runtime.decode import grid_cells, read_yolox_rows
from vision.runtime.detections import Detections
from vision.runtime.manifest import Manifest, foreign_yolox_manifest, read_manifest
from vision.runtime.onnx_file import read_onnx_file
from vision.runtime.session import EngineChoice, Session, open_session

ModelFormat = Literal["yolox"]
MAX_DETECTIONS = 300


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Seconds that the stages of one image took; `read` belongs to whoever supplied the image."""

    read: float = 0.0
    preprocess: float = 0.0
    infer: float = 0.0
    postprocess: float = 0.0

    def by_name(self) -> Mapping[str, float]:
        """The stages in their order."""
        return asdict(self)


class ImageDetector:
    """`detections = detector(image_rgb)`; `detector.times` are the stage times of the last call.

    One image at a time and one thread at a time: the input buffer is reused.
    """

    def __init__(
        self,
        session: Session,
        manifest: Manifest,
        *,
        score_threshold: float | None = None,
        iou_threshold: float | None = None,
        clip_boxes: bool = True,
    ) -> None:
        """Thresholds that are None come from the manifest; `clip_boxes` cuts boxes at the edges of the image.

        Raises ModelFileError when the network's inputs and outputs are not those of the manifest.
        """
        self.session = session
        self.manifest = manifest
        self.class_names = manifest.class_names
        self.score_threshold = manifest.score_threshold if score_threshold is None else score_threshold
        self.iou_threshold = manifest.iou_threshold if iou_threshold is None else iou_threshold
        self.clip_boxes = clip_boxes
        self.times = StageTimes()
        self._input_name, self._output_name = _check_shapes(session, manifest)
        self._batch = np.empty((1, 3, *manifest.preprocessing.size_hw), np.float32)

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        engine: EngineChoice = "auto",
        model_format: ModelFormat | None = None,
        score_threshold: float | None = None,
        iou_threshold: float | None = None,
        num_threads: int | None = None,
        clip_boxes: bool = True,
    ) -> ImageDetector:
        """Load an ONNX file that handeye exported, or a foreign one whose `model_format` is named.

        Raises ModelFileError for a file that cannot be used, MissingPackageError for an engine that is not installed.
        """
        manifest = read_manifest(path) if model_format is None else None
        if manifest is None:
            read_onnx_file(path)  # tells a missing, empty or cut off file before an engine does so in its own words
        session = open_session(path, engine, num_threads)
        if manifest is None:
            manifest = _foreign_manifest(path, session)
        return cls(
            session,
            manifest,
            score_threshold=score_threshold,
            iou_threshold=iou_threshold,
            clip_boxes=clip_boxes,
        )

    @property
    def engine(self) -> str:
        """Name and version of the engine that computes."""
        return self.session.engine

    def __call__(self, image_rgb: UInt8[np.ndarray, "h w 3"]) -> Detections:
        """Detect in one RGB image: at most 300 boxes in its pixels, the best score first."""
        started = time.perf_counter()
        _, placement = prepare(image_rgb, self.manifest.preprocessing, out=self._batch[0])
        prepared = time.perf_counter()
        rows = self._infer()
        inferred = time.perf_counter()
        size_hw = self.manifest.preprocessing.size_hw
        boxes, scores, class_ids = read_yolox_rows(rows, size_hw, self.manifest.output, self.score_threshold)
        kept = suppress(boxes, scores, class_ids, iou_threshold=self.iou_threshold)[:MAX_DETECTIONS]
        boxes_in_image = placement.boxes_to_image(boxes[kept], clip=self.clip_boxes)
        detections = Detections(boxes_in_image, scores[kept], class_ids[kept], self.class_names)
        self.times = StageTimes(
            preprocess=prepared - started, infer=inferred - prepared, postprocess=time.perf_counter() - inferred
        )
        return detections

    def read_rows(self, image_rgb: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "cells channels"]:
        """What the network says of an image before any of it is judged; a copy of its own."""
        prepare(image_rgb, self.manifest.preprocessing, out=self._batch[0])
        return self._infer().copy()

    def warm_up(self, calls: int = 3) -> None:
        """Run on a grey image, so that the first real one does not pay for the engine's lazy set-up."""
        grey = np.full((*self.manifest.preprocessing.size_hw, 3), 114, np.uint8)
        for _ in range(calls):
            self(grey)
        self.times = StageTimes()

    def _infer(self) -> Float32[np.ndarray, "cells channels"]:
        return self.session.run({self._input_name: self._batch})[self._output_name][0]


def _check_shapes(session: Session, manifest: Manifest) -> tuple[str, str]:
    """Names of the only input and the only output; ModelFileError when their shapes are not the manifest's."""
    height, width = manifest.preprocessing.size_hw
    num_rows = len(grid_cells((height, width), manifest.output.strides)[0])
    wanted_in = (1, 3, height, width)
    wanted_out = (1, num_rows, 5 + len(manifest.class_names))
    for kind, ports, wanted in (("input", session.inputs, wanted_in), ("output", session.outputs, wanted_out)):
        shapes = list(ports.values())
        fits = len(shapes) == 1 and len(shapes[0]) == len(wanted)
        if not fits or any(size not in (None, right) for size, right in zip(shapes[0], wanted, strict=True)):
            raise ModelFileError(f"{manifest.name}: expected one {kind} of shape {wanted}, the file has {dict(ports)}")
    return next(iter(session.inputs)), next(iter(session.outputs))


def _foreign_manifest(path: Path, session: Session) -> Manifest:
    """The manifest of a foreign YOLOX file, from the shapes that the engine reports."""
    shape_in, shape_out = next(iter(session.inputs.values())), next(iter(session.outputs.values()))
    sizes = [*shape_in[2:], *shape_out[2:]]
    if len(shape_in) != 4 or len(shape_out) != 3 or None in sizes:
        raise ModelFileError(
            f"{path}: expected input (1, 3, height, width) and output (1, cells, 5 + classes) of fixed size, "
            f"got {shape_in} and {shape_out}"
        )
    height, width, channels = (int(size or 0) for size in sizes)
    if channels <= 5:
        raise ModelFileError(f"{path}: expected at least 6 output channels (box, objectness, classes), got {channels}")
    return foreign_yolox_manifest(path, (height, width), channels - 5)
