"""Run models in ONNX Runtime on the CPU: the engine that runs everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime

from handeye.vision.errors import ModelFileError
from handeye.vision.runtime.engines import Shape, as_input

ERRORS_ONLY = 3
NUMPY_NAMES = {"float": "float32", "double": "float64"}
"""Where ONNX Runtime's name of a type is not NumPy's."""

onnxruntime.disable_telemetry_events()  # what a user runs is nobody else's business


class OnnxRuntimeSession:
    """A `Session` of ONNX Runtime's CPU provider, in the types of the file and with all graph optimisations."""

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
        self._path = path
        self._types = {node.name: _type(path, node.name, node.type) for node in self._session.get_inputs()}
        self.inputs = {node.name: _shape(node.shape) for node in self._session.get_inputs()}
        self.outputs = {node.name: _shape(node.shape) for node in self._session.get_outputs()}

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Compute all outputs. Raises ModelFileError where ONNX Runtime fails or an input has another type."""
        try:
            given = {name: as_input(value, self._types[name], name) for name, value in inputs.items()}
            values = self._session.run(None, given)
        except Exception as error:  # its errors share no base class below Exception
            raise ModelFileError(f"{self._path}: cannot be run: {' '.join(str(error).split())}") from error
        return {name: np.asarray(value) for name, value in zip(self.outputs, values, strict=True)}


def _type(path: Path, name: str, declared: str) -> np.dtype:
    """NumPy's type for "tensor(float16)" and the like."""
    word = declared.removeprefix("tensor(").removesuffix(")")
    try:
        return np.dtype(NUMPY_NAMES.get(word, word))
    except TypeError as error:
        raise ModelFileError(f"{path}: its input {name!r} is {declared}, which NumPy has not") from error


def _shape(dimensions: list[int | str | None]) -> Shape:
    return tuple(size if isinstance(size, int) else None for size in dimensions)
