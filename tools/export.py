"""Export a detector to ONNX (float32, float16, INT8) or to a TensorRT engine, and check it against the checkpoint.

The ONNX file is complete: decoded boxes in the graph, class names, preprocessing and thresholds in its metadata. Its
outputs are compared with torch's in every installed engine. INT8 is calibrated on images; a file that loses more AP
than allowed, or is not faster than float32 on its target engine, is rejected, and the report says why. An engine is
built from a checkpoint or from such an ONNX file, on the device that will run it.

examples:
  handeye export runs/smoke/best.safetensors --output runs/exported
  handeye export best.safetensors --format onnx,fp16,int8 --calibrate images --report
  handeye export model.int8.onnx --format engine
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rich.console import Console

from handeye.export.pipeline import export_model
from handeye.export.request import ExportOptions, ExportRequest
from handeye.tools.command_line import Positional
from handeye.tools.export_summary import print_engine, print_result
from handeye.vision.files import write_json


@dataclass(frozen=True, kw_only=True)
class _Files:
    """Options that the command line writes otherwise than the API; they come first in --help."""

    model: Positional[Path]
    """Native checkpoint (.safetensors), or an ONNX file: one that handeye exported, or one of another program with
    --model-format."""
    format: str = "onnx"
    """Formats to write, separated by commas. onnx: float32, always written; fp16: float16 with float32 islands; int8:
    for TensorRT; int8-fp16: the same with float16 between its layers, for strongly typed networks; int8-x86: for ONNX
    Runtime on x86; int8-openvino: for OpenVINO on x86; int8-plain: everything in 8 bits by the plainest recipe, to
    compare with; engine: TensorRT, for the GPU of this machine, from the smallest file that is not rejected."""
    output: Path = Path("runs/export")
    """Folder for the files."""
    classes: str | None = None
    """Classes to keep, separated by commas, in this order; all of them by default."""


@dataclass(frozen=True, kw_only=True)
class Arguments(ExportOptions, _Files):
    """What `handeye export` takes."""

    json: Path | None = None
    """Write the result to this file."""


def run(arguments: Arguments) -> int:
    """Export and print; 1 when a file differs from torch or is rejected."""
    console = Console()
    result = export_model(_request(arguments), on_artefacts=lambda partial: print_result(console, partial))
    if result.engine is not None:
        print_engine(console, result.engine)
    if arguments.json is not None:
        write_json(arguments.json, result.as_json())
    return 0 if result.passed else 1


def _request(arguments: Arguments) -> ExportRequest:
    options: dict[str, Any] = {field.name: getattr(arguments, field.name) for field in fields(ExportOptions)}
    classes = None if arguments.classes is None else _words(arguments.classes)
    return ExportRequest(
        model=arguments.model, formats=_words(arguments.format), output=arguments.output, classes=classes, **options
    )


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(","))
