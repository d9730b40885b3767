"""Index of a bundle (bundle.json): files with hashes, models, golden detections, tolerances, engine versions."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from handeye.export.agreement import Tolerance
from handeye.vision.config import Config
from handeye.vision.errors import UserError
from handeye.vision.runtime.detections import Detections
from handeye.vision.runtime.engine_file import version_numbers

INDEX_NAME = "bundle.json"
Precision = Literal["float32", "float16", "int8"]
VerifyEngine = Literal["onnxruntime", "openvino", "tensorrt"]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class BundleError(UserError):
    """A bundle is damaged, incomplete, unsafe to unpack or not for the engines installed here."""


class FileEntry(Config):
    """One file of a bundle."""

    path: str
    sha256: Sha256
    bytes: Annotated[int, Field(ge=0)]


class GoldenDetections(Config):
    """Detections of ONNX Runtime in one image."""

    boxes_xyxy: tuple[tuple[float, float, float, float], ...]
    scores: tuple[float, ...]
    class_ids: tuple[int, ...]

    @classmethod
    def of(cls, found: Detections) -> GoldenDetections:
        """Convert from detections."""
        return cls(
            boxes_xyxy=tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in found.boxes_xyxy),
            scores=tuple(map(float, found.scores)),
            class_ids=tuple(map(int, found.class_ids)),
        )

    def detections(self, class_names: tuple[str, ...]) -> Detections:
        """Convert to detections."""
        boxes = np.array(self.boxes_xyxy, np.float32).reshape(-1, 4)
        return Detections(boxes, np.array(self.scores, np.float32), np.array(self.class_ids, np.int64), class_names)


class BundleModel(Config):
    """One ONNX file with its golden detections and tolerances."""

    precision: Precision
    file: str
    golden: dict[str, GoldenDetections]
    """Detections of this file by golden image, from ONNX Runtime on the machine that made the bundle."""
    tolerances: dict[VerifyEngine, Tolerance]


class VersionRange(Config):
    """Versions from `oldest` up to, but without, `before`; None: no upper limit."""

    oldest: str
    before: str | None = None

    def admits(self, version: str) -> bool:
        """Whether a version is in the range; compared number by number."""
        here = version_numbers(version)
        return version_numbers(self.oldest) <= here and (self.before is None or here < version_numbers(self.before))

    def __str__(self) -> str:
        """ "10.3 or newer, before 12"."""
        return f"{self.oldest} or newer" + (f", before {self.before}" if self.before else "")


class BundleIndex(Config):
    """The content of bundle.json."""

    format_version: Literal[1] = 1
    name: str
    made_by: str
    """Program, version and engine that made the golden detections."""
    class_names: tuple[str, ...]
    models: Annotated[tuple[BundleModel, ...], Field(min_length=1)]
    images: Annotated[tuple[str, ...], Field(min_length=1)]
    engines: dict[VerifyEngine, VersionRange]
    files: tuple[FileEntry, ...]


ENGINES: dict[VerifyEngine, VersionRange] = {
    "onnxruntime": VersionRange(oldest="1.18"),
    "openvino": VersionRange(oldest="2024.4"),
    "tensorrt": VersionRange(oldest="10.3", before="12"),
}
"""Supported versions; known faults of TensorRT are listed in export/tensorrt/build_options.py."""

TOLERANCES: dict[Precision, dict[VerifyEngine, Tolerance]] = {
    "float32": {
        "onnxruntime": Tolerance(boxes_px=0.5, scores=0.01),
        "openvino": Tolerance(boxes_px=0.5, scores=0.01),
        "tensorrt": Tolerance(boxes_px=1.0, scores=0.03),
    },
    "float16": {
        "onnxruntime": Tolerance(boxes_px=1.0, scores=0.03),
        "openvino": Tolerance(boxes_px=1.0, scores=0.03),
        "tensorrt": Tolerance(boxes_px=1.5, scores=0.03),
    },
    "int8": {
        "onnxruntime": Tolerance(overlap=0.85, scores=0.10, outliers=0.05),
        "openvino": Tolerance(overlap=0.85, scores=0.10, outliers=0.05),
        "tensorrt": Tolerance(overlap=0.85, scores=0.10, outliers=0.05),
    },
}
"""TensorRT multiplies float32 with a 10-bit mantissa (TF32). In INT8 the last bit of a float sum, which differs between
engines and processors, can move a value to the next of 256 levels, and the difference propagates through all later
layers. So INT8 is compared by IoU, not in pixels, and a few detections in hundreds may be further off. (Published
YOLOX-nano, OpenVINO and ONNX Runtime, 48 images: 7 of 221; where OpenVINO's own 8-bit kernels are wrong, nearly all.)

Tolerances for TensorRT follow from the arithmetic and have not been measured on a GPU.
"""
