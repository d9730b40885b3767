"""Find which channels of a network must be pruned together, by tracing one image through it.

Every output channel of a convolution gets a number. Norms, activations and pools pass it on, a concatenation lines
numbers up, a sum merges those of its terms; so residuals and concatenations need no special rules. Channels that
meet any other operation are never pruned, whatever the architecture.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from handeye.vision.detector import Detector
from handeye.vision.layers.csp_blocks import RepBlock
from handeye.vision.layers.widths import is_depthwise

Channels = Int64[np.ndarray, " _"]
"""Numbers of channels, in the order of a map."""

HANDED_ON = frozenset(
    {"silu", "relu", "relu_", "leaky_relu", "gelu", "mish", "hardswish", "hardsigmoid", "sigmoid", "dropout"}
    | {"interpolate", "max_pool2d", "_max_pool2d", "avg_pool2d", "adaptive_avg_pool2d"}
    | {"contiguous", "clone", "detach", "to", "float", "type_as"}
)
"""Functions whose output channels are the input's, one to one."""
JOINED = frozenset({"add", "add_", "__add__", "__iadd__", "__radd__", "sub", "__sub__"}) | frozenset(
    {"mul", "mul_", "__mul__", "__imul__", "__rmul__"}
)
"""Functions of two maps that merge the channels of both."""


@dataclass(frozen=True, slots=True, eq=False)
class TrackedConvolution:
    """A convolution in the trace; in_channels is None for an input that may not become narrower."""

    in_channels: Channels | None
    out_channels: Channels
    num_inputs: int
    macs_per_pair: int
    """Multiply-adds of one input channel with one output channel: kernel cells times output cells."""
    is_depthwise: bool


@dataclass(frozen=True, slots=True, eq=False)
class ChannelGraph:
    """Channels by number; `may_go[n]` is whether channel n may be removed, wherever it appears."""

    convolutions: Mapping[str, TrackedConvolution]
    norms: Mapping[str, Channels]
    may_go: Bool[np.ndarray, " N"]
    other_macs: int
    """Multiply-adds of one image outside these convolutions, which do not change."""

    def macs(self, kept: Bool[np.ndarray, " N"]) -> int:
        """Multiply-adds of one image when only the `kept` channels are left."""
        return self.other_macs + sum(_macs(conv, kept) for conv in self.convolutions.values())

    def macs_of_each(self, kept: Bool[np.ndarray, " N"]) -> np.ndarray:
        """What removing each single channel would save."""
        saved = np.zeros(len(self.may_go))
        for conv in self.convolutions.values():
            num_outputs = int(kept[conv.out_channels].sum())
            num_inputs = conv.num_inputs if conv.in_channels is None else int(kept[conv.in_channels].sum())
            np.add.at(saved, conv.out_channels, conv.macs_per_pair * (1 if conv.is_depthwise else num_inputs))
            if conv.in_channels is not None and not conv.is_depthwise:
                np.add.at(saved, conv.in_channels, conv.macs_per_pair * num_outputs)
        return saved

    def families(self) -> list[Channels]:
        """Removable channels, together where the same convolutions make them: what is rounded to a multiple."""
        makers: dict[int, list[str]] = {int(channel): [] for channel in np.flatnonzero(self.may_go)}
        for name, conv in self.convolutions.items():
            for channel in set(conv.out_channels.tolist()) & makers.keys():
                makers[channel].append(name)
        together: dict[tuple[str, ...], list[int]] = {}
        for channel, names in makers.items():
            together.setdefault(tuple(names), []).append(channel)
        return [np.asarray(channels) for channels in together.values()]


def channel_graph(detector: Detector) -> ChannelGraph:
    """The channels of a detector at the size of its configuration."""
    watched = copy.deepcopy(detector).train()  # a RepVGG block shows its convolutions in train mode only
    device = next(watched.parameters()).device
    images = torch.zeros(2, 3, *detector.config.preprocessing.size_hw, device=device)
    tracker = _Tracker(watched)
    with torch.no_grad(), torch.random.fork_rng(devices=[]), tracker:
        watched(images)
    with torch.no_grad(), torch.random.fork_rng(devices=[]), FlopCounterMode(display=False) as counter:
        watched.eval()(images[:1])
    return tracker.graph(counter.get_total_flops() // 2)


class _Tracker(TorchFunctionMode):
    """Follows channels through every call of torch."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        modules = list(network.named_modules())
        self._convolutions = {id(part.weight): (name, part) for name, part in modules if isinstance(part, nn.Conv2d)}
        self._norms = {id(part.running_mean): name for name, part in modules if isinstance(part, nn.BatchNorm2d)}
        self._free = {id(part.mix.conv.weight) for _, part in modules if isinstance(part, RepBlock)}
        self._parents: list[int] = []
        self._fixed: set[int] = set()
        self._numbered: dict[int, tuple[Tensor, Channels]] = {}  # holds the tensor, so that its id is not reused
        self._made: dict[str, TrackedConvolution] = {}
        self._normed: dict[str, Channels] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """One call, carried out; its output's channels follow from its inputs'."""
        del types
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if name == "batch_norm":
            return self._norm(args, kwargs)
        result = func(*args, **kwargs)
        if name == "conv2d" and id(_argument(args, kwargs, 1, "weight")) in self._convolutions:
            self._convolve(_argument(args, kwargs, 0, "input"), _argument(args, kwargs, 1, "weight"), result)
        elif name in ("cat", "concat") and _argument(args, kwargs, 1, "dim", 0) in (1, -3):
            self._line_up(_argument(args, kwargs, 0, "tensors"), result)
        elif name in HANDED_ON and isinstance(result, Tensor) and self._channels(args[0]) is not None:
            self._number(result, self._channels(args[0]))
        elif name in JOINED and len(args) == 2 and all(self._channels(arg) is not None for arg in args):
            self._join(args[0], args[1], result)
        elif any(isinstance(value, Tensor) for value in _flat(result)):
            self._keep(_flat((args, kwargs)))
        return result

    def graph(self, total_macs: int) -> ChannelGraph:
        """What was seen, every channel by the number of the first that it is one with."""
        roots = np.asarray([self._root(number) for number in range(len(self._parents))], dtype=np.int64)
        read = np.zeros(len(roots), dtype=bool)
        convolutions = {}
        for name, conv in self._made.items():
            inputs = None if conv.in_channels is None else roots[conv.in_channels]
            if inputs is not None and not conv.is_depthwise:
                read[inputs] = True
            convolutions[name] = TrackedConvolution(
                inputs, roots[conv.out_channels], conv.num_inputs, conv.macs_per_pair, conv.is_depthwise
            )
        may_go = read.copy()  # what no convolution reads may be read by something that was not seen
        may_go[[self._root(number) for number in self._fixed]] = False
        norms = {name: roots[channels] for name, channels in self._normed.items()}
        seen = ChannelGraph(convolutions, norms, may_go, 0)
        return ChannelGraph(convolutions, norms, may_go, total_macs - seen.macs(np.ones(len(roots), dtype=bool)))

    def _norm(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Handed on as it is: values mean nothing here, and statistics are not to change."""
        features, name = args[0], self._norms.get(id(_argument(args, kwargs, 1, "running_mean")))
        result, channels = features.clone(), self._channels(features)
        if channels is not None and name is not None:
            self._normed[name] = channels
            self._number(result, channels)
        elif channels is not None:
            self._keep([features])
        return result

    def _convolve(self, features: Tensor, weight: Tensor, result: Tensor) -> None:
        name, conv = self._convolutions[id(weight)]
        inputs = self._channels(features)
        depthwise = is_depthwise(conv) and inputs is not None
        if inputs is not None and depthwise:
            outputs = inputs
        else:
            outputs = np.arange(len(self._parents), len(self._parents) + conv.out_channels)
            self._parents += outputs.tolist()
        cells = weight.shape[-1] * weight.shape[-2] * result.shape[-1] * result.shape[-2]
        macs = 0 if id(weight) in self._free else cells  # half of a RepVGG block costs nothing once both are one
        before = self._made.get(name)
        if before is not None:  # one convolution for several maps has one set of channels
            self._unite(before.out_channels, outputs)
            macs += before.macs_per_pair
            if inputs is not None and before.in_channels is not None:
                self._unite(before.in_channels, inputs)
        self._made[name] = TrackedConvolution(inputs, outputs, conv.in_channels, macs, depthwise)
        if (
            conv.groups > 1
            and not depthwise
            or (before is not None and (before.in_channels is None) != (inputs is None))
        ):
            self._fixed.update([*outputs.tolist(), *([] if inputs is None else inputs.tolist())])
        self._number(result, outputs)

    def _line_up(self, tensors: Sequence[Tensor], result: Tensor) -> None:
        channels = [self._channels(tensor) for tensor in tensors]
        if all(one is not None for one in channels):
            self._number(result, np.concatenate([one for one in channels if one is not None]))
        else:
            self._keep(tensors)

    def _join(self, first: Tensor, second: Tensor, result: Tensor) -> None:
        ours, theirs = self._channels(first), self._channels(second)
        assert ours is not None
        assert theirs is not None
        if len(ours) != len(theirs):
            self._keep([first, second])
            return
        self._unite(ours, theirs)
        self._number(result, ours)

    def _unite(self, first: Channels, second: Channels) -> None:
        for ours, theirs in zip(first.tolist(), second.tolist(), strict=True):
            low, high = sorted((self._root(ours), self._root(theirs)))
            self._parents[high] = low

    def _root(self, number: int) -> int:
        while self._parents[number] != number:
            self._parents[number] = number = self._parents[self._parents[number]]
        return number

    def _keep(self, values: Iterable[Any]) -> None:
        for value in values:
            channels = self._channels(value)
            self._fixed.update([] if channels is None else channels.tolist())

    def _channels(self, value: Any) -> Channels | None:
        return self._numbered[id(value)][1] if id(value) in self._numbered else None

    def _number(self, tensor: Tensor, channels: Channels | None) -> None:
        if channels is not None and tensor.ndim == 4 and tensor.shape[1] == len(channels):
            self._numbered[id(tensor)] = (tensor, channels)


def _macs(conv: TrackedConvolution, kept: Bool[np.ndarray, " N"]) -> int:
    num_outputs = int(kept[conv.out_channels].sum())
    if conv.is_depthwise:
        return conv.macs_per_pair * num_outputs
    num_inputs = conv.num_inputs if conv.in_channels is None else int(kept[conv.in_channels].sum())
    return conv.macs_per_pair * num_inputs * num_outputs


def _argument(args: tuple[Any, ...], kwargs: Mapping[str, Any], place: int, name: str, default: Any = None) -> Any:
    return args[place] if len(args) > place else kwargs.get(name, default)


def _flat(value: Any) -> list[Any]:
    """All that is nested in sequences and mappings."""
    if isinstance(value, Mapping):
        return [inner for one in value.values() for inner in _flat(one)]
    return [inner for one in value for inner in _flat(one)] if isinstance(value, list | tuple) else [value]
