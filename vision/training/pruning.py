"""Prune a detector: remove whole channels (structured), or keep small weights at zero (unstructured).

Removed channels make file and inference time smaller. Their importance is the size of a channel's filter (Li et al.
2017, arXiv:1608.08710) or of its batch norm's scale (Liu et al. 2017, arXiv:1708.06519). What is least important for
the multiply-adds that it costs goes first.

Zeroed weights (Han et al. 2015, arXiv:1506.02626) save only where zeros are compressed or skipped: w' = w where
|w| > tau, else 0, with one tau for the whole detector, so that layers full of small weights lose more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import assert_never

from handeye.vision.config import Config
from handeye.vision.detector import Detector, DetectorConfig
from handeye.vision.errors import ConfigError
from handeye.vision.training.channel_graph import ChannelGraph, Channels, channel_graph
from handeye.vision.training.optimizer import is_below

Kept = Bool[np.ndarray, " N"]


class ChannelPruningConfig(Config):
    """How many multiply-adds are left, and how channels are ranked."""

    kind: Literal["channels"] = "channels"
    keep_macs: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Largest fraction of the multiply-adds (half the FLOPs) of one image that is left."""
    importance: Literal["l1", "norm_scale"] = "l1"
    """`l1`: the sum of a channel's absolute kernel weights; `norm_scale`: the absolute scale of its batch norm."""
    multiple: Annotated[int, Field(gt=0)] = 16
    """Groups of channels that are pruned together keep a multiple of this: engines compute in blocks of 16 anyway."""
    least: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Fraction of the channels of every layer that stays, however unimportant."""


@dataclass(frozen=True, slots=True)
class ChannelPruningReport:
    """What was removed; multiply-adds are those of one image of the configured size."""

    macs_before: int
    macs_after: int
    parameters_before: int
    parameters_after: int
    widths: dict[str, tuple[int, ...]]
    """(in, out) of every convolution and (channels,) of every batch norm that became narrower."""


def prune_channels(detector: Detector, config: ChannelPruningConfig) -> tuple[Detector, ChannelPruningReport]:
    """A smaller detector with the weights of the channels that stay and its new widths in its configuration.

    Raises ConfigError when keep_macs cannot be reached, and for an importance that the detector lacks.
    """
    graph = channel_graph(detector)
    importance = channel_importance(detector, graph, config.importance)
    kept = choose_channels(graph, importance, config)
    pruned = keep_channels(detector, graph, kept)
    sizes = [sum(parameter.numel() for parameter in one.parameters()) for one in (detector, pruned)]
    everything = np.ones_like(kept)
    return pruned, ChannelPruningReport(
        graph.macs(everything), graph.macs(kept), sizes[0], sizes[1], dict(pruned.config.widths)
    )


def channel_importance(
    detector: Detector, graph: ChannelGraph, importance: Literal["l1", "norm_scale"]
) -> Float[np.ndarray, " N"]:
    """The importance of each channel: the mean over all layers that produce it, each scaled to a mean of 1."""
    match importance:
        case "l1":
            layers = [
                (conv.out_channels, detector.get_submodule(name).get_parameter("weight").abs().sum(dim=(1, 2, 3)))
                for name, conv in graph.convolutions.items()
            ]
        case "norm_scale":
            layers = [
                (channels, detector.get_submodule(name).get_parameter("weight").abs())
                for name, channels in graph.norms.items()
            ]
        case _:
            assert_never(importance)
    sums, counts = np.zeros(len(graph.may_go)), np.zeros(len(graph.may_go))
    for channels, values in layers:
        sizes = values.detach().double().cpu().numpy()
        np.add.at(sums, channels, sizes / max(float(sizes.mean()), np.finfo(np.float64).tiny))
        np.add.at(counts, channels, 1)
    if importance == "norm_scale" and not counts[graph.may_go].all():
        raise ConfigError("importance norm_scale: not every convolution has its batch norm here; use l1")
    return sums / np.maximum(counts, 1)


def choose_channels(graph: ChannelGraph, importance: Float[np.ndarray, " N"], config: ChannelPruningConfig) -> Kept:
    """The channels to keep: first goes the block with the least importance per saved multiply-add."""
    kept = np.ones(len(importance), dtype=bool)
    families = [family[np.argsort(importance[family], kind="stable")] for family in graph.families()]
    wanted = config.keep_macs * graph.macs(kept)
    while (macs := graph.macs(kept)) > wanted:
        saved = graph.macs_of_each(kept)
        lefts = [family[kept[family]] for family in families]
        blocks = [_next_block(left, len(family), config) for left, family in zip(lefts, families, strict=True)]
        costs = [
            importance[block].sum() / importance[left].sum() / saved[block].sum() if len(block) else np.inf
            for block, left in zip(blocks, lefts, strict=True)
        ]
        if not any(np.isfinite(costs)):
            everything = graph.macs(np.ones_like(kept))
            raise ConfigError(
                f"keep_macs {config.keep_macs:g}: the least that this detector can be pruned to is "
                f"{macs / everything:.2f} of its multiply-adds with least={config.least:g} and "
                f"multiple={config.multiple}"
            )
        kept[blocks[int(np.argmin(costs))]] = False
    return kept


def keep_channels(detector: Detector, graph: ChannelGraph, kept: Kept) -> Detector:
    """The detector of only the `kept` channels, in eval mode; where the others were zero it computes the same."""
    weights = detector.state_dict()
    widths = dict(detector.config.widths)
    for name, conv in graph.convolutions.items():
        rows = kept[conv.out_channels]
        columns = np.ones(conv.num_inputs, dtype=bool) if conv.in_channels is None else kept[conv.in_channels]
        if rows.all() and columns.all():
            continue
        widths[name] = (int(columns.sum()), int(rows.sum()))
        chosen = weights[f"{name}.weight"][_where(rows)]
        weights[f"{name}.weight"] = chosen if conv.is_depthwise else chosen[:, _where(columns)]
        if f"{name}.bias" in weights:
            weights[f"{name}.bias"] = weights[f"{name}.bias"][_where(rows)]
    for name, channels in graph.norms.items():
        rows = kept[channels]
        if not rows.all():
            widths[name] = (int(rows.sum()),)
            for key in ("weight", "bias", "running_mean", "running_var"):
                weights[f"{name}.{key}"] = weights[f"{name}.{key}"][_where(rows)]
    pruned = Detector(DetectorConfig.model_validate({**detector.config.model_dump(), "widths": widths}))
    pruned.load_state_dict(weights)
    return pruned.eval()


def _next_block(left: Channels, size: int, config: ChannelPruningConfig) -> Channels:
    """The least important channels of a family, which would go next; none where it has reached its minimum.

    left: its remaining channels, the least important first; it had `size` at the beginning.
    """
    least = max(config.multiple, int(np.ceil(config.least * size)))
    number = len(left) % config.multiple or config.multiple
    return left[:number] if len(left) - number >= least else left[:0]


def _where(chosen: Bool[np.ndarray, " C"]) -> Tensor:
    return torch.from_numpy(np.flatnonzero(chosen))


class MagnitudePruningConfig(Config):
    """How many weights become zero."""

    kind: Literal["magnitude"] = "magnitude"
    sparsity: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Fraction of the kernel weights that become zero; norms and biases stay."""
    spared_parts: tuple[str, ...] = ()
    """Names of modules that are not pruned, nor anything below them."""


@dataclass(frozen=True, slots=True)
class LayerSparsity:
    """The zeros of one layer."""

    name: str
    weights: int
    zeros: int


class WeightMasks:
    """Which weights of a network stay: found once, applied after every step."""

    def __init__(self, masks: dict[str, Bool[Tensor, "..."]]) -> None:
        self._masks = masks

    @torch.no_grad()
    def apply(self, network: nn.Module) -> None:
        """Set the pruned weights to zero."""
        for name, mask in self._masks.items():
            network.get_parameter(name).mul_(mask)

    def to(self, device: torch.device) -> WeightMasks:
        """The same on another device."""
        return WeightMasks({name: mask.to(device) for name, mask in self._masks.items()})

    def state_dict(self) -> dict[str, Tensor]:
        """Which weights stay, by the name of the kernel: a resumed run does not choose again."""
        return dict(self._masks)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take what `state_dict` gave. Raises KeyError for a kernel that is not there."""
        self._masks = {name: state[name].to(mask.device) for name, mask in self._masks.items()}


def magnitude_masks(network: nn.Module, config: MagnitudePruningConfig) -> WeightMasks:
    """True where |w| > tau, with tau such that `sparsity` of the kernel weights of `network` are not above it.

    Raises ConfigError for a spared part that does not exist, and when nothing is left to prune.
    """
    for part in config.spared_parts:
        if not any(is_below(name, part) for name, _ in network.named_modules()):
            raise ConfigError(f"pruning.spared_parts: the detector has nothing named {part!r}")
    kernels = {
        name: weight.detach().abs()
        for name, weight in _kernels(network)
        if not any(is_below(name, part) for part in config.spared_parts)
    }
    if not kernels:
        raise ConfigError("pruning: spared_parts leave no weight that could be pruned")
    threshold = _threshold(torch.cat([values.flatten() for values in kernels.values()]), config.sparsity)
    return WeightMasks({name: values > threshold for name, values in kernels.items()})


def sparsity_report(network: nn.Module) -> list[LayerSparsity]:
    """The zeros of every convolution and linear layer, in the network's order."""
    return [
        LayerSparsity(name.removesuffix(".weight"), weight.numel(), int((weight == 0).sum()))
        for name, weight in _kernels(network)
    ]


def _threshold(magnitudes: Tensor, sparsity: float) -> Tensor:
    """tau: the k-th smallest magnitude, k the number to prune; below all of them for none."""
    number = round(sparsity * len(magnitudes))
    return magnitudes.kthvalue(number).values if number else magnitudes.new_tensor(-1.0)


def _kernels(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, part in network.named_modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            yield f"{name}.weight", part.weight
