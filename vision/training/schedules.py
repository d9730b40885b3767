"""The learning rate over a run: linear warm-up, half a cosine, constant tail (YOLOX's schedule but for the warm-up)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch.optim import Optimizer

from vision.config import Config

Epochs = Annotated[float, Field(ge=0)]


class ScheduleConfig(Config):
    """Lengths in epochs; the peak rate is the optimiser's."""

    warmup_epochs: Epochs = 5.0
    """The rate climbs linearly from near zero to its peak. Parts of an epoch are allowed."""
    constant_last_epochs: Epochs = 15.0
    """The last epochs stay at the final rate, usually those without strong augmentation."""
    final_fraction: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Final rate as a part of the peak."""


@dataclass(frozen=True, slots=True)
class WarmupCosine:
    """factor(t) for step t = 0, 1, ...; multiplies the peak rate.

    warm-up of W steps: (t + 1) / W; then f + (1 - f) (1 + cos(pi (t - W) / (T - W))) / 2 until the tail begins at
    step T; then f. (Cosine: Loshchilov and Hutter 2017, arXiv:1608.03983, eq. 5.)
    """

    warmup_steps: int
    tail_start: int
    final_fraction: float

    @staticmethod
    def from_config(config: ScheduleConfig, steps_per_epoch: int, num_steps: int) -> WarmupCosine:
        """Lengths in steps; the warm-up is at most the whole run, the tail begins after the warm-up."""
        warmup_steps = min(round(config.warmup_epochs * steps_per_epoch), num_steps)
        tail_start = max(num_steps - round(config.constant_last_epochs * steps_per_epoch), warmup_steps)
        return WarmupCosine(warmup_steps, tail_start, config.final_fraction)

    def factor(self, step: int) -> float:
        """What the peak rate is multiplied by at `step`."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if step >= self.tail_start:
            return self.final_fraction
        progress = (step - self.warmup_steps) / (self.tail_start - self.warmup_steps)
        return self.final_fraction + (1 - self.final_fraction) * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True, slots=True)
class RateSetter:
    """Sets the rates of an optimiser from the step number; without memory, so there is nothing to restore."""

    optimizer: Optimizer
    schedule: WarmupCosine
    peak_rates: tuple[float, ...]

    @staticmethod
    def of(optimizer: Optimizer, schedule: WarmupCosine) -> RateSetter:
        """Take the optimiser's present rates for the peak: call this before anything is restored into it."""
        return RateSetter(optimizer, schedule, tuple(float(group["lr"]) for group in optimizer.param_groups))

    def set_for_step(self, step: int) -> float:
        """Set every group's rate for `step`; returns that of the first group."""
        factor = self.schedule.factor(step)
        for group, peak in zip(self.optimizer.param_groups, self.peak_rates, strict=True):
            group["lr"] = peak * factor
        return self.peak_rates[0] * factor
