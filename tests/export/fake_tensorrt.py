"""TensorRT's Python API as far as handeye calls it, with ONNX Runtime behind it: for control flow, not for speed.

Its answers are those that the real one gives: None for a plan, engine or context that could not be made, with the
reason in the log; False for a call refused; TypeError where no object can be made; errors of the parser by layer.
tests/export/tensorrt/test_tensorrt_stub.py holds its signatures to the stub that is compared with the real bindings.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import onnx
import onnxruntime

from tests.export import fake_cuda

__version__ = "10.3.0"
MAGIC = b"fake plan\n"


@dataclass
class Behaviour:
    """What goes wrong next, and what was asked for: set and read by tests."""

    starts: bool = True
    refused_operators: tuple[str, ...] = ()
    build_error: str | None = None
    build_warning: str | None = None
    context_fits: bool = True
    runs: bool = True
    dla_cores: int = 0
    dla_types: tuple[str, ...] = ("CONVOLUTION", "ACTIVATION")
    cache_fits: bool = True
    host_outputs: bool = False
    flags: set[str] = field(default_factory=set)
    workspace: int | None = None
    network_flags: int | None = None
    runtime_dla_core: int | None = None
    host_code_allowed: bool | None = None


behaviour = Behaviour()


class ILogger:
    class Severity(Enum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4

    def __init__(self) -> None:
        self.is_constructed = True

    def log(self, severity: ILogger.Severity, msg: str) -> None:
        raise NotImplementedError


class Dims(tuple):
    __slots__ = ()

    def __new__(cls, shape: Sequence[int]) -> Dims:
        return super().__new__(cls, shape)


class IHostMemory(bytes):
    @property
    def nbytes(self) -> int:
        return len(self)


DataType = Enum("DataType", "FLOAT HALF BF16 INT32 INT64 INT8 UINT8 BOOL")
LayerType = Enum("LayerType", "GRID_SAMPLE QUANTIZE CONVOLUTION ACTIVATION ELEMENTWISE")
ErrorCode = Enum("ErrorCode", "SUCCESS UNSUPPORTED_NODE")
BuilderFlag = Enum("BuilderFlag", "GPU_FALLBACK VERSION_COMPATIBLE")
MemoryPoolType = Enum("MemoryPoolType", "WORKSPACE")
DeviceType = Enum("DeviceType", "DLA GPU")
HardwareCompatibilityLevel = Enum("HardwareCompatibilityLevel", "NONE AMPERE_PLUS")
TensorIOMode = Enum("TensorIOMode", "INPUT OUTPUT")
TensorLocation = Enum("TensorLocation", "DEVICE HOST")
LAYERS = {"GridSample": "GRID_SAMPLE", "QuantizeLinear": "QUANTIZE", "Conv": "CONVOLUTION", "Relu": "ACTIVATION"}


class NetworkDefinitionCreationFlag(Enum):
    STRONGLY_TYPED = 1

    def __int__(self) -> int:
        return self.value


@dataclass
class ITensor:
    name: str
    shape: Dims


@dataclass
class ILayer:
    name: str
    type: LayerType


class INetworkDefinition:
    def __init__(self) -> None:
        self.content, self.layers, self.tensors = b"", [], []

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def num_inputs(self) -> int:
        return len(self.tensors)

    def get_layer(self, index: int) -> ILayer:
        return self.layers[index]

    def get_input(self, index: int) -> ITensor:
        return self.tensors[index]


@dataclass
class ParserError:
    node: onnx.NodeProto

    def code(self) -> ErrorCode:
        return ErrorCode.UNSUPPORTED_NODE

    def desc(self) -> str:
        return 'creator && "Plugin not found,\nare the plugin name, version, and namespace correct?"'

    def node_name(self) -> str:
        return self.node.name

    def node_operator(self) -> str:
        return self.node.op_type


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self.network, self.errors = network, []

    @property
    def num_errors(self) -> int:
        return len(self.errors)

    def get_error(self, index: int) -> ParserError:
        return self.errors[index]

    def parse(self, model: bytes, path: str = "") -> bool:
        graph = onnx.load_from_string(model).graph
        self.errors = [ParserError(node) for node in graph.node if node.op_type in behaviour.refused_operators]
        self.network.content = model
        self.network.layers = [
            ILayer(node.name, LayerType[LAYERS.get(node.op_type, "ELEMENTWISE")]) for node in graph.node
        ]
        self.network.tensors = [
            ITensor(
                value.name, Dims([-1 if dim.dim_param else dim.dim_value for dim in value.type.tensor_type.shape.dim])
            )
            for value in graph.input
        ]
        return not self.errors


class IOptimizationProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, list[Dims]] = {}

    def set_shape(self, input: str, min: Dims, opt: Dims, max: Dims) -> None:
        self.shapes[input] = [min, opt, max]


@dataclass
class ITimingCache:
    content: bytes

    def serialize(self) -> IHostMemory:
        return IHostMemory(self.content + b"+")


class IBuilderConfig:
    def __init__(self) -> None:
        self.default_device_type = DeviceType.GPU
        self.DLA_core = -1
        self.hardware_compatibility_level = HardwareCompatibilityLevel.NONE
        self.profiles: list[IOptimizationProfile] = []
        self.cache: ITimingCache | None = None

    def set_flag(self, flag: BuilderFlag) -> None:
        behaviour.flags.add(flag.name)

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        behaviour.workspace = pool_size

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def can_run_on_DLA(self, layer: ILayer) -> bool:  # noqa: N802
        return layer.type.name in behaviour.dla_types

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None:
        return ITimingCache(bytes(serialized_timing_cache))

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if cache.content and not behaviour.cache_fits:
            return False
        self.cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return self.cache


class Builder:
    def __init__(self, logger: ILogger) -> None:
        _start(logger)
        self.logger = logger

    @property
    def num_DLA_cores(self) -> int:  # noqa: N802
        return behaviour.dla_cores

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        behaviour.network_flags = flags
        return INetworkDefinition()

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
        if behaviour.build_warning:
            self.logger.log(ILogger.Severity.WARNING, behaviour.build_warning)
        if behaviour.build_error:
            self.logger.log(ILogger.Severity.ERROR, behaviour.build_error)
            return None
        shapes = {tensor.name: [tensor.shape] * 3 for tensor in network.tensors}
        head = {"version": __version__, "shapes": shapes | (config.profiles[0].shapes if config.profiles else {})}
        return IHostMemory(MAGIC + json.dumps(head).encode() + b"\n" + network.content)


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        _start(logger)
        self.logger, self.DLA_core, self.engine_host_code_allowed = logger, -1, False

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        behaviour.runtime_dla_core, behaviour.host_code_allowed = self.DLA_core, self.engine_host_code_allowed
        content = bytes(serialized_engine)
        if not content.startswith(MAGIC):
            self.logger.log(ILogger.Severity.ERROR, "Serialization assertion plan->header.magicTag failed")
            return None
        head, _, model = content[len(MAGIC) :].partition(b"\n")
        return ICudaEngine(self.logger, json.loads(head)["shapes"], model)


class ICudaEngine:
    def __init__(self, logger: ILogger, profile: dict[str, list[list[int]]], model: bytes) -> None:
        self.logger, self.profile = logger, profile
        self.session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        self.ports = {port.name: port for port in (*self.session.get_inputs(), *self.session.get_outputs())}

    @property
    def num_io_tensors(self) -> int:
        return len(self.ports)

    def get_tensor_name(self, index: int) -> str:
        return list(self.ports)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.profile else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return {"tensor(float)": DataType.FLOAT, "tensor(float16)": DataType.HALF}.get(
            self.ports[name].type, DataType.BF16
        )

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation.HOST if behaviour.host_outputs and name not in self.profile else TensorLocation.DEVICE

    def get_tensor_shape(self, name: str) -> Dims:
        return Dims([size if isinstance(size, int) else -1 for size in self.ports[name].shape])

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        return [Dims(shape) for shape in self.profile[name]]

    def create_execution_context(self) -> IExecutionContext | None:
        if not behaviour.context_fits:
            self.logger.log(ILogger.Severity.ERROR, "Error Code 2: OutOfMemory (Requested size was 17 bytes.)")
            return None
        return IExecutionContext(self)


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self.engine, self.shapes, self.addresses = engine, {}, {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> Dims:
        if name in self.shapes:
            return Dims(self.shapes[name])
        batch = next(iter(self.shapes.values()))[0]
        shape = self.engine.get_tensor_shape(name)
        return Dims([batch if index == 0 and size == -1 else size for index, size in enumerate(shape)])

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        if not behaviour.runs or not fake_cuda.machine.has_context():
            self.engine.logger.log(ILogger.Severity.ERROR, "Error Code 1: Cuda Runtime (invalid argument)")
            return False
        shapes = dict(self.shapes)
        fake_cuda.machine.streams[stream_handle].add(lambda: self._compute(shapes))
        return True

    def _compute(self, shapes: dict[str, tuple[int, ...]]) -> None:
        inputs = {name: self._memory(name, shape) for name, shape in shapes.items()}
        names = [port.name for port in self.engine.session.get_outputs()]
        for name, value in zip(names, self.engine.session.run(names, inputs), strict=True):
            array = np.asarray(value)
            self._memory(name, array.shape)[...] = array

    def _memory(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        dtype = np.dtype(np.float16 if self.engine.get_tensor_dtype(name) == DataType.HALF else np.float32)
        count = int(np.prod(shape)) * dtype.itemsize
        memory = (ctypes.c_uint8 * count).from_address(self.addresses[name])
        return np.ctypeslib.as_array(memory).view(dtype).reshape(shape)


def _start(logger: ILogger) -> None:
    assert logger.is_constructed, "the binding refuses a logger whose own constructor was not called"
    if not behaviour.starts:
        logger.log(ILogger.Severity.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")
