"""Building an engine: what TensorRT is told, what the user is told, and that a failure leaves no file."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from handeye.export.tensorrt.build_options import BuildOptions, trtexec_command
from handeye.vision.errors import MissingPackageError, ModelFileError, UserError
from handeye.vision.runtime.engine_file import read_engine_file, sha256_of
from handeye.vision.runtime.engines import require_tensorrt
from handeye.vision.runtime.manifest import METADATA_KEY, Manifest, parse_onnx
from tests.export import fake_tensorrt
from tests.tensorrt_stand_in import StandIn
from tests.vision.runtime.tiny_models import empty_rows, write_model


def build(onnx_path: Path, options: BuildOptions | None = None):
    from handeye.export.tensorrt.engine import build_engine

    return build_engine(onnx_path, onnx_path.with_suffix(".engine"), options)


def write_graph(path: Path, *operators: str, batch: int | str = 1, height: int | str = 4) -> Path:
    """A chain of operators over (batch, 3, height, 4) that means nothing: the stand-in only lists them."""
    names = ["images", *(f"x{index}" for index in range(len(operators)))]
    nodes = [
        helper.make_node(operator, [names[index]], [names[index + 1]], name=f"/{operator.lower()}_{index}")
        for index, operator in enumerate(operators)
    ]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 3, height, 4]) for name in names]
    graph = helper.make_graph(nodes, "chain", ports[:1], ports[-1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    sha256 = parse_onnx(model.SerializeToString(), "model").graph_sha256
    manifest = Manifest(class_names=("cube",), graph_sha256=sha256)
    helper.set_model_props(model, {METADATA_KEY: manifest.model_dump_json()})
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("version", ["10.3.0", "10.16.1.11", "11.4.0.106"])
def test_an_engine_is_strongly_typed_and_says_what_it_is(stand_in: StandIn, tmp_path, monkeypatch, version):
    monkeypatch.setattr(fake_tensorrt, "__version__", version)
    path = tmp_path / "model.onnx"
    manifest = write_model(path, empty_rows((64, 96)))
    built = build(path, BuildOptions(workspace_mib=512))
    assert stand_in.tensorrt.network_flags == 1 << 1  # STRONGLY_TYPED, and no precision flag of the builder
    assert stand_in.tensorrt.flags == set()
    assert stand_in.tensorrt.workspace == 512 * 2**20
    file = read_engine_file(tmp_path / "model.engine")
    assert file.record == built.record
    assert file.record.manifest == manifest
    assert (file.record.tensorrt, file.record.gpu, file.record.compute_capability) == (version, "Orin", (8, 7))
    assert file.record.onnx_sha256 == sha256_of(path.read_bytes())
    assert built.warnings == ()


def test_layers_that_tensorrt_cannot_take_are_named_with_what_to_do(stand_in: StandIn, tmp_path):
    path = write_graph(tmp_path / "model.onnx", "Relu", "Einsum", "NonMaxSuppression")
    stand_in.tensorrt.refused_operators = ("Einsum", "NonMaxSuppression")
    with pytest.raises(ModelFileError, match="export with --nms outside") as caught:
        build(path)
    message = str(caught.value)
    assert "'/einsum_1' (Einsum)" in message
    assert "UNSUPPORTED_NODE" in message
    assert "'/nonmaxsuppression_2'" in message
    assert "\n" not in message
    assert not (tmp_path / "model.engine").exists()


def test_only_the_first_errors_of_many_are_printed(stand_in: StandIn, tmp_path):
    path = write_graph(tmp_path / "model.onnx", *["Einsum"] * 5)
    stand_in.tensorrt.refused_operators = ("Einsum",)
    with pytest.raises(ModelFileError, match="and 2 more"):
        build(path)


@pytest.mark.parametrize("version", ["10.14.1.48", "11.1.0.106"])
def test_versions_that_compute_grid_sample_wrongly_are_refused_for_it_alone(stand_in, tmp_path, monkeypatch, version):
    monkeypatch.setattr(fake_tensorrt, "__version__", version)
    with pytest.raises(ModelFileError, match=r"TensorRT#4813.*gather sampling"):
        build(write_graph(tmp_path / "model.onnx", "Relu", "GridSample"))
    assert not (tmp_path / "model.engine").exists()
    assert build(write_graph(tmp_path / "other.onnx", "Relu")).warnings == ()


@pytest.mark.parametrize(("version", "warnings"), [("10.13.3.9", 0), ("10.3.0", 0), ("10.15.1", 1), ("11.4.0.106", 1)])
def test_versions_nobody_has_cleared_are_warned_of(stand_in, tmp_path, monkeypatch, version, warnings):
    monkeypatch.setattr(fake_tensorrt, "__version__", version)
    assert len(build(write_graph(tmp_path / "model.onnx", "GridSample")).warnings) == warnings


def test_a_version_older_than_jetpack_6_is_refused(stand_in, tmp_path, monkeypatch):
    monkeypatch.setattr(fake_tensorrt, "__version__", "8.6.1")
    with pytest.raises(ModelFileError, match="too old: expected 10.3"):
        build(write_graph(tmp_path / "model.onnx", "Relu"))


@pytest.mark.parametrize(
    ("error", "advice"),
    [("Could not find any implementation due to insufficient workspace", "more workspace"), ("Internal Error", "")],
)
def test_a_failed_build_says_why_and_leaves_the_old_engine(stand_in: StandIn, tmp_path, error, advice):
    path = write_graph(tmp_path / "model.onnx", "Relu")
    before = build(path).path.read_bytes()
    stand_in.tensorrt.build_error = error
    with pytest.raises(UserError, match=f"cannot build it: {error}.*{advice}"):
        build(path)
    assert (tmp_path / "model.engine").read_bytes() == before
    assert {file.name for file in tmp_path.iterdir()} == {"model.onnx", "model.engine"}


def test_memory_that_runs_out_in_a_warning_is_told_too(stand_in: StandIn, tmp_path):
    stand_in.tensorrt.build_warning = "Requested amount of GPU memory (17920000000 bytes) could not be allocated."
    stand_in.tensorrt.build_error = "Engine could not be created"
    with pytest.raises(UserError, match="more workspace than 64 MiB"):
        build(write_graph(tmp_path / "model.onnx", "Relu"), BuildOptions(workspace_mib=64))


def test_what_the_accelerator_cannot_compute_runs_on_the_gpu(stand_in: StandIn, tmp_path):
    path = write_graph(tmp_path / "model.onnx", "Relu", "Sigmoid", "Relu")
    stand_in.tensorrt.dla_cores = 2
    built = build(path, BuildOptions(dla_core=1))
    assert stand_in.tensorrt.flags == {"GPU_FALLBACK"}
    assert built.warnings == ("1 of 3 layers run on the GPU, the others on accelerator 1",)
    assert built.record.dla_core == 1


@pytest.mark.parametrize(
    ("cores", "operators", "told"),
    [
        (0, ("Relu",), "finds 0 accelerators; leave the option out"),
        (2, ("Relu", "QuantizeLinear"), "no Q/DQ nodes"),
        (2, ("Sigmoid",), "none of its layers"),
    ],
)
def test_an_accelerator_that_cannot_be_used_is_refused(stand_in: StandIn, tmp_path, cores, operators, told):
    stand_in.tensorrt.dla_cores = cores
    with pytest.raises(UserError, match=told):
        build(write_graph(tmp_path / "model.onnx", *operators), BuildOptions(dla_core=0))


def test_the_timing_cache_is_carried_on_and_replaced_when_it_is_of_another_device(stand_in: StandIn, tmp_path):
    path, cache = write_graph(tmp_path / "model.onnx", "Relu"), tmp_path / "timing.cache"
    options = BuildOptions(timing_cache=cache)
    assert build(path, options).warnings == ()
    assert cache.read_bytes() == b"+"
    build(path, options)
    assert cache.read_bytes() == b"++"
    stand_in.tensorrt.cache_fits = False
    assert "another GPU or TensorRT" in build(path, options).warnings[0]
    assert cache.read_bytes() == b"+"


def test_a_free_batch_needs_bounds_and_a_fixed_one_takes_none(stand_in: StandIn, tmp_path):
    free = write_graph(tmp_path / "free.onnx", "Relu", batch="batch")
    with pytest.raises(UserError, match="--engine.batch 1 4 8"):
        build(free)
    build(free, BuildOptions(batch=(1, 2, 4)))
    with pytest.raises(UserError, match="batch size is fixed"):
        build(write_graph(tmp_path / "fixed.onnx", "Relu"), BuildOptions(batch=(1, 2, 4)))
    with pytest.raises(UserError, match="free in their first dimension at most"):
        build(write_graph(tmp_path / "tall.onnx", "Relu", height="height"))
    for wrong in ((2, 1, 4), (0, 1, 2), (1, 5, 4)):
        with pytest.raises(UserError, match="smallest to largest"):
            BuildOptions(batch=wrong)


def test_engines_for_other_versions_and_gpus_are_asked_for_and_recorded(stand_in: StandIn, tmp_path):
    path = write_graph(tmp_path / "model.onnx", "Relu")
    record = build(path, BuildOptions(version_compatible=True, hardware_compatible=True)).record
    assert stand_in.tensorrt.flags == {"VERSION_COMPATIBLE"}
    assert (record.version_compatible, record.hardware_compatible) == (True, True)


def test_no_gpu_no_driver_and_no_tensorrt_are_one_line_each(stand_in: StandIn, tmp_path, monkeypatch):
    path = write_graph(tmp_path / "model.onnx", "Relu")
    stand_in.tensorrt.starts = False
    with pytest.raises(UserError, match="cannot start on this GPU: CUDA initialization failure"):
        build(path)
    stand_in.machine.has_gpu = False
    with pytest.raises(UserError, match="CUDA cannot start"):
        build(path)
    stand_in.machine.has_driver = False
    with pytest.raises(UserError, match="no NVIDIA driver"):
        build(path)
    require_tensorrt()
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    with pytest.raises(MissingPackageError, match="JetPack"):
        require_tensorrt()


def test_third_party_files_are_rejected_before_any_work(stand_in: StandIn, tmp_path):
    path = tmp_path / "third_party.onnx"
    write_model(path, empty_rows((64, 96)))
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, path)
    with pytest.raises(ModelFileError, match="carries no handeye manifest"):
        build(path)


def test_trtexec_is_told_the_same():
    options = BuildOptions(batch=(1, 4, 8), workspace_mib=2048, timing_cache=Path("t.cache"), dla_core=0)
    command = trtexec_command(Path("a b.onnx"), Path("m.plan"), options, {"images": (None, 3, 64, 96), "size": (1, 2)})
    assert command == (
        "trtexec '--onnx=a b.onnx' --saveEngine=m.plan --stronglyTyped --skipInference --memPoolSize=workspace:2048 "
        "--timingCacheFile=t.cache --useDLACore=0 --allowGPUFallback --minShapes=images:1x3x64x96 "
        "--optShapes=images:4x3x64x96 --maxShapes=images:8x3x64x96"
    )
    compatible = BuildOptions(version_compatible=True, hardware_compatible=True)
    command = trtexec_command(Path("m.onnx"), Path("m.plan"), compatible, {})
    assert command.endswith("--versionCompatible --hardwareCompatibilityLevel=ampere+")
