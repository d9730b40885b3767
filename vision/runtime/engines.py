"""The inference engine interface (`Session`: named arrays in, named arrays out) and the choice of an engine."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from typing_extensions import assert_never

from handeye.vision.errors import MissingPackageError, ModelFileError, UserError

EngineChoice = Literal["auto", "onnxruntime", "openvino"]
EngineName = Literal["onnxruntime", "openvino"]
Precision = Literal["auto", "fp32", "bf16"]
"""Arithmetic of a network in float; bf16 keeps three digits and is fast only where the processor has it. auto is bf16
where OpenVINO computes the network and would choose it itself, else fp32."""
Shape = tuple[int | None, ...]


@runtime_checkable
class Session(Protocol):
    """A network loaded into an engine. One call at a time: engines reuse their buffers."""

    @property
    def engine(self) -> str:
        """Name and version of the engine, as reports print it."""
        ...

    @property
    def num_threads(self) -> int:
        """How many threads one call may use."""
        ...

    @property
    def inputs(self) -> Mapping[str, Shape]:
        """Shape of each input; None marks a free dimension."""
        ...

    @property
    def outputs(self) -> Mapping[str, Shape]:
        """Shape of each output; None marks a free dimension."""
        ...

    def run(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """Compute all outputs. They stay valid until the next call; copy what must live longer.

        Inputs are converted to the types that the network declares. Raises ModelFileError where that is impossible, or
        the engine fails.
        """
        ...


def open_session(
    path: Path, engine: EngineChoice = "auto", num_threads: int | None = None, precision: Precision = "fp32"
) -> Session:
    """Load an ONNX file into an engine; `num_threads` None means one for each processor of this process.

    Raises MissingPackageError when the engine is not installed, ModelFileError when it cannot load the file, UserError
    for bf16 with another engine than OpenVINO.
    """
    num_threads = num_threads or available_processors()
    name = fastest_engine() if engine == "auto" else engine
    if precision == "bf16" and name != "openvino":
        raise UserError(f"{precision} is computed by the engine 'openvino' only, not by {name!r}")
    if importlib.util.find_spec(name) is None:
        raise MissingPackageError(f"the engine {name!r} is not installed; add it with: pip install 'handeye[cpu]'")
    if name == "onnxruntime":
        from handeye.vision.runtime.onnxruntime_session import OnnxRuntimeSession

        return OnnxRuntimeSession(path, num_threads)
    if name == "openvino":
        from handeye.vision.runtime.openvino_session import OpenvinoSession

        return OpenvinoSession(path, num_threads, precision)
    assert_never(name)


def installed_engines() -> tuple[EngineName, ...]:
    """The engines that are installed here, the one that is usually fastest first.

    On x86 OpenVINO takes about half of ONNX Runtime's time for networks of plain convolutions; for depthwise ones
    both are within a tenth of each other. On other processors it is ONNX Runtime that is tuned. `handeye benchmark`
    measures a model here.
    """
    order: tuple[EngineName, ...] = ("openvino", "onnxruntime")
    if platform.machine().lower() not in {"x86_64", "amd64"}:
        order = ("onnxruntime", "openvino")
    return tuple(name for name in order if importlib.util.find_spec(name) is not None)


def fastest_engine() -> EngineName:
    """The first of `installed_engines`; MissingPackageError when there is none."""
    engines = installed_engines()
    if not engines:
        raise MissingPackageError("no inference engine is installed; add one with: pip install 'handeye[cpu]'")
    return engines[0]


def as_input(values: np.ndarray, wanted: np.dtype, name: str) -> np.ndarray:
    """An input in the type that a network declares for it.

    Raises ModelFileError where the type is no number, or cannot hold the values: pixels / 255 as whole numbers.
    """
    if values.dtype == wanted:
        return values
    with np.errstate(invalid="ignore", over="ignore"):
        converted = values.astype(wanted) if wanted.kind in "fiu" else None
    if converted is None or (wanted.kind in "iu" and not np.array_equal(converted, values)):
        raise ModelFileError(f"input {name!r} takes {wanted}, which cannot hold what the preprocessing gives")
    return converted


def require_tensorrt() -> None:
    """Raise MissingPackageError, with what adds it, where TensorRT or CUDA's Python packages do not load."""
    try:
        importlib.import_module("tensorrt")
        importlib.import_module("cuda.bindings.driver")
    except ImportError as error:
        raise MissingPackageError(
            f"TensorRT does not load ({error}); add it with: pip install 'handeye[tensorrt]'; on a Jetson it comes "
            "with JetPack: make the environment with --system-site-packages and add cuda-bindings"
        ) from error


def available_processors() -> int:
    """How many processors this process may use: in a container fewer than the machine has, and no more than
    OMP_NUM_THREADS where that is set. On a busy machine threads that wait for one another cost more than they gain."""
    number = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return min(number, int(limit)) if limit.isdecimal() and int(limit) else max(1, number)
