"""Optimisers and their parameter groups: weights decay, norms and biases do not."""

from __future__ import annotations

from typing import Annotated, Literal

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


class AdamWConfig(Config):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101)."""

    kind: Literal["adamw"] = "adamw"
    rate: Positive = 1e-3
    """Peak learning rate, whatever the batch size."""
    betas: tuple[Momentum, Momentum] = (0.9, 0.999)
    weight_decay: NonNegative = 0.05


OptimizerConfig = Annotated[SgdConfig | AdamWConfig, Field(discriminator="kind")]


def build_optimizer(config: SgdConfig | AdamWConfig, model: nn.Module, batch_size: int) -> torch.optim.Optimizer:
    """The optimiser at its peak rate; schedules multiply it. `batch_size` counts the images of all processes."""
    groups = parameter_groups(model, config.weight_decay)
    match config:
        case SgdConfig():
            rate = config.rate_per_image * batch_size
            return torch.optim.SGD(
                groups, lr=rate, momentum=config.momentum, nesterov=config.momentum > 0, foreach=True
            )
        case AdamWConfig():
            return torch.optim.AdamW(groups, lr=config.rate, betas=config.betas, foreach=True)
        case _:
            assert_never(config)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Two groups: tensors of two and more dimensions decay; norms and biases, which have one, do not."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
