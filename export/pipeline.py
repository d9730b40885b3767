"""Export a detector: ONNX in float32, float16 and INT8, a TensorRT engine, parity with torch, AP, latency, a report.

`export_model` is what `handeye export` and the Python API call. Importing this needs neither torch nor onnx, and
neither does building an engine from an ONNX file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from handeye.export.request import ExportRequest
from handeye.export.result import ExportResult
from handeye.export.tensorrt.build_options import BuildOptions, trtexec_command
from handeye.vision.runtime.engine_file import ENGINE_SUFFIX
from handeye.vision.runtime.engines import require_tensorrt
from handeye.vision.runtime.manifest import read_manifest

INPUT_NAME = "images"
"""Name of the input in handeye's ONNX files."""


def export_model(request: ExportRequest, *, on_artefacts: Callable[[ExportResult], None] | None = None) -> ExportResult:
    """Write the files that `request` asks for, measure them and accept or reject each.

    An engine is built last, from the smallest accepted file; `on_artefacts` gets everything but the engine before that,
    because a build takes minutes and may fail. Raises UserError (or a subclass) for a model that cannot be used,
    for missing calibration images, and where TensorRT is not installed or cannot build the engine.
    """
    result = ExportResult()
    if not request.is_engine_only:
        from handeye.export.stages import make_artefacts  # needs torch and onnx

        result = make_artefacts(request)
    if not request.wants_engine:
        _show(result, on_artefacts)
        return result
    onnx_path = request.model if request.is_engine_only else result.best_for_tensorrt
    engine_path = request.output / f"{onnx_path.stem}{ENGINE_SUFFIX}"
    result = replace(result, trtexec=_trtexec_command(onnx_path, engine_path, request.engine))
    _show(result, on_artefacts)
    require_tensorrt()
    from handeye.export.tensorrt.engine import build_engine

    return replace(result, engine=build_engine(onnx_path, engine_path, request.engine))


def _show(result: ExportResult, on_artefacts: Callable[[ExportResult], None] | None) -> None:
    if on_artefacts is not None:
        on_artefacts(result)


def _trtexec_command(onnx_path: Path, engine_path: Path, options: BuildOptions) -> str:
    shape = (None, 3, *read_manifest(onnx_path).preprocessing.size_hw)
    return trtexec_command(onnx_path, engine_path.with_suffix(".plan"), options, {INPUT_NAME: shape})
