"""OpenVINO on the processor: the fast engine on x86."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import openvino

from vision.errors import ModelFileError
from vision.runtime.session import Shape


@functools.cache
def shared_core() -> openvino.Core:
    """The one Core of this process; it is never given back.

    Where the processor has AMX, OpenVINO's CPU plugin gives the thread that loads it a stack of its own for signal
    handlers. Were the last Core dropped in another thread, that stack would be unmapped while it is still in use, and
    the next signal, such as Ctrl-C, would end the process with a segmentation fault.
    """
    return openvino.Core()


class OpenvinoSession:
    """A `Session` of OpenVINO's CPU device, tuned for the latency of one image at a time.

    Left to itself OpenVINO computes in bfloat16 where the processor can; here it is held to float32, so that every
    engine gives the same detections. It also pins its threads to processors, where they wait for whoever else runs
    there: two processes with one thread each would share one processor. Here the system places them.
    """

    def __init__(self, path: Path, num_threads: int) -> None:
        """Load `path`; raises ModelFileError when OpenVINO refuses it."""
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": num_threads,
            "INFERENCE_PRECISION_HINT": "f32",
            "ENABLE_CPU_PINNING": False,
        }
        try:
            compiled = shared_core().compile_model(str(path), "CPU", settings)
        except RuntimeError as error:
            raise ModelFileError(f"{path}: OpenVINO refuses it: {' '.join(str(error).split())}") from error
        self._request = compiled.create_infer_request()
        self.engine = f"openvino {openvino.__version__.partition('-')[0]}"
        self.num_threads = num_threads
        self.inputs = {port.any_name: _shape(port) for port in compiled.inputs}
        self.outputs = {port.any_name: _shape(port) for port in compiled.outputs}

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Compute all outputs; they are OpenVINO's own buffers, overwritten by the next call."""
        values = self._request.infer(dict(inputs), share_inputs=True, share_outputs=True)
        return {name: values[index] for index, name in enumerate(self.outputs)}


def _shape(port: openvino.ConstOutput) -> Shape:
    return tuple(size.get_length() if size.is_static else None for size in port.partial_shape)
