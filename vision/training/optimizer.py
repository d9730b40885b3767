"""Optimisers and their parameter groups: weights decay, norms and biases do not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn
from typing_extensions import assert_never

from vision.config import Config

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Momentum = Annotated[float, Field(ge=0, lt=1)]


class SgdConfig(Config):
    """Stochastic gradient descent with Nesterov momentum (Sutskever et al. 2013), the choice of YOLOX."""

    kind: Literal["sgd"] = "sgd"
    rate_per_image: Positive = 0.01 / 64
    """Peak learning rate for each image of the batch: the rate grows with the batch size, as in YOLOX."""
    momentum: Momentum = 0.9
    weight_decay: NonNegative = 5e-4
    backbone_rate_factor: Positive = 1.0
    """Factor on the rate of the backbone's weights, for backbones that are trained already."""


class AdamWConfig(Config):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101)."""

    kind: Literal["adamw"] = "adamw"
    rate: Positive = 1e-3
    """Peak learning rate, whatever the batch size."""
    betas: tuple[Momentum, Momentum] = (0.9, 0.999)
    weight_decay: NonNegative = 0.05
    backbone_rate_factor: Positive = 1.0
    """Factor on the rate of the backbone's weights; 0.1 in the recipes of DETR and RT-DETR, whose backbones come
    trained."""


OptimizerConfig = Annotated[SgdConfig | AdamWConfig, Field(discriminator="kind")]


def build_optimizer(config: SgdConfig | AdamWConfig, model: nn.Module, batch_size: int) -> torch.optim.Optimizer:
    """The optimiser at its peak rates; schedules multiply them. `batch_size` counts the images of all processes.

    The model's weights below `backbone`, if it has such a part, learn at backbone_rate_factor times the rate.
    """
    match config:
        case SgdConfig():
            rate = config.rate_per_image * batch_size
            groups = _groups_with_rates(config, model, rate)
            return torch.optim.SGD(
                groups, lr=rate, momentum=config.momentum, nesterov=config.momentum > 0, foreach=True
            )
        case AdamWConfig():
            groups = _groups_with_rates(config, model, config.rate)
            return torch.optim.AdamW(groups, lr=config.rate, betas=config.betas, foreach=True)
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
    """The head's groups first: theirs is the rate that is written down at every step."""
    if config.backbone_rate_factor == 1:
        return parameter_groups(model.parameters(), config.weight_decay)
    names = dict(model.named_parameters())
    backbone = [parameter for name, parameter in names.items() if name.startswith("backbone.")]
    others = [parameter for name, parameter in names.items() if not name.startswith("backbone.")]
    slower = parameter_groups(backbone, config.weight_decay)
    for group in slower:
        group["lr"] = rate * config.backbone_rate_factor
    return [*parameter_groups(others, config.weight_decay), *slower]
