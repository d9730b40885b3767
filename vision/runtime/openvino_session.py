"""Run models in OpenVINO on the CPU: the fast engine on x86."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import openvino

from handeye.vision.errors import ModelFileError
from handeye.vision.runtime.engines import Precision, Shape, as_input


@functools.cache
def shared_core() -> openvino.Core:
    """The one Core of this process; it is never released.

    Where the processor has AMX, OpenVINO's CPU plugin gives the thread that loads it a separate stack for signal
    handlers. Were the last Core dropped in another thread, that stack would be unmapped while it is still in use, and
    the next signal, such as Ctrl-C, would end the process with a segmentation fault.
    """
    return openvino.Core()


class OpenvinoSession:
    """A `Session` of OpenVINO's CPU device, tuned for the latency of one image at a time.

    Left to itself OpenVINO computes in bfloat16 where the processor can; here it is held to float32, so that every
    engine gives the same detections. It also pins its threads to processors, where they wait for whoever else runs
    there: two processes with one thread each would share one processor. Here the system places them.

    Its 8-bit kernels are right for unsigned activations; signed ones, which TensorRT wants, they get wrong on
    processors without AMX (2026.4: AP 0.34 became 0.11). Networks of that form are computed in float between their
    pairs, which is as exact as the pairs and no faster than float32.
    """

    def __init__(self, path: Path, num_threads: int, precision: Precision = "fp32") -> None:
        """Load `path`; raises ModelFileError when OpenVINO cannot. bf16 is a hint: some processors have none."""
        core = shared_core()
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": num_threads,
            "INFERENCE_PRECISION_HINT": _hint(core, precision),
            "ENABLE_CPU_PINNING": False,
        }
        try:
            model = core.read_model(str(path))
            if _has_signed_activations(model):
                settings["LP_TRANSFORMS_MODE"] = False
            compiled = core.compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise ModelFileError(f"{path}: OpenVINO refuses it: {' '.join(str(error).split())}") from error
        self._request = compiled.create_infer_request()
        self.engine = f"openvino {openvino.__version__.partition('-')[0]}"
        self.num_threads = num_threads
        self._path = path
        self._types = {port.any_name: _type(path, port) for port in compiled.inputs}
        self.inputs = {port.any_name: _shape(port) for port in compiled.inputs}
        self.outputs = {port.any_name: _shape(port) for port in compiled.outputs}

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Compute all outputs; they are OpenVINO's own buffers, overwritten by the next call.

        Raises ModelFileError where OpenVINO fails or an input has another type.
        """
        try:
            given = {name: as_input(value, self._types[name], name) for name, value in inputs.items()}
            values = self._request.infer(given, share_inputs=True, share_outputs=True)
        except (RuntimeError, TypeError, ValueError) as error:
            raise ModelFileError(f"{self._path}: cannot be run: {' '.join(str(error).split())}") from error
        return {name: values[index] for index, name in enumerate(self.outputs)}


def _hint(core: openvino.Core, precision: Precision) -> str:
    """For auto the engine's own choice if that is bf16, which it makes where the processor has such arithmetic."""
    if precision == "auto":
        is_own_choice = core.get_property("CPU", "INFERENCE_PRECISION_HINT") == openvino.Type.bf16
        return "bf16" if is_own_choice else "f32"
    return "bf16" if precision == "bf16" else "f32"


def _has_signed_activations(model: openvino.Model) -> bool:
    """Whether anything but constants is made a signed 8-bit number."""
    return any(
        node.get_type_name() == "Convert"
        and node.get_output_element_type(0) == openvino.Type.i8
        and _is_rounding_of_computed(node.input_value(0).get_node())
        for node in model.get_ordered_ops()
    )


def _is_rounding_of_computed(node: openvino.Node) -> bool:
    return node.get_type_name() == "FakeQuantize" and node.input_value(0).get_node().get_type_name() != "Constant"


def _type(path: Path, port: openvino.ConstOutput) -> np.dtype:
    try:
        return np.dtype(port.get_element_type().to_dtype())
    except (RuntimeError, TypeError) as error:
        declared = port.get_element_type().get_type_name()
        raise ModelFileError(f"{path}: its input {port.any_name!r} is {declared}, which NumPy has not") from error


def _shape(port: openvino.ConstOutput) -> Shape:
    return tuple(size.get_length() if size.is_static else None for size in port.partial_shape)
