"""Exponential moving average of the weights (Polyak averaging): what is evaluated and shipped."""

from __future__ import annotations

import copy
import math
from typing import Annotated, Any, Generic, TypeVar

import torch
from pydantic import Field
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from vision.config import Config
from vision.training.sharding import own_share

M = TypeVar("M", bound=nn.Module)


class WeightAverageConfig(Config):
    """How long the average remembers."""

    decay: Annotated[float, Field(ge=0, lt=1)] = 0.9998
    """Share of the old average kept at each step; 1 / (1 - decay) is about the number of steps remembered."""
    ramp_steps: Annotated[float, Field(gt=0)] = 2000.0
    """Time constant with which the decay grows to its value, so that early weights are soon forgotten."""


class WeightAverage(Generic[M]):
    """After step t (1, 2, ...): average <- d average + (1 - d) weights, with d = decay (1 - exp(-t / ramp_steps)).

    Parameters and floating-point buffers (running means and variances of norms) are averaged, counters are copied.
    """

    def __init__(self, config: WeightAverageConfig, model: M) -> None:
        self.config = config
        self.num_updates = 0
        self.model: M = copy.deepcopy(model).eval().requires_grad_(requires_grad=False)
        """The averaged model, in eval mode."""

    def decay_at(self, num_updates: int) -> float:
        """The decay of update number `num_updates`, counted from 1."""
        return self.config.decay * (1 - math.exp(-num_updates / self.config.ramp_steps))

    @torch.no_grad()
    def update(self, model: M) -> None:
        """Take one step of `model`, which must be shaped like the one averaged, into the average."""
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
        """Go on from what `state_dict` gave."""
        self.num_updates = state["num_updates"]
        self.model.load_state_dict(state["model"])
