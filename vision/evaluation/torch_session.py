"""Run native checkpoints in torch through the runtime's `Session`, and show where a detector's queries attend.

With it every command takes a checkpoint as well as an export. Only heads of queries have attention maps, and only torch
shows them: a deployed graph gives rows and nothing else. torch is imported when a checkpoint is opened and not before:
this module itself loads without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Float32, Int64, UInt8
from typing_extensions import assert_never

from handeye.vision.errors import UserError
from handeye.vision.images import ResizeTransform, preprocess
from handeye.vision.runtime.engines import EngineChoice, available_processors
from handeye.vision.runtime.image_detector import ImageDetector, ModelFormat
from handeye.vision.runtime.manifest import Manifest, OutputLayout, QueryRows, YoloxRows, validate_manifest

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
) -> ImageDetector:
    """`ImageDetector.load` that also takes a native checkpoint (.safetensors), which torch then computes.

    Raises UserError when an engine or a third-party format is named for a checkpoint.
    """
    if Path(model).suffix.lower() != CHECKPOINT_SUFFIX:
        return ImageDetector.load(
            model,
            engine=engine,
            model_format=model_format,
            score_threshold=score_threshold,
            iou_threshold=iou_threshold,
            num_threads=num_threads,
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
    )


def detector_manifest(detector: Detector, name: str, class_names: Sequence[str] | None = None) -> Manifest:
    """What the runtime must know of a detector, from its configuration; class_names None means all of them."""
    content = {
        "name": name,
        "class_names": tuple(class_names or detector.config.class_names),
        "preprocessing": detector.config.preprocessing,
        "output": output_layout(detector),
    }
    return validate_manifest(content, origin=name)


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
    """How to decode the rows of a detector, which its head decides."""
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


@runtime_checkable
class HeadOfQueries(Protocol):
    """A head that gives the attention of its queries."""

    def attention_maps(self, pyramid: Sequence[Any]) -> Any:
        """A pyramid of tensors -> shares of attention (B, Q, rows, columns) over cells that cover the input."""
        ...


class AttentionMaps:
    """`maps = attention(image_rgb, queries)`: the attention map of each of these rows of the output."""

    def __init__(self, detector: ImageDetector) -> None:
        """Raises UserError unless `detector` is a checkpoint whose head has queries."""
        session = detector.session
        if not isinstance(session, TorchSession):
            raise UserError(
                f"{detector.manifest.name}: attention maps need a native checkpoint (.safetensors), "
                f"not {detector.engine}"
            )
        head = session.detector.head
        if not isinstance(head, HeadOfQueries):
            kind = session.detector.config.head.kind
            raise UserError(
                f"{detector.manifest.name}: a head of kind {kind} has no queries and no attention maps; "
                "detr, rtdetr and dfine have"
            )
        self._detector, self._maps_of = session.detector, head.attention_maps
        self._preprocessing = detector.manifest.preprocessing

    def __call__(
        self, image_rgb: UInt8[np.ndarray, "h w 3"], queries: Int64[np.ndarray, " N"]
    ) -> Float32[np.ndarray, "N h w"]:
        """A query's attention to each pixel, scaled from 0 (least) to 1 (most) over the image."""
        import torch

        values, transform = preprocess(image_rgb, self._preprocessing)
        with torch.inference_mode():
            device = next(self._detector.parameters()).device
            features = self._detector.backbone(torch.from_numpy(values)[None].to(device))
            maps = self._maps_of(self._detector.neck(features))[0].float().cpu().numpy()
        shown = np.zeros((len(queries), *image_rgb.shape[:2]), np.float32)
        for number, query in enumerate(queries):
            shown[number] = _over_image(maps[query], transform)
        return shown


def _over_image(map_: Float32[np.ndarray, "rows columns"], transform: ResizeTransform) -> Float32[np.ndarray, "h w"]:
    """From the cells of the network input to the pixels of the image, padding left out."""
    (height, width), (input_height, input_width) = transform.image_hw, transform.input_hw
    over_input = cv2.resize(map_, (input_width, input_height), interpolation=cv2.INTER_LINEAR)
    filled = over_input[: max(1, int(height * transform.scale_y)), : max(1, int(width * transform.scale_x))]
    over_image = cv2.resize(filled, (width, height))
    over_image -= over_image.min()
    return (over_image / max(float(over_image.max()), 1e-12)).astype(np.float32)
