"""CUDA driver API for one engine: device and page-locked host memory, one stream, a recorded graph.

The driver API, not the runtime library: it is there wherever a GPU works, on a Jetson too, whatever CUDA toolkit is
installed. TensorRT works in the device's primary context, and so does this.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from cuda.bindings import driver as cuda
from jaxtyping import UInt8

from handeye.vision.errors import UserError

Answer = TypeVar("Answer")
NAME_BYTES = 256


class CudaError(UserError):
    """A call of the GPU driver failed; the message says which."""


class CudaDevice:
    """The first GPU that this process may see (CUDA_VISIBLE_DEVICES chooses it), with one stream."""

    def __init__(self) -> None:
        """Raises CudaError without a driver or a GPU."""
        try:
            _done("start", cuda.cuInit(0))
        except (RuntimeError, OSError) as error:  # the driver's library is not there
            raise CudaError(f"no NVIDIA driver: {' '.join(str(error).split())}") from error
        device = _value("find a GPU", cuda.cuDeviceGet(0))
        name = _value("name the GPU", cuda.cuDeviceGetName(NAME_BYTES, device))
        self.name = name.split(b"\0")[0].decode()
        kinds = cuda.CUdevice_attribute
        self.compute_capability = (
            _attribute(kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device),
            _attribute(kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device),
        )
        self._context = _value("open the GPU", cuda.cuDevicePrimaryCtxRetain(device))
        _when_gone(self, cuda.cuDevicePrimaryCtxRelease, device)
        self.make_current()
        flags = int(cuda.CUstream_flags.CU_STREAM_NON_BLOCKING)
        self._stream = _value("open a stream", cuda.cuStreamCreate(flags))
        _when_gone(self, cuda.cuStreamDestroy, self._stream)

    @property
    def stream_handle(self) -> int:
        """The stream as other libraries take it."""
        return int(self._stream)

    def make_current(self) -> None:
        """Work with this device in the calling thread; each thread must call it once."""
        _done("use the GPU", cuda.cuCtxSetCurrent(self._context))

    def allocate(self, num_bytes: int) -> MirroredBuffer:
        """Memory on the device and as much page-locked memory of the host; CudaError when there is not enough."""
        what = f"allocate {num_bytes / 2**20:.1f} MiB"
        return MirroredBuffer(
            self,
            num_bytes,
            _value(what, cuda.cuMemAlloc(num_bytes)),
            _value(what, cuda.cuMemHostAlloc(num_bytes, 0)),
        )

    def copy_in(self, buffer: MirroredBuffer, num_bytes: int) -> None:
        """Enqueue a copy of the first bytes from the host to the device."""
        answer = cuda.cuMemcpyHtoDAsync(buffer.device, buffer.host_address, num_bytes, self._stream)
        _done("copy to the GPU", answer)

    def copy_out(self, buffer: MirroredBuffer, num_bytes: int) -> None:
        """Enqueue a copy of the first bytes from the device to the host."""
        answer = cuda.cuMemcpyDtoHAsync(buffer.host_address, buffer.device, num_bytes, self._stream)
        _done("copy from the GPU", answer)

    def wait(self) -> None:
        """Until everything enqueued is done; CudaError for what went wrong on the way."""
        _done("compute", cuda.cuStreamSynchronize(self._stream))

    def record(self, enqueue: Callable[[], None]) -> RecordedWork | None:
        """What `enqueue` enqueues, as a graph to launch; None when it holds something that cannot be captured."""
        mode = cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        _done("record a graph", cuda.cuStreamBeginCapture(self._stream, mode))
        refused = False
        try:
            enqueue()
        except CudaError:
            refused = True
        code, graph = cuda.cuStreamEndCapture(self._stream)  # also ends a recording that failed
        if refused or not _succeeded(code):
            return None
        code, executable = cuda.cuGraphInstantiate(graph, 0)
        _done("drop a graph", cuda.cuGraphDestroy(graph))
        return RecordedWork(self, executable) if _succeeded(code) else None

    def launch(self, work: RecordedWork) -> None:
        """Enqueue recorded work."""
        _done("compute", cuda.cuGraphLaunch(work.executable, self._stream))


class MirroredBuffer:
    """The same number of bytes on the host (page-locked, as an array) and on the device."""

    def __init__(self, owner: CudaDevice, num_bytes: int, device: cuda.CUdeviceptr, host_address: int) -> None:
        self._owner = owner  # the context must outlive its memory
        self.device, self.host_address = device, host_address
        memory = (ctypes.c_uint8 * num_bytes).from_address(host_address)
        self.host: UInt8[np.ndarray, " bytes"] = np.ctypeslib.as_array(memory)
        _when_gone(self, cuda.cuMemFree, device)
        _when_gone(self, cuda.cuMemFreeHost, host_address)


class RecordedWork:
    """A CUDA graph, ready to launch."""

    def __init__(self, owner: CudaDevice, executable: cuda.CUgraphExec) -> None:
        self._owner = owner
        self.executable = executable
        _when_gone(self, cuda.cuGraphExecDestroy, executable)


def _when_gone(thing: object, release: Callable[[Answer], object], handle: Answer) -> None:
    """Give the handle back when `thing` is collected, or at the end of the process."""
    weakref.finalize(thing, release, handle)


def _attribute(kind: cuda.CUdevice_attribute, device: cuda.CUdevice) -> int:
    return _value("ask the GPU", cuda.cuDeviceGetAttribute(kind, device))


def _value(what: str, answer: tuple[cuda.CUresult, Answer]) -> Answer:
    _done(what, (answer[0],))
    return answer[1]


def _done(what: str, answer: tuple[cuda.CUresult]) -> None:
    if not _succeeded(answer[0]):
        _, text = cuda.cuGetErrorString(answer[0])
        raise CudaError(f"CUDA cannot {what}: {text.decode() if text else answer[0]}")


def _succeeded(code: cuda.CUresult) -> bool:
    return code == cuda.CUresult.CUDA_SUCCESS
