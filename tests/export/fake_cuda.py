# ruff: noqa: N801, N802, N803
"""A CUDA driver that computes on the host, with the ways in which a real one fails: for control flow, not for numbers.

Work is done when the stream is waited for and not before; a recorded graph runs when it is launched; a call from a
thread that has no current context is refused; memory can run out, and what is not given back shows.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum


class CUresult(IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_INVALID_CONTEXT = 201
    CUDA_ERROR_NO_DEVICE = 100
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901


class CUdevice_attribute(IntEnum):
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76


class CUstream_flags(IntEnum):
    CU_STREAM_NON_BLOCKING = 1


class CUstreamCaptureMode(IntEnum):
    CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1


class CUdevice: ...


class CUcontext: ...


@dataclass(eq=False)
class CUdeviceptr:
    memory: ctypes.Array

    def __int__(self) -> int:
        return ctypes.addressof(self.memory)


@dataclass(eq=False)
class CUgraph:
    work: list[Callable[[], object]]


@dataclass(eq=False)
class CUgraphExec:
    work: list[Callable[[], object]]


@dataclass(eq=False)
class CUstream:
    pending: list[Callable[[], object]] = field(default_factory=list)
    recording: list[Callable[[], object]] | None = None

    def __int__(self) -> int:
        return id(self)

    def add(self, work: Callable[[], object]) -> None:
        (self.pending if self.recording is None else self.recording).append(work)


@dataclass
class Machine:
    """What the driver has: set by a test before, read by it after."""

    has_driver: bool = True
    has_gpu: bool = True
    name: str = "Orin"
    compute_capability: tuple[int, int] = (8, 7)
    free_bytes: int = 2**30
    can_record: bool = True
    launches: int = 0
    live: dict[int, object] = field(default_factory=dict)
    streams: dict[int, CUstream] = field(default_factory=dict)
    current: threading.local = field(default_factory=threading.local)

    def has_context(self) -> bool:
        return getattr(self.current, "context", None) is not None


machine = Machine()
DONE = CUresult.CUDA_SUCCESS
NO_CONTEXT = CUresult.CUDA_ERROR_INVALID_CONTEXT


def cuInit(Flags: int) -> tuple[CUresult]:
    if not machine.has_driver:
        raise RuntimeError("Failed to dlopen libcuda.so.1")
    return (DONE if machine.has_gpu else CUresult.CUDA_ERROR_NO_DEVICE,)


def cuGetErrorString(error: CUresult) -> tuple[CUresult, bytes]:
    texts = {CUresult.CUDA_ERROR_OUT_OF_MEMORY: b"out of memory", NO_CONTEXT: b"invalid device context"}
    return DONE, texts.get(error, error.name.encode())


def cuDeviceGet(ordinal: int) -> tuple[CUresult, CUdevice]:
    return DONE, CUdevice()


def cuDeviceGetName(length: int, dev: CUdevice) -> tuple[CUresult, bytes]:
    return DONE, machine.name.encode().ljust(length, b"\0")


def cuDeviceGetAttribute(attrib: CUdevice_attribute, dev: CUdevice) -> tuple[CUresult, int]:
    is_major = attrib == CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
    return DONE, machine.compute_capability[0 if is_major else 1]


def cuDevicePrimaryCtxRetain(dev: CUdevice) -> tuple[CUresult, CUcontext]:
    return DONE, CUcontext()


def cuDevicePrimaryCtxRelease(dev: CUdevice) -> tuple[CUresult]:
    return (DONE,)


def cuCtxSetCurrent(ctx: CUcontext) -> tuple[CUresult]:
    machine.current.context = ctx
    return (DONE,)


def cuMemAlloc(bytesize: int) -> tuple[CUresult, CUdeviceptr | None]:
    if bytesize > machine.free_bytes:
        return CUresult.CUDA_ERROR_OUT_OF_MEMORY, None
    machine.free_bytes -= bytesize
    pointer = CUdeviceptr((ctypes.c_uint8 * bytesize)(*([0xAA] * min(bytesize, 16))))
    machine.live[int(pointer)] = pointer
    return DONE, pointer


def cuMemFree(dptr: CUdeviceptr) -> tuple[CUresult]:
    machine.free_bytes += len(dptr.memory)
    machine.live.pop(int(dptr), None)
    return (DONE,)


def cuMemHostAlloc(bytesize: int, Flags: int) -> tuple[CUresult, int]:
    memory = (ctypes.c_uint8 * bytesize)()
    machine.live[ctypes.addressof(memory)] = memory
    return DONE, ctypes.addressof(memory)


def cuMemFreeHost(p: int) -> tuple[CUresult]:
    machine.live.pop(p, None)
    return (DONE,)


def cuMemcpyHtoDAsync(
    dstDevice: CUdeviceptr,
    srcHost: int,
    ByteCount: int,
    hStream: CUstream,
) -> tuple[CUresult]:
    return _enqueue(hStream, lambda: ctypes.memmove(int(dstDevice), srcHost, ByteCount))


def cuMemcpyDtoHAsync(
    dstHost: int,
    srcDevice: CUdeviceptr,
    ByteCount: int,
    hStream: CUstream,
) -> tuple[CUresult]:
    return _enqueue(hStream, lambda: ctypes.memmove(dstHost, int(srcDevice), ByteCount))


def cuStreamCreate(Flags: int) -> tuple[CUresult, CUstream]:
    stream = CUstream()
    machine.streams[int(stream)] = stream
    return DONE, stream


def cuStreamDestroy(hStream: CUstream) -> tuple[CUresult]:
    machine.streams.pop(int(hStream), None)
    return (DONE,)


def cuStreamSynchronize(hStream: CUstream) -> tuple[CUresult]:
    pending, hStream.pending = hStream.pending, []
    for work in pending:
        work()
    return (DONE,)


def cuStreamBeginCapture(hStream: CUstream, mode: CUstreamCaptureMode) -> tuple[CUresult]:
    hStream.recording = []
    return (DONE,)


def cuStreamEndCapture(hStream: CUstream) -> tuple[CUresult, CUgraph | None]:
    work, hStream.recording = hStream.recording or [], None
    return (DONE, CUgraph(work)) if machine.can_record else (CUresult.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, None)


def cuGraphInstantiate(hGraph: CUgraph, flags: int) -> tuple[CUresult, CUgraphExec]:
    return DONE, CUgraphExec(list(hGraph.work))


def cuGraphLaunch(hGraphExec: CUgraphExec, hStream: CUstream) -> tuple[CUresult]:
    machine.launches += 1
    for work in hGraphExec.work:
        _enqueue(hStream, work)
    return (DONE,)


def cuGraphDestroy(hGraph: CUgraph) -> tuple[CUresult]:
    hGraph.work.clear()
    return (DONE,)


def cuGraphExecDestroy(hGraphExec: CUgraphExec) -> tuple[CUresult]:
    hGraphExec.work.clear()
    return (DONE,)


def _enqueue(stream: CUstream, work: Callable[[], object]) -> tuple[CUresult]:
    if not machine.has_context():
        return (NO_CONTEXT,)
    stream.add(work)
    return (DONE,)
