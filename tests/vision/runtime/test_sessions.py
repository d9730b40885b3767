"""Both engines behind one protocol: same names, same numbers, and refusals in our own words."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from handeye.vision.errors import MissingPackageError, ModelFileError
from handeye.vision.runtime import engines as sessions
from handeye.vision.runtime.engines import available_processors, fastest_engine, installed_engines, open_session
from tests.vision.runtime.tiny_models import constant_model, empty_rows, mean_model

ENGINES = ("onnxruntime", "openvino")


@pytest.fixture
def model(tmp_path: Path) -> tuple[Path, np.ndarray]:
    rows = np.random.default_rng(3).random(empty_rows((64, 96)).shape, dtype=np.float32)
    path = tmp_path / "model.onnx"
    path.write_bytes(constant_model(rows, (64, 96)).SerializeToString())
    return path, rows


@pytest.mark.parametrize("engine", ENGINES)
def test_arrays_go_in_and_out_by_name(model, engine):
    path, rows = model
    session = open_session(path, engine, num_threads=1)
    assert session.inputs == {"images": (1, 3, 64, 96)}
    assert session.outputs == {"rows": (1, *rows.shape)}
    assert session.engine.startswith(engine + " ")
    assert session.num_threads == 1
    for value in (0.0, 7.0):
        values = session.run({"images": np.full((1, 3, 64, 96), value, np.float32)})
        np.testing.assert_array_equal(values["rows"][0], rows)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("declared", ["FLOAT16", "DOUBLE", "UINT8"])
def test_inputs_are_given_in_the_type_that_the_network_declares(tmp_path: Path, engine, declared: str):
    path = tmp_path / "typed.onnx"
    path.write_bytes(mean_model(getattr(TensorProto, declared), (4, 6)).SerializeToString())
    session = open_session(path, engine, 1)
    pixels = np.full((1, 3, 4, 6), 114, np.float32)
    assert session.run({"images": pixels})["mean"].tolist() == [114]
    if declared == "UINT8":
        for impossible in (pixels / 255, pixels * 3, -pixels):
            with pytest.raises(ModelFileError, match=r"typed\.onnx.*'images' takes uint8"):
                session.run({"images": impossible})


@pytest.mark.parametrize("engine", ENGINES)
def test_what_an_engine_says_when_it_runs_is_one_line_of_ours(tmp_path: Path, engine):
    path = tmp_path / "fixed.onnx"
    path.write_bytes(mean_model(TensorProto.FLOAT, (4, 6)).SerializeToString())
    with pytest.raises(ModelFileError, match=r"fixed\.onnx: cannot be run") as caught:
        open_session(path, engine, 1).run({"images": np.zeros((1, 3, 5, 6), np.float32)})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("engine", ENGINES)
def test_free_dimensions_are_none(tmp_path: Path, engine):
    model = constant_model(empty_rows((64, 96)), (64, 96))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    path = tmp_path / "free.onnx"
    path.write_bytes(model.SerializeToString())
    assert open_session(path, engine, 1).inputs == {"images": (None, 3, 64, 96)}


@pytest.mark.parametrize("engine", ENGINES)
def test_a_file_that_the_engine_refuses_is_one_line(tmp_path: Path, engine):
    model = constant_model(empty_rows((64, 96)), (64, 96))
    model.graph.node[0].op_type = "NoSuchOperator"
    path = tmp_path / "refused.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match=r"refused\.onnx.*refuses it") as caught:
        open_session(path, engine, 1)
    assert "\n" not in str(caught.value)


def test_both_engines_agree_on_a_trained_network(sample):
    path = sample("yolox/blood_cells_raw.onnx")
    images = np.random.default_rng(0).uniform(0, 255, (1, 3, 224, 224)).astype(np.float32)
    outputs = [open_session(path, engine, 1).run({"images": images})["output"].copy() for engine in ENGINES]
    np.testing.assert_allclose(outputs[0], outputs[1], atol=1e-4)
    assert np.ptp(outputs[0][..., :4]) > 1


def test_auto_takes_openvino_first_on_x86_and_onnxruntime_elsewhere(monkeypatch):
    monkeypatch.setattr(sessions.platform, "machine", lambda: "x86_64")
    assert installed_engines() == ("openvino", "onnxruntime")
    monkeypatch.setattr(sessions.platform, "machine", lambda: "aarch64")
    assert installed_engines() == ("onnxruntime", "openvino")


def test_missing_engines_are_reported_with_the_command_that_adds_them(monkeypatch, model):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else real(name))
    assert fastest_engine() == "onnxruntime"
    with pytest.raises(MissingPackageError, match=r"handeye\[cpu\]"):
        open_session(model[0], "openvino")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"handeye\[cpu\]"):
        open_session(model[0])


def test_threads_default_to_the_processors_of_this_process(model):
    assert available_processors() >= 1
    assert open_session(model[0]).num_threads == available_processors()


@pytest.mark.parametrize(
    ("limit", "most"), [("1", 1), ("1,2", 1), ("1000", None), ("0", None), ("many", None), ("", None)]
)
def test_threads_are_no_more_than_omp_num_threads(monkeypatch, limit, most):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    everything = available_processors()
    monkeypatch.setenv("OMP_NUM_THREADS", limit)
    assert available_processors() == (most or everything)


DROPPED_ELSEWHERE = """
import signal, sys, threading
from pathlib import Path
from handeye.vision.runtime.engines import open_session

sessions = [open_session(Path(sys.argv[1]), sys.argv[2], 1)]
dropping = threading.Thread(target=sessions.clear)
dropping.start()
dropping.join()
signal.signal(signal.SIGTERM, lambda *_: print("handled"))
signal.raise_signal(signal.SIGTERM)
"""


@pytest.mark.parametrize("engine", ENGINES)
def test_a_signal_is_handled_after_another_thread_dropped_the_session(model, engine):
    """On processors with AMX the process died of it when OpenVINO's plugin was unloaded by that thread."""
    words = [sys.executable, "-c", DROPPED_ELSEWHERE, str(model[0]), engine]
    run = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert (run.returncode, run.stdout) == (0, "handled\n")
