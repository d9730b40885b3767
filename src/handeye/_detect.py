"""Load a detector, run it on images, and evaluate it: the public functions.

`handeye detect`, `track`, `evaluate` and `benchmark` run through these functions too.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, overload

import numpy as np
from jaxtyping import Int64, UInt8
from rich.console import Console
from rich.progress import track as progress_bar

from handeye.vision.errors import ModelFileError, SourceError
from handeye.vision.evaluation.protocol import PROTOCOLS, ProtocolName
from handeye.vision.evaluation.torch_session import open_detector
from handeye.vision.images import read_image
from handeye.vision.runtime.detections import Detections
from handeye.vision.runtime.engines import EngineChoice
from handeye.vision.runtime.image_detector import ImageDetector, ModelFormat, StageTimes, stage_percentiles
from handeye.vision.tracking.image_tracker import (
    BoxTrackingConfig,
    weakest_useful_score,
)

ImageInput: TypeAlias = "str | Path | UInt8[np.ndarray, 'h w 3']"
Image = TypeVar("Image", str, Path, np.ndarray)


def load(
    model: str | Path,
    *,
    engine: EngineChoice = "auto",
    model_format: ModelFormat | None = None,
    score_threshold: float | None = None,
    iou_threshold: float | None = None,
    classes: Sequence[str] | None = None,
    threads: int | None = None,
) -> Detector:
    """Load a detector: a native checkpoint (.safetensors), an ONNX file or a TensorRT engine.

    engine: inference engine of an ONNX file; auto takes the fastest that is installed. Checkpoints run in torch.
    model_format: format of an ONNX file that another program exported: "yolox" ("yolox-raw", "yolox-decoded")
        or "rtdetr" (D-FINE's too).
    score_threshold, iou_threshold: lowest score and NMS threshold, in [0, 1]; None takes those of the model.
    classes: names of the classes to keep; None keeps all.
    threads: threads of the engine; None takes one per processor.

    Raises ModelFileError for a file that cannot be used, MissingPackageError for an engine that is not installed and
    UserError for options that do not go together; all of them are UserErrors.
    """
    image_detector = open_detector(
        Path(model),
        engine=engine,
        model_format=model_format,
        score_threshold=score_threshold,
        iou_threshold=iou_threshold,
        num_threads=threads,
    )
    return Detector(image_detector, classes, has_own_threshold=score_threshold is not None)


class Detector:
    """A loaded detector: `detections = detector(image)`, for a path, an RGB array or a list of them.

    One image at a time and one thread at a time: the input buffer is reused.
    """

    def __init__(
        self, image_detector: ImageDetector, classes: Sequence[str] | None = None, *, has_own_threshold: bool = False
    ) -> None:
        """Use `handeye.load`. `has_own_threshold`: the score threshold was chosen, so tracking must not lower it."""
        self.image_detector = image_detector
        self.row_index: Int64[np.ndarray, " N"] = image_detector.row_index
        """Which row of the network's output each of the latest detections came from."""
        self._has_own_threshold = has_own_threshold
        self._classes = None if classes is None else tuple(classes)
        self._class_ids = None if classes is None else _class_ids(image_detector, classes)

    @overload
    def __call__(self, image: ImageInput) -> Detections: ...

    @overload
    def __call__(self, image: list[Image] | tuple[Image, ...]) -> list[Detections]: ...

    def __call__(self, image: ImageInput | list[Image] | tuple[Image, ...]) -> Detections | list[Detections]:
        """Detect in one image: at most 300 boxes in its pixels, best score first. A list of images gives a list.

        An image is the path of a file or an RGB array, (H, W, 3) uint8; OpenCV reads BGR, so convert it first with
        `image_bgr[..., ::-1]`. Raises SourceError for an array of another shape or type and for an unreadable file.
        """
        if isinstance(image, list | tuple):
            return [self._detect(one) for one in image]
        return self._detect(image)

    def __repr__(self) -> str:
        return f"Detector({self.image_detector.manifest.name}, {len(self.class_names)} classes, {self.engine})"

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names that class_ids index: all classes of the model, also those that `classes` leaves out."""
        return self.image_detector.class_names

    @property
    def engine(self) -> str:
        """Name and version of the inference engine."""
        return self.image_detector.engine

    @property
    def threads(self) -> int:
        """Threads of the inference engine."""
        return self.image_detector.session.num_threads

    @property
    def score_threshold(self) -> float:
        """Detections with a lower score are dropped."""
        return self.image_detector.score_threshold

    @property
    def iou_threshold(self) -> float:
        """The NMS threshold."""
        return self.image_detector.iou_threshold

    @property
    def times(self) -> StageTimes:
        """Seconds of each stage of the latest image."""
        return self.image_detector.times

    def warm_up(self, calls: int = 3) -> None:
        """Run on a grey image, so that the first real one does not pay for the engine's lazy set-up."""
        self.image_detector.warm_up(calls)

    def for_tracking(self, config: BoxTrackingConfig) -> Detector:
        """This detector with the lowest score that the tracker can use, unless `load` was given a threshold.

        Raises ModelFileError where NMS in the file's graph has already dropped those scores.
        """
        weakest = weakest_useful_score(config.tracker)
        if self._has_own_threshold or weakest is None:
            return self
        old = self.image_detector
        lowered = old.with_options(score_threshold=weakest, iou_threshold=old.iou_threshold, clip_boxes=old.clip_boxes)
        return Detector(lowered, self._classes)

    def _detect(self, image: ImageInput) -> Detections:
        started = time.perf_counter()
        image_rgb = read_image(Path(image)) if isinstance(image, str | Path) else require_image(image)
        read_s = time.perf_counter() - started
        detections = self.image_detector(image_rgb)
        self.image_detector.times = replace(self.image_detector.times, read=read_s)
        self.row_index = self.image_detector.row_index
        if self._class_ids is None:
            return detections
        kept = np.isin(detections.class_ids, self._class_ids)
        self.row_index = self.row_index[kept]
        return detections[kept]


def require_image(image: object) -> UInt8[np.ndarray, "h w 3"]:
    """The array, if it is an RGB image (H, W, 3) of uint8 with at least one pixel. Raises SourceError otherwise."""
    if not isinstance(image, np.ndarray):
        raise SourceError(f"expected a path or an RGB array (H, W, 3) of uint8, got {type(image).__name__}")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise SourceError(f"expected an RGB array (H, W, 3) of uint8, got shape {image.shape} of {image.dtype}")
    return image


def evaluate(
    model: str | Path,
    annotations: str | Path,
    images: str | Path,
    *,
    engine: EngineChoice = "auto",
    model_format: ModelFormat | None = None,
    protocol: ProtocolName = "deployed",
    score_threshold: float | None = None,
    iou_threshold: float | None = None,
    threads: int | None = None,
    show_progress: bool = False,
) -> dict[str, Any]:
    """COCO metrics of a model on an annotated data set.

    annotations: the ground truth: a COCO file, a Pascal VOC folder or image list, a YOLO data.yaml (its split val) or
    folder; images: the folder of the images that it names.
    protocol: deployed measures what `detector(image)` gives: boxes end at the edges of the image, NMS has the model's
    own threshold. published measures as the literature does: boxes as the network gives them, NMS threshold 0.65.
    iou_threshold replaces the protocol's. AP ranks all scores above 0.001 by either protocol; score_threshold (None:
    the model's own) is where precision and recall are taken.
    The other arguments are those of `handeye.load`; show_progress draws a bar on stderr.

    Returns AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl as fractions in [0, 1] (-1 where nothing of that size
    is annotated), AP_of_class {name: AP}, precision and recall at score_threshold and IoU 0.5 (None where there is
    nothing to count), and images, protocol, engine, threads, score_threshold, iou_threshold and stages
    {stage: {p50_ms, p95_ms, p99_ms}}. Raises DatasetError for annotations that are wrong or whose classes are not the
    model's, SourceError for an unreadable image, and what `load` raises.
    """
    from handeye.vision.evaluation.average_precision import GroundTruth, evaluate_boxes, precision_and_recall

    ground_truth = GroundTruth.read(Path(annotations), Path(images))
    own = open_detector(
        Path(model),
        engine=engine,
        model_format=model_format,
        score_threshold=score_threshold,
        iou_threshold=iou_threshold,
        num_threads=threads,
    )
    rule = PROTOCOLS[protocol]
    if iou_threshold is not None:
        rule = replace(rule, iou_threshold=iou_threshold)
    detector = Detector(rule.apply(own))
    ground_truth.category_of_class(detector.class_names)  # report classes that do not match before the work
    detector.warm_up()
    found, stages_s = _detect_all(detector, Path(images), ground_truth.file_names(), show_progress=show_progress)
    metrics = evaluate_boxes(ground_truth, found)
    return metrics.summary() | {
        "images": len(found),
        "protocol": protocol,
        "engine": detector.engine,
        "threads": detector.threads,
        **precision_and_recall(ground_truth, found, own.score_threshold),
        "score_threshold": own.score_threshold,
        "iou_threshold": detector.iou_threshold,
        "AP_of_class": metrics.AP_of_class,
        "stages": stage_percentiles(stages_s),
    }


def _detect_all(
    detector: Detector, images: Path, file_names: Mapping[int, str], *, show_progress: bool
) -> tuple[dict[int, Detections], list[Mapping[str, float]]]:
    """The detections of each image by its id, and the seconds of the stages of each."""
    errors, found, stages_s = Console(stderr=True), {}, []
    is_hidden = not (show_progress and errors.is_terminal)
    files = progress_bar(list(file_names.items()), "detecting", console=errors, transient=True, disable=is_hidden)
    for image_id, file_name in files:
        found[image_id] = detector(images / file_name)
        stages_s.append(detector.times.by_name())
    return found, stages_s


def _class_ids(image_detector: ImageDetector, classes: Sequence[str]) -> Int64[np.ndarray, " C"]:
    """The ids of the named classes. Raises ModelFileError for a name that the model does not know, and for none."""
    known = image_detector.class_names
    unknown = [name for name in classes if name not in known]
    if isinstance(classes, str) or unknown or not classes:
        what = f"got {classes!r}" if isinstance(classes, str) else f"got {', '.join(unknown) or 'none'}"
        raise ModelFileError(
            f"{image_detector.manifest.name}: expected a list of its classes ({', '.join(known)}), {what}"
        )
    return np.array([known.index(name) for name in classes], np.int64)
