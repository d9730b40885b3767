"""OpenVINO and 8-bit numbers: what TensorRT's form says holds on every processor; the fast form stays fast."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from handeye.vision.runtime.onnxruntime_session import OnnxRuntimeSession
from handeye.vision.runtime.openvino_session import OpenvinoSession, _has_signed_activations, shared_core

SHAPE = (1, 32, 26, 26)
RUN = """
import sys, numpy
from pathlib import Path
from handeye.vision.runtime.openvino_session import OpenvinoSession
values = OpenvinoSession(Path(sys.argv[1]), 1).run({"images": numpy.load(sys.argv[2])})
numpy.save(sys.argv[3], values["out"])
"""


def quantised_convolution(path: Path, zero_point: np.integer) -> Path:
    """SiLU beside its input, which is signed, through a pair into a 1 x 1 convolution of 8-bit weights."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(32, 32, 1, 1)).astype(np.float32)
    scales = (np.abs(weight).max(axis=(1, 2, 3)) / 127).astype(np.float32)
    constants = {
        "scale": np.float32(0.05),
        "zero": zero_point,
        "w": weight,
        "steps": scales,
        "none": np.zeros(32, "i1"),
    }
    nodes = [
        helper.make_node("Split", ["images"], ["left", "right"], axis=1),
        helper.make_node("Sigmoid", ["left"], ["gate"]),
        helper.make_node("Mul", ["left", "gate"], ["silu"]),
        helper.make_node("Concat", ["silu", "right"], ["both"], axis=1),
        helper.make_node("QuantizeLinear", ["both", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"]),
        helper.make_node("QuantizeLinear", ["w", "steps", "none"], ["wq"], axis=0),
        helper.make_node("DequantizeLinear", ["wq", "steps", "none"], ["wdq"], axis=0),
        helper.make_node("Conv", ["dq", "wdq"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes,
        "quantised",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, SHAPE)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("instructions", ["AVX2", "AVX512_CORE_VNNI", "DEFAULT"])
def test_signed_activations_are_right_whatever_the_processor(tmp_path: Path, instructions: str):
    path = quantised_convolution(tmp_path / "signed.onnx", np.int8(0))
    images = np.random.default_rng(1).normal(0, 2, SHAPE).astype(np.float32)
    np.save(tmp_path / "in.npy", images)
    words = [sys.executable, "-c", RUN, str(path), str(tmp_path / "in.npy"), str(tmp_path / "out.npy")]
    # OpenVINO's kernels leave out what this says that the processor has not.
    subprocess.run(words, check=True, env=os.environ | {"ONEDNN_MAX_CPU_ISA": instructions})
    expected = OnnxRuntimeSession(path, 1).run({"images": images})["out"]
    clear = rounds_alike_everywhere(images)
    assert clear.mean() > 0.8
    np.testing.assert_allclose(np.load(tmp_path / "out.npy")[:, :, clear], expected[:, :, clear], atol=1e-3)


def rounds_alike_everywhere(images: np.ndarray) -> np.ndarray:
    """The places whose every channel is further than a thousandth of a step from where rounding goes the other way.

    Before rounding two engines are apart by some units in the last place of at most 127 steps, each 1.5e-5 of a step.
    """
    left, right = np.split(images.astype(np.float64), 2, axis=1)
    steps = np.concatenate((left / (1 + np.exp(-left)), right), axis=1) / 0.05
    return (np.abs(steps - np.floor(steps) - 0.5) > 1e-3).all(axis=(0, 1))


@pytest.mark.parametrize(("zero_point", "is_signed"), [(np.int8(0), True), (np.uint8(100), False)])
def test_only_activations_decide(tmp_path: Path, zero_point: np.integer, is_signed: bool):
    path = quantised_convolution(tmp_path / "m.onnx", zero_point)
    assert _has_signed_activations(shared_core().read_model(str(path))) is is_signed


def test_unsigned_activations_keep_their_fast_kernels(tmp_path: Path):
    """What OpenVINO really runs: its own account of the compiled network."""
    path = quantised_convolution(tmp_path / "unsigned.onnx", np.uint8(100))
    session = OpenvinoSession(path, 1)
    kernels = session._request.get_compiled_model().get_runtime_model().get_ordered_ops()
    types = [kernel.get_rt_info()["runtimePrecision"].astype(str) for kernel in kernels]
    assert any(kind in ("u8", "i8") for kind in types)
