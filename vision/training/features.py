"""Features of a training (EMA, distillation, sharding, ...) as hooks of one loop, applied in one checked order.

A feature overrides the hooks that it needs. `TrainingLoop` calls them in the order of `ORDER` and knows no feature by
name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from handeye.vision.training.optimizer import Ema, EmaConfig
from handeye.vision.training.sharding import Stateful

N = TypeVar("N", bound=nn.Module)
Losses = dict[str, Float[Tensor, ""]]
"""The weighted parts of a loss by name, and their sum as `total`."""

ORDER = (
    "pruning",  # judges the weights the network starts from; channels leave before anything refers to them
    "quantization_aware",  # replaces convolutions, which EMA and the device must see
    "channels_last",  # moves the finished network to its device
    "freeze",  # the optimizer and sharding take what requires gradients
    "accumulate_steps",  # builds the loss that later features wrap
    "ema",  # copies the network before its norms are synchronised; after a step, averages weights already masked
    "sync_batch_norm",
    "shard_weights",  # shards the network and its EMA; gathers what EMA chose to save
    "distillation",  # wraps the network; its adapters join the optimizer
    "compile",
    "precision",
)
"""Configuration keys of the features, in the order in which their hooks run."""

INCOMPATIBLE = {"shard_weights": ("distillation", "pruning.kind=magnitude", "compile", "precision=fp16")}
"""Features that cannot be combined: the key with any of the others."""
NEED_TRAINED_WEIGHTS = ("pruning", "quantization_aware")
"""Features that judge weights, which a fresh network does not have."""


@dataclass
class Setup(Generic[N]):
    """What a training starts with; features change it one after the other, before the optimizer is built."""

    network: N
    """Its weights are trained and saved."""
    device: torch.device
    loss: Callable[..., Losses]
    model: nn.Module | None = None
    """What the forward pass goes through where it is not the network itself."""
    optimized: nn.Module | None = None
    """What the optimizer trains where it is not the whole network."""
    copies: list[N] = field(default_factory=list)
    """Networks of the same shape (EMA) that are kept the way the network is."""
    param_groups: list[dict[str, Any]] = field(default_factory=list)
    """For the optimizer, besides those of the network."""


class Feature(Generic[N]):
    """The hooks of a feature. By default they do nothing."""

    key: ClassVar[str]
    """Its configuration key, which is its place in `ORDER`."""

    def before_training(self, setup: Setup[N]) -> None:
        """Change what the training starts with; once, before the saved state is restored."""

    def before_step(self, network: N) -> None:
        """Before the forward pass; the network is in train mode."""

    def split(self, batches: list[Any]) -> list[Any]:
        """The parts into which a batch is divided for several backward passes."""
        return batches

    def losses(self, losses_of: Callable[[Any], Losses], output: Any, inputs: Any) -> Losses:
        """The losses of the model's output; `losses_of` computes those of the features before this one."""
        del inputs
        return losses_of(output)

    def divisor(self, divisor: float, num_parts: int) -> float:
        """What gradients and losses, summed over the parts of a batch, are divided by."""
        del num_parts
        return divisor

    def after_step(self, network: N) -> None:
        """After the optimizer has changed the weights."""

    def state(self) -> Mapping[str, Stateful]:
        """What must be saved for a resumed run to continue exactly, by name."""
        return {}

    def saved_states(self, parts: dict[str, Stateful]) -> dict[str, Stateful]:
        """All parts of the state as they are to be saved and loaded."""
        return parts

    def weights_to_save(self, network: N) -> N:
        """The network that is evaluated and saved; all processes call it."""
        return network


class EmaFeature(Feature[N]):
    """Averages the weights after every step; the average is what is evaluated and saved."""

    key = "ema"

    def __init__(self, config: EmaConfig) -> None:
        self._config = config
        self._ema: Ema[N] | None = None

    @property
    def ema(self) -> Ema[N]:
        """The average; there is none before `before_training`."""
        assert self._ema is not None
        return self._ema

    def before_training(self, setup: Setup[N]) -> None:
        """Start the average at the initial weights."""
        self._ema = Ema(self._config, setup.network)
        setup.copies.append(self._ema.model)

    def after_step(self, network: N) -> None:
        """Update the average."""
        self.ema.update(network)

    def state(self) -> Mapping[str, Stateful]:
        """The averaged weights and the number of updates."""
        return {"ema": self.ema}

    def weights_to_save(self, network: N) -> N:
        """The average."""
        del network
        return self.ema.model


def require_order(features: Sequence[Feature[Any]]) -> None:
    """Raise ValueError, naming the features, where they are not in the order of `ORDER` or one is there twice."""
    for feature in features:
        if feature.key not in ORDER:
            raise ValueError(f"feature {feature.key!r} has no place in ORDER")
    for before, after in zip(features, features[1:], strict=False):
        if ORDER.index(before.key) >= ORDER.index(after.key):
            raise ValueError(f"feature {after.key} must come before {before.key}, and only once")


def require_compatible(chosen: Collection[str], *, has_trained_weights: bool) -> None:
    """Raise ValueError, naming the keys, for features that cannot be combined or lack trained weights.

    chosen: the keys of the features that are on, with `key=value` where the value matters.
    """
    for key in NEED_TRAINED_WEIGHTS:
        if key in chosen and not has_trained_weights:
            raise ValueError(f"{key} judges trained weights: name a checkpoint as start_from")
    for key, others in INCOMPATIBLE.items():
        if key in chosen and (refused := [other for other in others if other in chosen]):
            raise ValueError(f"{key} does not go together with {', '.join(refused)}; leave one of them out")
