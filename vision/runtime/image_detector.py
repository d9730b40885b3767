"""Run a deployed detector: an RGB image in, detections in its pixels out. Needs an inference engine, but no torch.

Times are summarised by percentiles: a mean hides the slow calls that matter to a robot.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8
from typing_extensions import assert_never

from handeye.vision.errors import ModelFileError
from handeye.vision.images import ResizeTransform, preprocess
from handeye.vision.runtime.decode import decode_rows
from handeye.vision.runtime.detections import Detections
from handeye.vision.runtime.engine_file import ENGINE_SUFFIX, read_engine_file
from handeye.vision.runtime.engines import EngineChoice, Session, open_session, require_tensorrt
from handeye.vision.runtime.manifest import (
    Manifest,
    PostprocessedBoxes,
    QueryRows,
    YoloxRows,
    read_manifest,
    read_onnx_file,
)
from handeye.vision.runtime.third_party_models import ModelFormat, open_third_party

MAX_DETECTIONS = 300
"""In one image. COCO counts the best 100 of each class."""


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

    `detector.row_index` says which row of the network's output each of these detections came from.
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

        Raises ModelFileError when the network's inputs and outputs are not those of the manifest, or a
        threshold differs from one that is fixed inside the file.
        """
        self.session = session
        self.manifest = manifest
        self.class_names = manifest.class_names
        self.score_threshold = manifest.score_threshold if score_threshold is None else score_threshold
        self.iou_threshold = manifest.iou_threshold if iou_threshold is None else iou_threshold
        _check_thresholds(manifest, self.score_threshold, self.iou_threshold)
        self.clip_boxes = clip_boxes
        self.times = StageTimes()
        self.row_index = np.zeros(0, np.int64)
        self._input_name, self._output_name = _check_shapes(session, manifest)
        has_fixed_size = manifest.preprocessing.resize != "shorter_side"
        self._batch = np.empty((1, 3, *manifest.preprocessing.size_hw), np.float32) if has_fixed_size else None

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
        """Load an ONNX file or an engine that handeye exported, or a third-party one of `model_format`.

        Raises ModelFileError for a file that cannot be used, MissingPackageError for an engine that is not installed.
        """
        if Path(path).suffix.lower() == ENGINE_SUFFIX:
            session, manifest = _open_engine(Path(path), engine, model_format)
        elif model_format is None:
            manifest = read_manifest(path)
            session = open_session(path, engine, num_threads)
        else:
            read_onnx_file(path)  # reports a missing, empty or cut off file before an engine does, in our words
            session, manifest = open_third_party(path, open_session(path, engine, num_threads), model_format)
        return cls(
            session,
            manifest,
            score_threshold=score_threshold,
            iou_threshold=iou_threshold,
            clip_boxes=clip_boxes,
        )

    def with_options(self, *, score_threshold: float, iou_threshold: float, clip_boxes: bool) -> ImageDetector:
        """The same network with other thresholds; the session is shared. Raises ModelFileError as the class does."""
        return ImageDetector(
            self.session,
            self.manifest,
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
        batch, transform = self._prepare(image_rgb)
        prepared = time.perf_counter()
        rows = self._infer(batch)
        inferred = time.perf_counter()
        found = decode_rows(
            rows,
            transform.input_hw,
            self.manifest.output,
            score_threshold=self.score_threshold,
            iou_threshold=self.iou_threshold,
            max_detections=MAX_DETECTIONS,
        )
        boxes_in_image = transform.boxes_to_image(found.boxes_xyxy, clip=self.clip_boxes)
        detections = Detections(boxes_in_image, found.scores, found.class_ids, self.class_names)
        self.row_index = found.row_index
        self.times = StageTimes(
            preprocess=prepared - started, infer=inferred - prepared, postprocess=time.perf_counter() - inferred
        )
        return detections

    def raw_rows(self, image_rgb: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "rows channels"]:
        """The network's output for an image before it is decoded; a copy."""
        return self._infer(self._prepare(image_rgb)[0]).copy()

    def warm_up(self, calls: int = 3) -> None:
        """Run on a grey image, so that the first real one does not pay for the engine's lazy set-up."""
        grey = np.full((*self.manifest.preprocessing.size_hw, 3), 114, np.uint8)
        for _ in range(calls):
            self(grey)
        self.times = StageTimes()

    def _prepare(self, image_rgb: UInt8[np.ndarray, "h w 3"]) -> tuple[Float32[np.ndarray, "1 3 H W"], ResizeTransform]:
        """The network's input, in the buffer where all inputs are of one size."""
        if self._batch is not None:
            _, transform = preprocess(image_rgb, self.manifest.preprocessing, out=self._batch[0])
            return self._batch, transform
        values, transform = preprocess(image_rgb, self.manifest.preprocessing)
        return values[None], transform

    def _infer(self, batch: Float32[np.ndarray, "1 3 H W"]) -> Float32[np.ndarray, "rows channels"]:
        rows = self.session.run({self._input_name: batch})[self._output_name][0]
        return rows if rows.dtype == np.float32 else rows.astype(np.float32)


def percentiles_ms(durations_s: Sequence[float]) -> dict[str, float]:
    """p50_ms, p95_ms and p99_ms of durations in seconds. Raises ValueError when there is none."""
    if not len(durations_s):
        raise ValueError("percentiles of no duration at all were asked for")
    p50, p95, p99 = np.percentile(np.asarray(durations_s, np.float64) * 1e3, [50, 95, 99])
    return {"p50_ms": float(p50), "p95_ms": float(p95), "p99_ms": float(p99)}


def stage_percentiles(stages_s: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Percentiles of each stage and of their sum, `total`, over calls that each give seconds by stage.

    Every call must name the same stages; raises ValueError otherwise.
    """
    names = list(stages_s[0]) if stages_s else []
    if any(list(call) != names for call in stages_s):
        raise ValueError("the calls name different stages")
    summary = {name: percentiles_ms([call[name] for call in stages_s]) for name in names}
    return summary | {"total": percentiles_ms([sum(call.values()) for call in stages_s])}


def _check_thresholds(manifest: Manifest, score_threshold: float, iou_threshold: float) -> None:
    """Raise ModelFileError for thresholds that contradict those inside a file that filters its boxes itself."""
    layout = manifest.output
    if not isinstance(layout, PostprocessedBoxes):
        return
    advice = "export it again with that threshold, or with --nms outside"
    if layout.iou_threshold not in (None, iou_threshold):
        raise ModelFileError(
            f"{manifest.name}: its graph runs NMS with the IoU threshold {layout.iou_threshold:g}, not "
            f"{iou_threshold:g}; {advice}"
        )
    if score_threshold < layout.score_floor:
        raise ModelFileError(
            f"{manifest.name}: its graph gives no box with a score below {layout.score_floor:g}, but the score "
            f"threshold is {score_threshold:g}; {advice}"
        )


def _check_shapes(session: Session, manifest: Manifest) -> tuple[str, str]:
    """Names of the only input and the only output; ModelFileError when their shapes are not the manifest's."""
    has_fixed_size = manifest.preprocessing.resize != "shorter_side"
    wanted_in = (1, 3, *(manifest.preprocessing.size_hw if has_fixed_size else (None, None)))
    wanted_out = _output_shape(manifest)
    for kind, ports, wanted in (("input", session.inputs, wanted_in), ("output", session.outputs, wanted_out)):
        shapes = list(ports.values())
        fits = len(shapes) == 1 and len(shapes[0]) == len(wanted)
        if not fits or any(
            None not in (size, right) and size != right for size, right in zip(shapes[0], wanted, strict=True)
        ):
            shown = str(wanted).replace("None", "N")
            raise ModelFileError(f"{manifest.name}: expected one {kind} of shape {shown}, the file has {dict(ports)}")
    return next(iter(session.inputs)), next(iter(session.outputs))


def _output_shape(manifest: Manifest) -> tuple[int | None, ...]:
    """The shape that the manifest promises; None where any number will do."""
    layout, num_classes = manifest.output, len(manifest.class_names)
    match layout:
        case YoloxRows():
            height, width = manifest.preprocessing.size_hw
            boxes = layout.boxes_per_cell or (1,) * len(layout.strides)
            num_rows = sum(
                per_cell * -(-height // stride) * -(-width // stride)
                for stride, per_cell in zip(layout.strides, boxes, strict=True)
            )
            return 1, num_rows, 5 + num_classes
        case QueryRows():
            return 1, None, 4 + num_classes
        case PostprocessedBoxes():
            return 1, None, 6
        case _:
            assert_never(layout)


def _open_engine(path: Path, engine: EngineChoice, model_format: ModelFormat | None) -> tuple[Session, Manifest]:
    """An engine that handeye built, and the manifest inside it."""
    if engine != "auto" or model_format is not None:
        raise ModelFileError(f"{path}: an engine runs in TensorRT only and knows its format; leave those options out")
    file = read_engine_file(path)
    require_tensorrt()
    from handeye.vision.runtime.tensorrt_session import TensorrtSession

    return TensorrtSession(file), file.record.manifest
