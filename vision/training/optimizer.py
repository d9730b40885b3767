"""Build optimizers with parameter groups (no weight decay on norms and biases); freeze parts; average weights (EMA)."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Generic, Literal, TypeVar

import torch
from pydantic import Field
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import get_ema_multi_avg_fn
from typing_extensions import assert_never

from handeye.vision.config import Config
from handeye.vision.errors import ConfigError
from handeye.vision.training.sharding import own_share

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
M = TypeVar("M", bound=nn.Module)


class SgdConfig(Config):
    """Stochastic gradient descent with Nesterov momentum (Sutskever et al. 2013), the choice of YOLOX."""

    kind: Literal["sgd"] = "sgd"
    lr_per_image: Positive = 0.01 / 64
    """Peak learning rate per image: it grows with the batch size, as in YOLOX."""
    momentum: Momentum = 0.9
    weight_decay: NonNegative = 5e-4
    backbone_lr_factor: Positive = 1.0
    """Factor on the learning rate of the backbone, for pretrained ones."""


class AdamWConfig(Config):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101)."""

    kind: Literal["adamw"] = "adamw"
    lr: Positive = 1e-3
    """Peak learning rate, independent of the batch size."""
    betas: tuple[Momentum, Momentum] = (0.9, 0.999)
    weight_decay: NonNegative = 0.05
    backbone_lr_factor: Positive = 1.0
    """Factor on the learning rate of the backbone; 0.1 in the recipes of DETR and RT-DETR, whose backbones are
    pretrained."""


OptimizerConfig = Annotated[SgdConfig | AdamWConfig, Field(discriminator="kind")]


def build_optimizer(config: SgdConfig | AdamWConfig, model: nn.Module, batch_size: int) -> torch.optim.Optimizer:
    """The optimizer at its peak learning rates; schedules multiply them. `batch_size` is that of all processes.

    Weights below the model's `backbone`, if it has one, get backbone_lr_factor times the rate.
    """
    match config:
        case SgdConfig():
            rate = config.lr_per_image * batch_size
            groups = _groups_with_rates(config, model, rate)
            return torch.optim.SGD(
                groups, lr=rate, momentum=config.momentum, nesterov=config.momentum > 0, foreach=True
            )
        case AdamWConfig():
            groups = _groups_with_rates(config, model, config.lr)
            return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, foreach=True)
        case _:
            assert_never(config)


def parameter_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: tensors of two and more dimensions decay; norms and biases, which have one, do not."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
    ]


def _groups_with_rates(config: SgdConfig | AdamWConfig, model: nn.Module, rate: float) -> list[dict[str, Any]]:
    """The head's groups first: theirs is the learning rate in the journal."""
    if config.backbone_lr_factor == 1:
        return parameter_groups(model.parameters(), config.weight_decay)
    names = dict(model.named_parameters())
    backbone = [parameter for name, parameter in names.items() if name.startswith("backbone.")]
    others = [parameter for name, parameter in names.items() if not name.startswith("backbone.")]
    slower = parameter_groups(backbone, config.weight_decay)
    for group in slower:
        group["lr"] = rate * config.backbone_lr_factor
    return [*parameter_groups(others, config.weight_decay), *slower]


def freeze(model: nn.Module, prefixes: Sequence[str]) -> None:
    """Freeze every parameter whose name is, or lies below, one of the prefixes: "backbone", "backbone.stages.0".

    Its batch norms keep their statistics when `train_mode` is given the same prefixes.
    Raises ConfigError for a prefix that names nothing, and when nothing would be left to train.
    """
    for prefix in prefixes:
        parameters = [parameter for name, parameter in model.named_parameters() if is_below(name, prefix)]
        if not parameters:
            raise ConfigError(f"freeze: the detector has nothing named {prefix!r}; {_near(model, prefix)}")
        for parameter in parameters:
            parameter.requires_grad = False
    if prefixes and not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(f"freeze: {', '.join(prefixes)} leave no weight to train")


def train_mode(model: nn.Module, frozen: Sequence[str]) -> None:
    """Train mode for all but the batch norms of frozen parts: their statistics stay as they are."""
    model.train()
    if frozen:
        for name, module in model.named_modules():
            if isinstance(module, _BatchNorm) and any(is_below(name, prefix) for prefix in frozen):
                module.eval()


def is_below(name: str, prefix: str) -> bool:
    """Whether a module or parameter is the one named `prefix` or lies below it."""
    return name == prefix or name.startswith(f"{prefix}.")


def _near(model: nn.Module, prefix: str) -> str:
    """What exists instead, below the longest part of the prefix that does."""
    parts, known = prefix.split("."), model
    for number, part in enumerate(parts):
        children = dict(known.named_children())
        if part not in children:
            place = ".".join(parts[:number]) or "it"
            return f"{place} has {', '.join(children) or 'no parts'}"
        known = children[part]
    return "it has no parameters"


class EmaConfig(Config):
    """Decay of the exponential moving average of the weights."""

    decay: Annotated[float, Field(ge=0, lt=1)] = 0.9998
    """Share of the old average kept at each step; 1 / (1 - decay) is about the number of steps remembered."""
    ramp_steps: Annotated[float, Field(gt=0)] = 2000.0
    """Time constant with which the decay grows to its value, so that early weights are forgotten quickly."""


class Ema(Generic[M]):
    """Exponential moving average of the weights (Polyak averaging), which is evaluated and saved.

    After step t (1, 2, ...): average <- d average + (1 - d) weights, with d = decay (1 - exp(-t / ramp_steps)).

    Parameters and floating-point buffers (running means and variances of norms) are averaged, counters are copied.
    """

    def __init__(self, config: EmaConfig, model: M) -> None:
        self.config = config
        self.num_updates = 0
        self.model: M = copy.deepcopy(model).eval().requires_grad_(requires_grad=False)
        """The averaged model, in eval mode."""

    def decay_at(self, num_updates: int) -> float:
        """The decay of update number `num_updates`, counted from 1."""
        return self.config.decay * (1 - math.exp(-num_updates / self.config.ramp_steps))

    @torch.no_grad()
    def update(self, model: M) -> None:
        """Average the weights of `model` after a step in."""
        self.num_updates += 1
        averages, values = [], []
        own = self.model.state_dict()
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                averages.append(own_share(own[name]))
                values.append(own_share(value))
            else:
                own[name].copy_(value)
        get_ema_multi_avg_fn(self.decay_at(self.num_updates))(averages, values, None)

    def state_dict(self) -> dict[str, object]:
        """The averaged model's state and the number of updates."""
        return {"num_updates": self.num_updates, "model": self.model.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what `state_dict` gave."""
        self.num_updates = state["num_updates"]
        self.model.load_state_dict(state["model"])
