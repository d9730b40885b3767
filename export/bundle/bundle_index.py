"""What a bundle says of itself: its files with their hashes, its models, what they must answer and how exactly."""

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
    """A bundle is damaged, incomplete, unsafe to unpack or not for what is installed here."""


class FileEntry(Config):
    """One file of a bundle."""

    path: str
    sha256: Sha256
    bytes: Annotated[int, Field(ge=0)]


class GoldenDetections(Config):
    """What ONNX Runtime found in one image."""

    boxes_xyxy: tuple[tuple[float, float, float, float], ...]
    scores: tuple[float, ...]
    class_ids: tuple[int, ...]

    @classmethod
    def of(cls, found: Detections) -> GoldenDetections:
        """Detections as numbers that JSON holds."""
        return cls(
            boxes_xyxy=tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in found.boxes_xyxy),
            scores=tuple(map(float, found.scores)),
            class_ids=tuple(map(int, found.class_ids)),
        )

    def detections(self, class_names: tuple[str, ...]) -> Detections:
        """The same as detectors give them."""
        boxes = np.array(self.boxes_xyxy, np.float32).reshape(-1, 4)
        return Detections(boxes, np.array(self.scores, np.float32), np.array(self.class_ids, np.int64), class_names)


class BundleModel(Config):
    """One ONNX file and what it must answer."""

    precision: Precision
    file: str
    golden: dict[str, GoldenDetections]
    """Detections of this very file by golden image, from ONNX Runtime on the machine that made the bundle."""
    tolerances: dict[VerifyEngine, Tolerance]


class VersionRange(Config):
    """Versions from `oldest` on and before `before`; None is open."""

    oldest: str
    before: str | None = None

    def admits(self, version: str) -> bool:
        """Whether a version lies in the range; compared number by number."""
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
"""What the run time was written for; TensorRT's own faults are known to export/tensorrt/build_options.py."""

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
"""TensorRT multiplies float32 with 10 bits of mantissa (TF32). A number that lies between two of 256 steps falls to
either side by the last bit of a float sum, which is another one in every engine and on every processor, and what was
rounded otherwise once is rounded otherwise in all layers behind. So of int8 overlap counts, not pixels, and a few of
hundreds of detections may be further off. (Published YOLOX-nano, OpenVINO beside ONNX Runtime, 48 images: 7 of 221;
where OpenVINO's own 8-bit kernels are wrong, nearly all.)

Those of TensorRT are set from the arithmetic, not measured: no GPU was at hand.
"""
