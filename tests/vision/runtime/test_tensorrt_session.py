"""An engine behind the run time's protocol, with stand-ins of TensorRT and CUDA: order of work, memory, refusals."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest

from handeye.export.tensorrt.build_options import BuildOptions
from handeye.vision.errors import ModelFileError, UserError
from handeye.vision.runtime.engine_file import read_engine_file
from handeye.vision.runtime.engines import Session, open_session
from handeye.vision.runtime.image_detector import ImageDetector
from tests.export import fake_tensorrt
from tests.tensorrt_stand_in import StandIn
from tests.vision.runtime.tiny_models import empty_rows, write_model

SIZE = (64, 96)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A network that answers with constants plus the mean of the image."""
    rows = np.random.default_rng(3).random(empty_rows(SIZE).shape, dtype=np.float32)
    path = tmp_path / "model.onnx"
    write_model(path, rows, SIZE)
    model = onnx.load(path)
    next(tensor for tensor in model.graph.initializer if tensor.name == "zero").raw_data = np.float32(1).tobytes()
    return resealed(path, model)


def resealed(path: Path, model: onnx.ModelProto) -> Path:
    from handeye.export.graph.onnx_export import write_onnx
    from handeye.vision.runtime.manifest import read_manifest

    manifest = read_manifest(path)
    write_onnx(path, model, manifest)
    return path


def engine_of(path: Path, options: BuildOptions | None = None) -> Path:
    from handeye.export.tensorrt.engine import build_engine

    return build_engine(path, path.with_suffix(".engine"), options).path


def session_of(path: Path, options: BuildOptions | None = None):
    from handeye.vision.runtime.tensorrt_session import TensorrtSession

    return TensorrtSession(read_engine_file(engine_of(path, options)))


def images(seed: int, batch: int = 1) -> dict[str, np.ndarray]:
    return {"images": np.random.default_rng(seed).random((batch, 3, *SIZE), dtype=np.float32)}


def test_every_call_gives_what_onnx_runtime_gives_and_all_but_the_first_launch_a_graph(stand_in: StandIn, model: Path):
    session, reference = session_of(model), open_session(model, "onnxruntime", 1)
    assert isinstance(session, Session)
    assert session.inputs == reference.inputs
    assert session.outputs == reference.outputs
    assert session.engine == "tensorrt 10.3.0 on Orin"
    for seed in range(4):
        np.testing.assert_array_equal(session.run(images(seed))["rows"], reference.run(images(seed))["rows"])
    assert session.is_recorded
    assert stand_in.machine.launches == 3


def test_what_cannot_be_recorded_is_enqueued_each_time(stand_in: StandIn, model: Path):
    stand_in.machine.can_record = False
    session, reference = session_of(model), open_session(model, "onnxruntime", 1)
    for seed in range(3):
        np.testing.assert_array_equal(session.run(images(seed))["rows"], reference.run(images(seed))["rows"])
    assert not session.is_recorded
    assert stand_in.machine.launches == 0


def test_any_thread_may_call(stand_in: StandIn, model: Path):
    session, found = session_of(model), []
    thread = threading.Thread(target=lambda: found.append(session.run(images(1))["rows"].copy()))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(found[0], open_session(model, "onnxruntime", 1).run(images(1))["rows"])


def test_memory_goes_back_when_the_session_goes(stand_in: StandIn, model: Path):
    session = session_of(model)
    session.run(images(0))
    assert len(stand_in.machine.live) == 4  # an input and an output, on both sides
    del session
    gc.collect()
    assert stand_in.machine.live == {}
    assert stand_in.machine.free_bytes == 2**30
    assert stand_in.machine.streams == {}


def test_a_free_batch_runs_within_its_bounds_and_records_each_shape_anew(stand_in: StandIn, model: Path):
    free = onnx.load(model)
    for port in (free.graph.input[0], free.graph.output[0]):
        port.type.tensor_type.shape.dim[0].dim_param = "batch"
    next(node for node in free.graph.node if node.op_type == "ReduceMean").attribute[1].i = 1  # keepdims
    tensor = next(tensor for tensor in free.graph.initializer if tensor.name == "zero")
    tensor.dims[:] = [1, 1, 1]
    free.graph.node[1].input[0] = "mean3"
    free.graph.node.insert(1, onnx.helper.make_node("Squeeze", ["mean", "axis"], ["mean3"]))
    free.graph.initializer.append(onnx.numpy_helper.from_array(np.array([3]), "axis"))
    session = session_of(resealed(model, free), BuildOptions(batch=(1, 2, 4)))
    reference = open_session(model, "onnxruntime", 1)
    assert session.inputs == {"images": (None, 3, *SIZE)}
    for batch in (1, 1, 4, 4, 2, 2, 1):
        got, expected = (engine.run(images(batch, batch))["rows"] for engine in (session, reference))
        assert got.shape == (batch, *empty_rows(SIZE).shape)
        np.testing.assert_array_equal(got, expected)
    assert stand_in.machine.launches == 3
    with pytest.raises(ModelFileError, match=r"shape \(5, 3, 64, 96\); the engine was built for \(1, 3, 64, 96\) to"):
        session.run(images(5, 5))
    np.testing.assert_array_equal(session.run(images(2, 2))["rows"], reference.run(images(2, 2))["rows"])


def test_other_names_shapes_and_types_are_rejected(stand_in: StandIn, model: Path):
    session = session_of(model)
    with pytest.raises(ModelFileError, match="expected the inputs images, got pictures"):
        session.run({"pictures": images(0)["images"]})
    with pytest.raises(ModelFileError, match="the engine was built for"):
        session.run({"images": np.zeros((1, 3, 64, 64), np.float32)})
    with pytest.raises(TypeError):
        session.run({"images": np.zeros((1, 3, *SIZE), np.complex64)})


@pytest.mark.parametrize(
    ("version", "capability", "told"),
    [
        ("10.3.1", (8, 7), r"was built by TensorRT 10\.3\.0, here is 10\.3\.1"),
        ("11.4.0.106", (8, 7), "here is 11.4.0.106; build it here again"),
        ("10.3.0", (8, 6), r"was built for Orin \(compute capability 8\.7\), here is Orin \(8\.6\)"),
    ],
)
def test_an_engine_of_another_version_or_gpu_is_rejected(stand_in, model, monkeypatch, version, capability, told):
    path = engine_of(model)
    monkeypatch.setattr(fake_tensorrt, "__version__", version)
    stand_in.machine.compute_capability = capability
    with pytest.raises(ModelFileError, match=told):
        ImageDetector.load(path)


@pytest.mark.parametrize(
    ("version", "capability", "fits"),
    [
        ("10.16.1", (8, 7), True),
        ("10.3.0", (12, 0), True),
        ("10.2.0", (8, 7), False),
        ("11.0.0", (8, 7), False),
        ("10.3.0", (7, 5), False),
    ],
)
def test_compatible_engines_are_let_through_as_far_as_they_go(stand_in, model, monkeypatch, version, capability, fits):
    path = engine_of(model, BuildOptions(version_compatible=True, hardware_compatible=True))
    monkeypatch.setattr(fake_tensorrt, "__version__", version)
    stand_in.machine.compute_capability = capability
    if fits:
        ImageDetector.load(path)
        assert stand_in.tensorrt.host_code_allowed is True
    else:
        with pytest.raises(ModelFileError, match="build it here again"):
            ImageDetector.load(path)


def test_the_accelerator_of_the_build_is_that_of_the_run(stand_in: StandIn, model: Path):
    stand_in.tensorrt.dla_cores, stand_in.tensorrt.dla_types = 2, ("ELEMENTWISE",)
    session_of(model, BuildOptions(dla_core=1))
    assert stand_in.tensorrt.runtime_dla_core == 1
    assert stand_in.tensorrt.host_code_allowed is False


def test_a_full_gpu_and_a_failing_run_are_reported(stand_in: StandIn, model: Path):
    path = engine_of(model)
    stand_in.tensorrt.context_fits = False
    with pytest.raises(UserError, match="too little GPU memory to run it: Error Code 2: OutOfMemory"):
        ImageDetector.load(path)
    stand_in.tensorrt.context_fits, stand_in.machine.free_bytes = True, 1000
    with pytest.raises(UserError, match="CUDA cannot allocate 0.1 MiB: out of memory"):
        ImageDetector.load(path)
    stand_in.machine.free_bytes = 2**20
    session = session_of(model)
    stand_in.tensorrt.runs = False
    with pytest.raises(UserError, match="TensorRT cannot run it: Error Code 1"):
        session.run(images(0))


def test_outputs_whose_size_depends_on_the_image_are_rejected(stand_in: StandIn, model: Path):
    path = engine_of(model)
    stand_in.tensorrt.host_outputs = True
    with pytest.raises(ModelFileError, match="export the graph without NMS"):
        ImageDetector.load(path)


def test_a_detector_finds_the_same_in_the_engine(stand_in: StandIn, tmp_path: Path):
    rows = empty_rows(SIZE)
    rows[5] = [30, 20, 20, 10, 0.9, 0.1, 0.8, 0.0]
    write_model(tmp_path / "cubes.onnx", rows, SIZE)
    image = np.full((128, 192, 3), 90, np.uint8)
    expected = ImageDetector.load(tmp_path / "cubes.onnx", engine="onnxruntime")(image)
    detector = ImageDetector.load(engine_of(tmp_path / "cubes.onnx"))
    for _ in range(2):
        found = detector(image)
        np.testing.assert_array_equal(found.boxes_xyxy, expected.boxes_xyxy)
        np.testing.assert_array_equal(found.scores, expected.scores)
        assert found.names == ["ball"]


@pytest.mark.parametrize("options", [{"engine": "openvino"}, {"model_format": "yolox"}])
def test_engine_and_format_are_not_for_the_user_to_choose(stand_in: StandIn, model: Path, options):
    with pytest.raises(ModelFileError, match="an engine runs in TensorRT only"):
        ImageDetector.load(engine_of(model), **options)
