"""Learning rate schedules: a warm-up, then one of six curves; each a pure function of the step.

The default is YOLOX's (Ge et al. 2021): half a cosine and a constant tail. Schedules have no state, so a resumed run
has nothing to restore.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

from pydantic import BeforeValidator, Field
from torch.optim import Optimizer
from typing_extensions import assert_never

from handeye.vision.config import Config

Epochs = Annotated[float, Field(ge=0)]
PositiveEpochs = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Factor = Annotated[float, Field(gt=0, le=1)]


class WarmupConfig(Config):
    """The warm-up from near zero to the optimizer's peak rate; lengths are in epochs, fractions allowed."""

    warmup_epochs: Epochs = 5.0
    warmup: Literal["linear", "quadratic"] = "linear"
    """Shape of the warm-up; quadratic in YOLOX."""


class StepScheduleConfig(WarmupConfig):
    """The peak rate times `factor` for each milestone passed, as in the recipes of Faster R-CNN and DETR."""

    kind: Literal["step"] = "step"
    milestone_epochs: Annotated[tuple[PositiveEpochs, ...], Field(min_length=1)]
    """Counted from the beginning of the run."""
    factor: Factor = 0.1


class ExponentialScheduleConfig(WarmupConfig):
    """The rate decays by the same factor each epoch, a little with each step."""

    kind: Literal["exponential"] = "exponential"
    factor_per_epoch: Factor = 0.98


class CosineScheduleConfig(WarmupConfig):
    """Half a cosine from the peak to the final rate, then constant."""

    kind: Literal["cosine"] = "cosine"
    constant_last_epochs: Epochs = 15.0
    """Number of last epochs at the final rate, usually those without strong augmentation."""
    final_fraction: Fraction = 0.05
    """Final rate as a fraction of the peak."""


class RestartsScheduleConfig(WarmupConfig):
    """Half cosines one after the other, each beginning at the peak (SGDR)."""

    kind: Literal["restarts"] = "restarts"
    first_epochs: PositiveEpochs = 10.0
    """Length of the first half cosine."""
    growth: Annotated[float, Field(ge=1)] = 2.0
    """Length of each relative to the one before it."""
    final_fraction: Fraction = 0.0
    """What each falls towards, as a fraction of the peak."""


class FlatCosineScheduleConfig(WarmupConfig):
    """The peak rate for a while, then half a cosine, then constant, as RTMDet and D-FINE are trained."""

    kind: Literal["flat_cosine"] = "flat_cosine"
    flat_fraction: Fraction = 0.5
    """The cosine begins after this fraction of the run."""
    constant_last_epochs: Epochs = 0.0
    final_fraction: Fraction = 0.05


class OneCycleScheduleConfig(Config):
    """Up and down once, both along half a cosine (1cycle). The rise is the warm-up; momentum is constant."""

    kind: Literal["one_cycle"] = "one_cycle"
    rise_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Fraction of the run in which the rate rises."""
    initial_fraction: Fraction = 0.04
    """First rate as a fraction of the peak."""
    final_fraction: Fraction = 4e-6


AnySchedule = (
    StepScheduleConfig
    | ExponentialScheduleConfig
    | CosineScheduleConfig
    | RestartsScheduleConfig
    | FlatCosineScheduleConfig
    | OneCycleScheduleConfig
)


def _cosine_if_unnamed(content: Any) -> Any:
    return {"kind": "cosine", **content} if isinstance(content, dict) else content


ScheduleConfig = Annotated[
    Annotated[AnySchedule, Field(discriminator="kind")],
    BeforeValidator(_cosine_if_unnamed),
]
"""A schedule by `kind`; without it the keys are those of the cosine."""


@runtime_checkable
class Schedule(Protocol):
    """factor(t) for step t = 0, 1, ...: what the peak rate is multiplied by."""

    def factor(self, step: int) -> float:
        """Between 0 and 1, whatever the step; after the end of the run the last value or below."""
        ...


def build_schedule(config: AnySchedule, steps_per_epoch: int, num_steps: int) -> Schedule:
    """The schedule of a run of `num_steps`, its lengths in steps; a warm-up is at most the whole run."""
    if isinstance(config, OneCycleScheduleConfig):
        peak_step = config.rise_fraction * num_steps - 1
        return OneCycle(peak_step, num_steps - 1, config.initial_fraction, config.final_fraction)
    start = min(round(config.warmup_epochs * steps_per_epoch), num_steps)
    power = {"linear": 1, "quadratic": 2}[config.warmup]
    return WarmedUp(start, power, _build_curve(config, start, steps_per_epoch, num_steps))


@dataclass(frozen=True, slots=True)
class WarmedUp:
    """((t + 1) / W)^power times the curve, in the first W steps; then the curve."""

    warmup_steps: int
    power: int
    curve: Schedule

    def factor(self, step: int) -> float:
        """What the peak rate is multiplied by at `step`."""
        climb = min((step + 1) / self.warmup_steps, 1.0) ** self.power if self.warmup_steps else 1.0
        return climb * self.curve.factor(step)


@dataclass(frozen=True, slots=True)
class Steps:
    """factor^(number of milestones <= t)."""

    milestones: tuple[int, ...]
    decay: float

    def factor(self, step: int) -> float:
        """What the peak rate is multiplied by at `step`."""
        return self.decay ** bisect.bisect_right(self.milestones, step)


@dataclass(frozen=True, slots=True)
class Exponential:
    """decay^((t - start) / steps_per_epoch) from `start` on."""

    start: int
    steps_per_epoch: int
    decay: float

    def factor(self, step: int) -> float:
        """What the peak rate is multiplied by at `step`."""
        return self.decay ** (max(step - self.start, 0) / self.steps_per_epoch)


@dataclass(frozen=True, slots=True)
class Cosine:
    """f + (1 - f) (1 + cos(pi (t - start) / (end - start))) / 2, 1 before it and f after it.

    Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5.
    """

    start: int
    end: int
    final_fraction: float

    def factor(self, step: int) -> float:
        """What the peak rate is multiplied by at `step`."""
        if step < self.start:
            return 1.0
        if step >= self.end:
            return self.final_fraction
        return half_cosine((step - self.start) / (self.end - self.start), 1.0, self.final_fraction)


@dataclass(frozen=True, slots=True)
class Restarts:
    """The same cosine again and again from `start` on, the i-th of length growth^i first_steps.

    Loshchilov and Hutter 2017, arXiv:1608.03983, section 3.
    """

    start: int
    first_steps: float
    growth: float
    final_fraction: float

    def factor(self, step: int) -> float:
        """What the peak rate is multiplied by at `step`."""
        since, length = float(max(step - self.start, 0)), self.first_steps
        while since >= length:
            since, length = since - length, length * self.growth
        return half_cosine(since / length, 1.0, self.final_fraction)


@dataclass(frozen=True, slots=True)
class OneCycle:
    """Half a cosine up to step `peak`, half a cosine down to step `last` (Smith and Topin 2018, arXiv:1708.07120).

    The paper rises and falls linearly; the cosine is what became usual. `peak` may lie between two steps.
    """

    peak: float
    last: int
    initial_fraction: float
    final_fraction: float

    def factor(self, step: int) -> float:
        """What the peak rate is multiplied by at `step`."""
        if step < self.peak:
            return half_cosine(step / self.peak, self.initial_fraction, 1.0)
        if step >= self.last:
            return self.final_fraction
        return half_cosine((step - self.peak) / (self.last - self.peak), 1.0, self.final_fraction)


def half_cosine(progress: float, first: float, last: float) -> float:
    """From `first` at progress 0 to `last` at progress 1, slowly at both ends."""
    return last + (first - last) * (1 + math.cos(math.pi * progress)) / 2


def _build_curve(
    config: StepScheduleConfig
    | ExponentialScheduleConfig
    | CosineScheduleConfig
    | RestartsScheduleConfig
    | FlatCosineScheduleConfig,
    start: int,
    steps_per_epoch: int,
    num_steps: int,
) -> Schedule:
    """The curve after a warm-up of `start` steps."""
    match config:
        case StepScheduleConfig():
            milestones = sorted(round(epochs * steps_per_epoch) for epochs in config.milestone_epochs)
            return Steps(tuple(milestones), config.factor)
        case ExponentialScheduleConfig():
            return Exponential(start, steps_per_epoch, config.factor_per_epoch)
        case CosineScheduleConfig():
            end = num_steps - round(config.constant_last_epochs * steps_per_epoch)
            return Cosine(start, max(end, start), config.final_fraction)
        case RestartsScheduleConfig():
            return Restarts(start, config.first_epochs * steps_per_epoch, config.growth, config.final_fraction)
        case FlatCosineScheduleConfig():
            start = max(start, round(config.flat_fraction * num_steps))
            end = num_steps - round(config.constant_last_epochs * steps_per_epoch)
            return Cosine(start, max(end, start), config.final_fraction)
        case _:
            assert_never(config)


@dataclass(frozen=True, slots=True)
class LrSetter:
    """Sets the learning rates of an optimizer from the step number."""

    optimizer: Optimizer
    schedule: Schedule
    peak_rates: tuple[float, ...]

    @staticmethod
    def of(optimizer: Optimizer, schedule: Schedule) -> LrSetter:
        """Take the optimizer's current rates as the peak: call this before its state is restored."""
        return LrSetter(optimizer, schedule, tuple(float(group["lr"]) for group in optimizer.param_groups))

    def set_for_step(self, step: int) -> float:
        """Set every group's rate for `step`; returns that of the first group."""
        factor = self.schedule.factor(step)
        for group, peak in zip(self.optimizer.param_groups, self.peak_rates, strict=True):
            group["lr"] = peak * factor
        return self.peak_rates[0] * factor
