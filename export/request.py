"""Export requests: which model, which formats and precisions, on which images to calibrate and to measure.

Needs neither torch nor onnx, for an engine is also built on devices that have neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from handeye.export.tensorrt.build_options import BuildOptions
from handeye.vision.errors import UserError
from handeye.vision.evaluation.protocol import ProtocolName
from handeye.vision.evaluation.torch_session import CHECKPOINT_SUFFIX
from handeye.vision.runtime.image_detector import ModelFormat

Precision = Literal["float32", "float16", "int8", "int8_float16", "int8_x86", "int8_openvino", "int8_plain"]
FORMATS: dict[str, Precision] = {
    "onnx": "float32",
    "fp16": "float16",
    "int8": "int8",
    "int8-fp16": "int8_float16",
    "int8-x86": "int8_x86",
    "int8-openvino": "int8_openvino",
    "int8-plain": "int8_plain",
}
ENGINE = "engine"
LEARNABLE = {"int8", "int8-fp16"}
"""Formats for which quantisation-aware training provides the ranges, so that no calibration is needed."""
ONNX_SUFFIX = ".onnx"


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """How to export: what the files contain, how they are quantised, what is measured."""

    model_format: ModelFormat | None = None
    """Format of an ONNX file that another program exported: yolox."""
    score_threshold: float | None = None
    """Default score threshold, stored in the file; detections below it are dropped."""
    iou_threshold: float | None = None
    """Default IoU threshold of NMS, stored in the file."""
    nms: Literal["outside", "in-graph"] = "outside"
    """Where NMS runs: outside, in handeye's run time, or in the graph, which then returns the 300 best boxes
    (1, 300, 6) and has a fixed IoU threshold."""
    dynamic_batch: bool = False
    """Leave the batch size free (--engine.batch bounds it for an engine)."""
    dynamic_size: bool = False
    """Leave height and width free, in steps of the coarsest stride; detectors with positions or anchors cannot."""
    calibrate: Path | None = None
    """Calibration images for INT8: a folder of images, or annotations in any format that training reads (of a data.yaml
    its split train), which guide the search for layers to keep in float. A checkpoint trained with int8 brings its own
    ranges."""
    calibrate_images: Path | None = None
    """Folder of the images that annotations given to --calibrate name; by default where their format has them."""
    allowed_loss: float = 0.01
    """AP that FP16 and INT8 may lose."""
    annotations: Path | None = None
    """Annotations on which to measure the AP of each file, in any format that training reads."""
    images: Path | None = None
    """Folder of the images that --annotations names."""
    protocol: ProtocolName = "deployed"
    """What is done to the boxes before AP is computed: deployed, as `handeye detect` runs them, or published, as in the
    literature (boxes not cut at the edges of the image, NMS threshold 0.65)."""
    threads: int | None = None
    """Threads of the engines; by default one per processor."""
    pause_s: float = 0.2
    """Pause before each turn of the latency measurement, in seconds."""
    report: bool = False
    """Measure latency and write report.html, too."""
    compare: tuple[Path, ...] = ()
    """ONNX files exported earlier (a pruned network, for example) to measure alongside: each gets a row in the tables
    and the report, named after the file."""
    engine: BuildOptions = BuildOptions()
    """How a TensorRT engine is built."""


@dataclass(frozen=True, kw_only=True)
class ExportRequest(ExportOptions):
    """One export. Raises UserError for options that do not fit together."""

    model: Path
    """Native checkpoint (.safetensors) or ONNX file (.onnx): one that handeye exported, or one of another program, with
    `model_format`."""
    formats: tuple[str, ...] = ("onnx",)
    """Names of FORMATS and "engine"; the float32 ONNX file is always written, except for "engine" alone from ONNX."""
    output: Path = Path("runs/export")
    """Folder for the files."""
    classes: tuple[str, ...] | None = None
    """Classes to keep, in this order; None: all."""

    def __post_init__(self) -> None:
        if unknown := [name for name in self.formats if name not in FORMATS and name != ENGINE]:
            raise UserError(f"--format {unknown[0]}: this version writes {', '.join([*FORMATS, ENGINE])}")
        if self.model.suffix.lower() not in (CHECKPOINT_SUFFIX, ONNX_SUFFIX):
            raise UserError(f"{self.model}: expected a native checkpoint (.safetensors) or an ONNX file (.onnx)")
        if (self.annotations is None) != (self.images is None):
            raise UserError("--annotations and --images belong together")
        is_dynamic = self.dynamic_batch or self.dynamic_size
        if self.is_onnx and self.classes is not None:
            raise UserError("--classes: classes are chosen when a checkpoint is exported; this is an ONNX file already")
        if self.is_onnx and is_dynamic:
            raise UserError("--dynamic-batch, --dynamic-size: for a checkpoint; the shapes of an ONNX file are fixed")
        if self.nms == "in-graph" and is_dynamic:
            raise UserError(
                "--nms in-graph: takes boxes of one image of fixed size; leave out --dynamic-batch, --dynamic-size"
            )
        titles = [*dict.fromkeys(["float32", *self.precisions]), *(path.stem for path in self.compare)]
        if twice := [title for title in titles if titles.count(title) > 1]:
            raise UserError(f"--compare: two rows would be called {twice[0]}; rename one file")

    @property
    def is_onnx(self) -> bool:
        """Whether the model is an ONNX file already."""
        return self.model.suffix.lower() == ONNX_SUFFIX

    @property
    def precisions(self) -> list[Precision]:
        """The precisions of the ONNX files asked for."""
        return [FORMATS[name] for name in self.formats if name != ENGINE]

    @property
    def wants_engine(self) -> bool:
        """Whether a TensorRT engine is built."""
        return ENGINE in self.formats

    @property
    def is_engine_only(self) -> bool:
        """Whether an ONNX file becomes an engine as it is, on a device without torch and onnx."""
        return self.is_onnx and tuple(self.formats) == (ENGINE,)

    def require_calibration(self, *, has_learned_ranges: bool) -> None:
        """Raise UserError where INT8 has no source of activation ranges."""
        int8 = {name for name in self.formats if name.startswith("int8")}
        if has_learned_ranges:
            int8 -= LEARNABLE
        if int8 and self.calibrate is None:
            raise UserError(
                f"--format {','.join(sorted(int8))}: INT8 needs calibration images: --calibrate FOLDER or ANNOTATIONS"
            )
