"""Shard weights, gradients, EMA and optimizer state over the processes (FSDP2).

Zhao et al. 2023 (arXiv:2304.11277). A part of the network is whole on a process only while it computes. Files are
the same as without sharding: states are gathered before they are written and sharded after they are read. This calls
torch's `fully_shard`, because accelerate's plugin does not shard on CPUs, where the tests run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.torch_version import TorchVersion
from torch.utils import _pytree

from handeye.vision.detector import Detector
from handeye.vision.errors import ConfigError
from handeye.vision.heads.dfine import DfineOutput, EdgePredictions
from handeye.vision.heads.outputs import DenoisingPredictions, GridOutput, QueryOutput, QueryPredictions
from handeye.vision.heads.yolo_grid import YoloGridOutput
from handeye.vision.losses.counting import num_processes

M = TypeVar("M", bound=nn.Module)
OLDEST_TORCH = "2.7"
"""Of which `fully_shard` can leave parameters whole."""
OUTPUTS = (
    GridOutput,
    YoloGridOutput,
    QueryPredictions,
    EdgePredictions,
    DenoisingPredictions,
    QueryOutput,
    DfineOutput,
)


@runtime_checkable
class Stateful(Protocol):
    """A part of a training that has state."""

    def state_dict(self) -> dict[str, Any]: ...  # noqa: D102
    def load_state_dict(self, state: dict[str, Any], /) -> object: ...  # noqa: D102


def learning_parameters(detector: Detector) -> frozenset[str]:
    """The names of the parameters to shard.

    The rest stays whole: the loss reads some of it (D-FINE's bins) after the head has been resharded.
    """
    return frozenset(name for name, parameter in detector.named_parameters() if parameter.requires_grad)


def shard(detector: Detector, names: Collection[str], device: torch.device) -> Detector:
    """Shard the parameters of these names, in place; all processes must call it.

    Backbone, neck, head and each stage or layer of the backbone gather their parameters one after the other. Raises
    ConfigError where torch is too old to leave parameters whole.
    """
    if TorchVersion(torch.__version__) < OLDEST_TORCH:
        raise ConfigError(f"shard_weights needs torch {OLDEST_TORCH} or newer, got {torch.__version__}; leave it out")
    _register_outputs()
    mesh = init_device_mesh(device.type, (num_processes(),))
    fixed = {parameter for name, parameter in detector.named_parameters() if name not in names}
    for part in (*_stages(detector.backbone), detector.backbone, detector.neck, detector.head, detector):
        fully_shard(part, mesh=mesh, ignored_params=fixed)
    return detector


def whole(state: Any) -> Any:
    """The same nested state with every sharded tensor gathered, in the CPU's memory; all processes must call it."""
    if isinstance(state, DTensor):
        return state.full_tensor().cpu()
    if isinstance(state, Mapping):
        return {key: whole(value) for key, value in state.items()}
    return state


def gathered_into(copy: Detector, sharded: Detector) -> Detector:
    """`copy`, a detector of the same shape that is not sharded, with the weights of the one that is, on the CPU.

    All processes must call it.
    """
    copy.cpu().load_state_dict(whole(sharded.state_dict()))
    return copy


def own_share(value: Tensor) -> Tensor:
    """The local shard of a tensor, which shares its memory; an ordinary tensor itself."""
    return value.to_local() if isinstance(value, DTensor) else value


def sharded_states(parts: Mapping[str, Stateful]) -> dict[str, Stateful]:
    """Wrap sharded parts so that they give and take whole states."""
    return {
        name: ShardedOptimizerState(part) if isinstance(part, torch.optim.Optimizer) else ShardedState(part)
        for name, part in parts.items()
    }


class ShardedState:
    """A sharded module, or what wraps some: its state is gathered when it is read and sharded when it is loaded."""

    def __init__(self, part: Stateful) -> None:
        self._part = part

    def state_dict(self) -> dict[str, Any]:
        """The whole state; all processes must call it."""
        return whole(self._part.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the local shard of a whole state; all processes must call it."""
        self._part.load_state_dict(_sharded_like(self._part.state_dict(), state))


class ShardedOptimizerState(ShardedState):
    """The same for an optimizer: before its first step it has no state, so the parameters say how to shard."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(optimizer)
        self._optimizer = optimizer

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the local shard of a whole state; all processes must call it."""
        parameters = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        moments = {
            index: {name: _sharded_like(parameters[index], value) for name, value in values.items()}
            for index, values in state["state"].items()
        }
        self._optimizer.load_state_dict({**state, "state": moments})


def _sharded_like(own: Any, state: Any) -> Any:
    """`state` with its tensors sharded like those at the same key in `own`."""
    if isinstance(state, Mapping):
        return {key: _sharded_like(own[key], value) if key in own else value for key, value in state.items()}
    if isinstance(state, Tensor) and isinstance(own, DTensor) and own.shape == state.shape:
        return distribute_tensor(state.to(own.device), own.device_mesh, own.placements)
    return state


def _stages(backbone: nn.Module) -> Iterator[nn.Module]:
    """The members of the backbone's ModuleLists, which it calls one after the other."""
    for part in backbone.children():
        if isinstance(part, nn.ModuleList):
            yield from part


def _register_outputs() -> None:
    """Register the outputs of heads with pytree: torch finds the tensors there whose gradients trigger resharding."""
    for output in OUTPUTS:
        if output not in _pytree.SUPPORTED_NODES:
            torch.export.register_dataclass(output)
