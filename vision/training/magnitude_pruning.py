"""Unstructured pruning: small weights become zero and stay zero while the rest learns on.

Equation (28.30) of the specification: w' = w where |w| > tau, else 0. One tau for the whole detector, so that layers
full of small weights lose more (Han et al. 2015, arXiv:1506.02626). Files and time shrink only where zeros are
compressed or skipped; for real savings on common engines prune channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Bool
from pydantic import Field
from torch import Tensor, nn

from vision.config import Config
from vision.errors import ConfigError
from vision.training.freezing import is_below


class MagnitudePruningConfig(Config):
    """How many weights go."""

    kind: Literal["magnitude"] = "magnitude"
    sparsity: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Part of the kernel weights that become zero; norms and biases stay."""
    spared_parts: tuple[str, ...] = ()
    """Names of what is left whole, with all below it."""


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
        """Set what does not stay to zero."""
        for name, mask in self._masks.items():
            network.get_parameter(name).mul_(mask)

    def to(self, device: torch.device) -> WeightMasks:
        """The same on another device."""
        return WeightMasks({name: mask.to(device) for name, mask in self._masks.items()})

    def state_dict(self) -> dict[str, Tensor]:
        """Which weights stay, by the name of the kernel: a run that goes on does not judge them again."""
        return dict(self._masks)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on with what `state_dict` gave. Raises KeyError for a kernel that is not there."""
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
    """tau: the k-th smallest magnitude, k the part that goes; below all of them where none goes."""
    number = round(sparsity * len(magnitudes))
    return magnitudes.kthvalue(number).values if number else magnitudes.new_tensor(-1.0)


def _kernels(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, part in network.named_modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            yield f"{name}.weight", part.weight
