"""The step of `handeye export` that builds a TensorRT engine on this machine's GPU, and says how trtexec would."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from handeye.export.tensorrt.build_options import BuildOptions, trtexec_command
from handeye.vision.runtime.engines import require_tensorrt
from handeye.vision.runtime.manifest import read_manifest

if TYPE_CHECKING:
    from handeye.export.tensorrt.engine import EngineBuild

INPUT_NAME = "images"
"""What handeye's exports call their input."""


def build_and_report(onnx_path: Path, engine_path: Path, options: BuildOptions, console: Console) -> EngineBuild:
    """Build the engine of an ONNX file that handeye wrote; prints what it took and the command of trtexec.

    Raises MissingPackageError where TensorRT is not installed, and the errors of `build_engine`.
    """
    command = trtexec_command(
        onnx_path, engine_path.with_suffix(".plan"), options, {INPUT_NAME: _input_shape(onnx_path)}
    )
    console.print(f"with trtexec, for other programs: {command}", highlight=False, markup=False, soft_wrap=True)
    require_tensorrt()
    from handeye.export.tensorrt.engine import build_engine

    built = build_engine(onnx_path, engine_path, options)
    for warning in built.warnings:
        console.print(f"warning: {warning}", highlight=False, markup=False, soft_wrap=True)
    record, size = built.record, engine_path.stat().st_size / 1e6
    told = f"{engine_path} ({size:.2f} MB): TensorRT {record.tensorrt} for {record.gpu}, built in {built.seconds:.0f} s"
    console.print(told, highlight=False, markup=False, soft_wrap=True)
    return built


def _input_shape(onnx_path: Path) -> tuple[int | None, ...]:
    return (None, 3, *read_manifest(onnx_path).preprocessing.size_hw)
