"""Run engines in TensorRT on an NVIDIA GPU: memory is allocated once, and after the first call one launch runs all.

Copies and computation are recorded as a CUDA graph; a network that cannot be recorded is enqueued each time. Shapes
are those of the engine; where a dimension is free, the buffers are as large as its profile allows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import tensorrt as trt

from handeye.vision.errors import ModelFileError
from handeye.vision.runtime.cuda_driver import CudaDevice, CudaError, MirroredBuffer, RecordedWork
from handeye.vision.runtime.engine_file import EngineFile, check_engine_fits
from handeye.vision.runtime.engines import Shape

DTYPES = {
    trt.DataType.FLOAT: np.float32,
    trt.DataType.HALF: np.float16,
    trt.DataType.INT32: np.int32,
    trt.DataType.INT64: np.int64,
    trt.DataType.INT8: np.int8,
    trt.DataType.UINT8: np.uint8,
    trt.DataType.BOOL: np.bool_,
}


@dataclass(frozen=True, slots=True)
class _Port:
    """One input or output: its type, its shape (-1 is free) and its memory."""

    dtype: np.dtype
    shape: tuple[int, ...]
    buffer: MirroredBuffer

    def num_bytes(self, shape: tuple[int, ...]) -> int:
        return int(np.prod(shape)) * self.dtype.itemsize

    def view(self, shape: tuple[int, ...]) -> np.ndarray:
        """The host's side of the buffer as an array of this shape."""
        return self.buffer.host[: self.num_bytes(shape)].view(self.dtype).reshape(shape)


class TensorrtSession:
    """A `Session` of an engine that handeye built. One thread at a time; any thread may call."""

    num_threads = 1

    def __init__(self, file: EngineFile) -> None:
        """Load the engine.

        Raises ModelFileError when the engine is of another TensorRT or GPU, or TensorRT refuses it; CudaError when
        there is no GPU or too little memory.
        """
        self._path, self._log = file.path, MessageLog()
        self._device = CudaDevice()
        check_engine_fits(file, trt.__version__, self._device.name, self._device.compute_capability)
        self.engine = f"tensorrt {trt.__version__} on {self._device.name}"
        self._engine = _load_engine(file, self._log)
        context = self._engine.create_execution_context()
        if context is None:
            raise CudaError(f"{file.path}: too little GPU memory to run it: {self._log.last_error}")
        self._context = context
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._recorded: RecordedWork | None = None
        self._inputs, self._outputs = self._allocate_ports()

    @property
    def inputs(self) -> Mapping[str, Shape]:
        """Shape of each input; None marks a free dimension."""
        return {name: _free_as_none(port.shape) for name, port in self._inputs.items()}

    @property
    def outputs(self) -> Mapping[str, Shape]:
        """Shape of each output; None marks a free dimension."""
        return {name: _free_as_none(port.shape) for name, port in self._outputs.items()}

    @property
    def is_recorded(self) -> bool:
        """Whether calls launch a CUDA graph; known after the first one."""
        return self._recorded is not None

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Compute all outputs; they are the session's own buffers, overwritten by the next call.

        Raises ModelFileError for other names, types or shapes than the engine has, CudaError when the GPU fails.
        """
        self._device.make_current()
        shapes = {name: array.shape for name, array in inputs.items()}
        is_new = not self._shapes or any(self._shapes.get(name) != shape for name, shape in shapes.items())
        if is_new:
            self._set_shapes(shapes)
        for name, array in inputs.items():
            np.copyto(self._inputs[name].view(array.shape), array, casting="same_kind")
        if is_new:
            # The first call at a shape sets up what must not happen while a graph is recorded.
            self._enqueue()
            self._device.wait()
            self._recorded = self._device.record(self._enqueue)
        elif self._recorded is not None:
            self._device.launch(self._recorded)
            self._device.wait()
        else:
            self._enqueue()
            self._device.wait()
        return {name: port.view(self._shapes[name]) for name, port in self._outputs.items()}

    def _enqueue(self) -> None:
        """Inputs to the GPU, the network, outputs back: all in the stream's order."""
        for name, port in self._inputs.items():
            self._device.copy_in(port.buffer, port.num_bytes(self._shapes[name]))
        if not self._context.execute_async_v3(self._device.stream_handle):
            raise CudaError(f"{self._path}: TensorRT cannot run it: {self._log.last_error}")
        for name, port in self._outputs.items():
            self._device.copy_out(port.buffer, port.num_bytes(self._shapes[name]))

    def _allocate_ports(self) -> tuple[dict[str, _Port], dict[str, _Port]]:
        """Memory for every input at its largest shape, and for the outputs that follow from it."""
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        modes = {name: self._engine.get_tensor_mode(name) for name in names}
        inputs = [name for name in names if modes[name] == trt.TensorIOMode.INPUT]
        largest = {name: tuple(self._engine.get_tensor_profile_shape(name, 0)[2]) for name in inputs}
        for name, shape in largest.items():
            self._context.set_input_shape(name, shape)
        outputs = [name for name in names if name not in largest]
        largest |= {name: tuple(self._context.get_tensor_shape(name)) for name in outputs}
        ports = {name: self._allocate_port(name, largest[name]) for name in names}
        return {name: ports[name] for name in inputs}, {name: ports[name] for name in outputs}

    def _allocate_port(self, name: str, largest: tuple[int, ...]) -> _Port:
        kind = self._engine.get_tensor_dtype(name)
        if kind not in DTYPES or self._engine.get_tensor_location(name) == trt.TensorLocation.HOST or -1 in largest:
            raise ModelFileError(
                f"{self._path}: {name} is of type {kind} and shape {largest}; expected numbers on the GPU whose shape "
                "does not depend on the image: export the graph without NMS"
            )
        dtype = np.dtype(DTYPES[kind])
        buffer = self._device.allocate(max(1, int(np.prod(largest)) * dtype.itemsize))
        self._context.set_tensor_address(name, int(buffer.device))
        return _Port(dtype, tuple(self._engine.get_tensor_shape(name)), buffer)

    def _set_shapes(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Tell the engine the inputs' shapes and ask it for the outputs'; a graph of other shapes is void."""
        if set(shapes) != set(self._inputs):
            raise ModelFileError(
                f"{self._path}: expected the inputs {', '.join(self._inputs)}, got {', '.join(shapes)}"
            )
        self._recorded, self._shapes = None, {}
        for name, shape in shapes.items():
            if not self._fits(name, shape) or not self._context.set_input_shape(name, shape):
                smallest, _, largest = self._engine.get_tensor_profile_shape(name, 0)
                raise ModelFileError(
                    f"{self._path}: {name} has the shape {shape}; the engine was built for {tuple(smallest)} to "
                    f"{tuple(largest)}"
                )
        self._shapes = shapes | {name: tuple(self._context.get_tensor_shape(name)) for name in self._outputs}

    def _fits(self, name: str, shape: tuple[int, ...]) -> bool:
        """Whether a shape lies in the profile: TensorRT may reject it only when it runs."""
        smallest, _, largest = self._engine.get_tensor_profile_shape(name, 0)
        bounds = list(zip(smallest, shape, largest, strict=False))
        return len(shape) == len(tuple(largest)) and all(low <= size <= high for low, size, high in bounds)


class MessageLog(trt.ILogger):
    """Keeps TensorRT's errors and warnings, which are reported nowhere else; drops the rest."""

    def __init__(self) -> None:
        super().__init__()  # the binding insists on its own constructor
        self.errors: list[str] = []
        self.warnings: list[str] = []

    def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
        """Called by TensorRT, from any of its threads."""
        line = " ".join(msg.split())
        if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
            self.errors.append(line)
        elif severity == trt.ILogger.Severity.WARNING:
            self.warnings.append(line)

    @property
    def last_error(self) -> str:
        """The newest error, or that there was none."""
        return self.errors[-1] if self.errors else "it does not say why"


def _load_engine(file: EngineFile, log: MessageLog) -> trt.ICudaEngine:
    try:
        runtime = trt.Runtime(log)
    except TypeError as error:  # how its Python binding reports a missing object
        raise CudaError(f"TensorRT {trt.__version__} cannot start on this GPU: {log.last_error}") from error
    if file.record.dla_core is not None:
        runtime.DLA_core = file.record.dla_core
    runtime.engine_host_code_allowed = file.record.version_compatible  # such plans bring their runtime with them
    engine = runtime.deserialize_cuda_engine(file.plan)
    if engine is None:
        raise ModelFileError(f"{file.path}: TensorRT {trt.__version__} refuses it: {log.last_error}")
    return engine


def _free_as_none(shape: tuple[int, ...]) -> Shape:
    return tuple(None if size < 0 else size for size in shape)
