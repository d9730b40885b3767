"""Run models in ONNX Runtime on the CPU: the engine that runs everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime

from handeye.vision.errors import ModelFileError
from handeye.vision.runtime.engines import Shape

ERRORS_ONLY = 3

onnxruntime.disable_telemetry_events()  # what a user runs is nobody else's business


class OnnxRuntimeSession:
    """A `Session` of ONNX Runtime's CPU provider, in float32 and with all graph optimisations."""

    def __init__(self, path: Path, num_threads: int) -> None:
        """Load `path`; raises ModelFileError when ONNX Runtime cannot."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.inter_op_num_threads = 1
        options.log_severity_level = ERRORS_ONLY
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors share no base class below Exception
            raise ModelFileError(f"{path}: ONNX Runtime refuses it: {' '.join(str(error).split())}") from error
        self.engine = f"onnxruntime {onnxruntime.__version__}"
        self.num_threads = num_threads
        self.inputs = {node.name: _shape(node.shape) for node in self._session.get_inputs()}
        self.outputs = {node.name: _shape(node.shape) for node in self._session.get_outputs()}

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Compute all outputs."""
        values = self._session.run(None, dict(inputs))
        return {name: np.asarray(value) for name, value in zip(self.outputs, values, strict=True)}


def _shape(dimensions: list[int | str | None]) -> Shape:
    return tuple(size if isinstance(size, int) else None for size in dimensions)
