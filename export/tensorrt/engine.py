"""Build a TensorRT engine from an ONNX file, on the device that will run it.

The network is strongly typed: types, casts and Q/DQ nodes of the ONNX file decide what runs in float32, float16 or
INT8. TensorRT 11 supports nothing else, and 10.x supports it, so one file serves JetPack 6 and 7.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tensorrt as trt

from handeye.export.tensorrt.build_options import BuildOptions, faults_of, require_supported_version
from handeye.vision.errors import ModelFileError, UserError
from handeye.vision.files import replacing
from handeye.vision.runtime.cuda_driver import CudaDevice, CudaError
from handeye.vision.runtime.engine_file import EngineRecord, sha256_of, write_engine_file
from handeye.vision.runtime.manifest import read_manifest
from handeye.vision.runtime.tensorrt_session import MessageLog

SHOWN_ERRORS = 3
ADVICE = {
    "GridSample": "export with the gather sampling, which is handeye's default",
    "NonMaxSuppression": "export with --nms outside; NMS then runs outside",
    "TopK": "TensorRT takes at most 3840 elements: choose fewer queries or a smaller input",
}


@dataclass(frozen=True)
class EngineBuild:
    """A built engine: the record in its file, build time and warnings."""

    path: Path
    record: EngineRecord
    seconds: float
    warnings: tuple[str, ...]


def build_engine(onnx_path: Path, engine_path: Path, options: BuildOptions | None = None) -> EngineBuild:
    """Build an engine for this GPU and write it, whole or not at all.

    Raises ModelFileError when the file is not handeye's or TensorRT cannot take it (the message names the layer), when
    this version is known to compute it wrongly; CudaError when there is no GPU or too little memory; UserError when
    the options do not fit the network or the device.
    """
    options = options or BuildOptions()
    started = time.perf_counter()
    require_supported_version(trt.__version__)
    manifest = read_manifest(onnx_path)
    content = onnx_path.read_bytes()
    device, log = CudaDevice(), MessageLog()
    builder = _start_builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(network, log, content, onnx_path)
    doubts = faults_of(trt.__version__, frozenset(layer.type.name for layer in _layers(network)))
    config, warnings = _configure(builder, network, options, onnx_path)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise CudaError(_explain_failure(log, onnx_path, options))
    plan_bytes = bytes(memoryview(plan))
    record = EngineRecord(
        manifest=manifest,
        tensorrt=trt.__version__,
        gpu=device.name,
        compute_capability=device.compute_capability,
        version_compatible=options.version_compatible,
        hardware_compatible=options.hardware_compatible,
        dla_core=options.dla_core,
        onnx_sha256=sha256_of(content),
        plan_sha256=sha256_of(plan_bytes),
    )
    write_engine_file(engine_path, record, plan_bytes)
    if options.timing_cache is not None:
        _save_timing_cache(config, options.timing_cache)
    return EngineBuild(engine_path, record, time.perf_counter() - started, (*doubts, *warnings))


def _configure(
    builder: trt.Builder, network: trt.INetworkDefinition, options: BuildOptions, path: Path
) -> tuple[trt.IBuilderConfig, list[str]]:
    """The build configuration and warnings."""
    config, warnings = builder.create_builder_config(), []
    _set_flags(config, options)
    _set_profile(builder, network, config, options, path)
    if options.dla_core is not None:
        warnings += _use_accelerator(builder, network, config, options.dla_core, path)
    if options.timing_cache is not None:
        warnings += _open_timing_cache(config, options.timing_cache)
    return config, warnings


def _start_builder(log: MessageLog) -> trt.Builder:
    try:
        return trt.Builder(log)
    except TypeError as error:  # its Python binding raises this when no object is created
        raise CudaError(f"TensorRT {trt.__version__} cannot start on this GPU: {log.last_error}") from error


def _parse(network: trt.INetworkDefinition, log: MessageLog, content: bytes, path: Path) -> None:
    """Read the ONNX file into the network; ModelFileError names the layers that TensorRT cannot take."""
    parser = trt.OnnxParser(network, log)
    if parser.parse(content):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    shown = [_describe(error) for error in errors[:SHOWN_ERRORS]] or [log.last_error]
    more = f"; and {len(errors) - SHOWN_ERRORS} more" if len(errors) > SHOWN_ERRORS else ""
    raise ModelFileError(f"{path}: TensorRT {trt.__version__} cannot take it: {'; '.join(shown)}{more}")


def _describe(error: trt.ParserError) -> str:
    """Layer, operator, error and advice."""
    operator, description = error.node_operator(), " ".join(error.desc().split())
    where = f"layer {error.node_name()!r} ({operator})" if operator else "the file as a whole"
    advice = ADVICE.get(operator, "run this model in ONNX Runtime, or export it without this operator")
    return f"{where}: {description} [{error.code().name}]: {advice}"


def _layers(network: trt.INetworkDefinition) -> Iterator[trt.ILayer]:
    return (network.get_layer(index) for index in range(network.num_layers))


def _set_flags(config: trt.IBuilderConfig, options: BuildOptions) -> None:
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib * 2**20)


def _set_profile(
    builder: trt.Builder,
    network: trt.INetworkDefinition,
    config: trt.IBuilderConfig,
    options: BuildOptions,
    path: Path,
) -> None:
    """Optimisation profile of a dynamic batch; UserError for missing or needless bounds or other dynamic sizes."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    shapes = {tensor.name: tuple(tensor.shape) for tensor in inputs}
    if bad := {name: shape for name, shape in shapes.items() if -1 in shape[1:]}:
        raise UserError(f"{path}: expected inputs that are free in their first dimension at most, got {bad}")
    free = {name: shape for name, shape in shapes.items() if shape and shape[0] == -1}
    if not free and options.batch is not None:
        raise UserError(f"{path}: its batch size is fixed, got bounds for it: {shapes}")
    if not free:
        return
    if options.batch is None:
        raise UserError(f"{path}: its batch size is free; give smallest, usual and largest: --engine.batch 1 4 8")
    profile = builder.create_optimization_profile()
    for name, shape in free.items():
        smallest, usual, largest = (trt.Dims([size, *shape[1:]]) for size in options.batch)
        profile.set_shape(name, smallest, usual, largest)
    config.add_optimization_profile(profile)


def _use_accelerator(
    builder: trt.Builder, network: trt.INetworkDefinition, config: trt.IBuilderConfig, core: int, path: Path
) -> list[str]:
    """Run what the DLA can compute there and the rest on the GPU; returns a warning with the share of the latter.

    The DLA computes in float16 and takes no Q/DQ nodes in 10.x. TensorRT 10.8 to 11.4.0 do not support it.
    """
    if core >= builder.num_DLA_cores:
        raise UserError(
            f"--engine.dla-core {core}: TensorRT {trt.__version__} finds {builder.num_DLA_cores} accelerators; leave "
            "the option out to build for the GPU (versions after 10.7 and before 11.4.1 support none)"
        )
    layers = list(_layers(network))
    if any(layer.type == trt.LayerType.QUANTIZE for layer in layers):
        raise UserError(f"{path}: the accelerator takes no Q/DQ nodes; build it from the float16 file instead")
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    on_gpu = [layer for layer in layers if not config.can_run_on_DLA(layer)]
    if len(on_gpu) == len(layers):
        raise UserError(f"{path}: the accelerator can compute none of its layers; it needs the float16 file")
    return [f"{len(on_gpu)} of {len(layers)} layers run on the GPU, the others on accelerator {core}"] if on_gpu else []


def _open_timing_cache(config: trt.IBuilderConfig, path: Path) -> list[str]:
    """Load the timing cache of earlier builds; one of another GPU or version is discarded, with a warning."""
    old = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(old)
    if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
        return []
    fresh = config.create_timing_cache(b"")
    if fresh is not None:
        config.set_timing_cache(fresh, ignore_mismatch=False)
    return [f"{path}: was measured by another GPU or TensorRT and is replaced"]


def _save_timing_cache(config: trt.IBuilderConfig, path: Path) -> None:
    cache = config.get_timing_cache()
    if cache is not None:
        with replacing(path) as beside:
            beside.write_bytes(memoryview(cache.serialize()))


def _explain_failure(log: MessageLog, path: Path, options: BuildOptions) -> str:
    """The last error, with advice on running out of memory."""
    memory = any("memory" in line.lower() or "workspace" in line.lower() for line in (*log.errors, *log.warnings))
    limit = "" if options.workspace_mib is None else f" than {options.workspace_mib} MiB"
    advice = f"; give it more workspace{limit} or close what else uses the GPU" if memory else ""
    return f"{path}: TensorRT {trt.__version__} cannot build it: {log.last_error}{advice}"
