"""Learning rate range test: raise the learning rate with each step and find where the loss falls most steeply.

Smith 2017 (arXiv:1506.01186, section 3.3) watches accuracy and raises the rate linearly; here it grows by the same
factor with each step. Suggested is the rate where the smoothed loss falls most steeply against the logarithm of the
rate: below it training is slow, not far above it the loss diverges.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from rich.console import Console

from handeye.vision.data.batches import iterate_batches
from handeye.vision.errors import UserError
from handeye.vision.evaluation.plots import figure
from handeye.vision.training.config import TrainDetectorConfig
from handeye.vision.training.distributed import TrainingError
from handeye.vision.training.optimizer import SgdConfig
from handeye.vision.training.run_folder import RunFolder
from handeye.vision.training.schedules import LrSetter
from handeye.vision.training.train_detector import Training

SMOOTHING = 0.95
"""Share of the old average of the loss kept at each step."""
DIVERGED = 4.0
"""The sweep ends where the smoothed loss exceeds its lowest value by this factor."""
FEWEST_STEPS = 10
"""With fewer no slope is meaningful."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """factor(t) = first (last / first)^(t / (num_steps - 1)); multiplies the optimizer's peak rate."""

    first: float
    last: float
    num_steps: int

    def factor(self, step: int) -> float:
        """What the peak rate is multiplied by at `step`."""
        return self.first * (self.last / self.first) ** (step / (self.num_steps - 1))


@dataclass(frozen=True, slots=True, eq=False)
class LrSweep:
    """The rate and loss of each step of a sweep, and the rate it suggests."""

    rates: Float64[np.ndarray, " N"]
    losses: Float64[np.ndarray, " N"]
    smoothed: Float64[np.ndarray, " N"]
    suggested_lr: float
    has_diverged: bool


def find_lr(config: TrainDetectorConfig, console: Console, *, num_steps: int, lowest: float, highest: float) -> LrSweep:
    """Train for at most `num_steps` with rates from `lowest` to `highest`; nothing of it is kept.

    Raises UserError where the loss diverges at once, or the rates are not a range.
    """
    if not (0 < lowest < highest and num_steps >= FEWEST_STEPS):
        raise UserError(f"expected 0 < lowest < highest and at least {FEWEST_STEPS} steps")
    with tempfile.TemporaryDirectory() as folder:
        training = Training(_without_ends(config, num_steps), RunFolder(Path(folder)), console)
        peak = training.rates.peak_rates[0]
        training.rates = LrSetter(
            training.rates.optimizer, Sweep(lowest / peak, highest / peak, num_steps), training.rates.peak_rates
        )
        rates, losses, has_diverged = _sweep(training, config.data.num_workers)
    if len(losses) < FEWEST_STEPS:
        raise UserError(f"the loss diverged within {len(losses)} steps; start with a lower rate")
    smoothed = smooth(losses)
    return LrSweep(
        np.asarray(rates), np.asarray(losses), smoothed, steepest_descent(np.asarray(rates), smoothed), has_diverged
    )


def plot_sweep(path: Path, sweep: LrSweep) -> None:
    """The losses against the rate, and the suggestion as a line."""
    with figure(path) as (axes,):
        axes.plot(sweep.rates, sweep.losses, linewidth=0.8, alpha=0.4, label="loss")
        axes.plot(sweep.rates, sweep.smoothed, label="smoothed")
        axes.axvline(sweep.suggested_lr, color="tab:red", label=f"steepest: {sweep.suggested_lr:.2g}")
        # The diverged end would flatten everything else.
        axes.set(xscale="log", xlabel="learning rate", ylabel="loss", ylim=(0, 1.2 * float(sweep.smoothed[0])))
        axes.legend(frameon=False)


def override_of(config: TrainDetectorConfig, rate: float) -> str:
    """The override of `handeye train` that sets this peak rate."""
    if isinstance(config.optimizer, SgdConfig):
        return f"optimizer.lr_per_image={rate / config.batch_size:.3g}"
    return f"optimizer.lr={rate:.3g}"


def smooth(losses: Sequence[float]) -> Float64[np.ndarray, " N"]:
    """Exponential average, corrected for starting at zero (Kingma and Ba 2015, section 3)."""
    average, smoothed = 0.0, []
    for number, loss in enumerate(losses, start=1):
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        smoothed.append(average / (1 - SMOOTHING**number))
    return np.asarray(smoothed)


def steepest_descent(rates: Float64[np.ndarray, " N"], smoothed: Float64[np.ndarray, " N"]) -> float:
    """The rate at which the loss falls fastest against log(rate), up to its lowest point.

    The first tenth is left out: the average covers too few steps there.
    """
    begin = len(smoothed) // 10
    end = max(int(smoothed.argmin()) + 1, begin + 3)
    slopes = np.gradient(smoothed[begin:end], np.log(rates[begin:end]))
    return float(rates[begin + int(slopes.argmin())])


def _without_ends(config: TrainDetectorConfig, num_steps: int) -> TrainDetectorConfig:
    """The same training with strong augmentation throughout, num_steps long and without evaluation."""
    return config.model_copy(
        update={
            "epochs": num_steps,
            "max_steps": num_steps,
            "l1_last_epochs": 0,
            "ema": None,
            "early_stopping": None,
            "augmentation": config.augmentation.model_copy(update={"weak_last_epochs": 0}),
            "data": config.data.model_copy(update={"val_annotations": None}),
        }
    )


def _sweep(training: Training, num_workers: int) -> tuple[list[float], list[float], bool]:
    """Rates and losses of the steps until the loss has diverged, and whether it has."""
    rates: list[float] = []
    losses: list[float] = []
    average, lowest = 0.0, math.inf
    for batch in iterate_batches(training.samples, training.plan, 0, num_workers):
        try:
            values, rate = training.step(batch)
        except TrainingError:  # not finite
            return rates, losses, True
        rates.append(rate)
        losses.append(values["total"])
        average = SMOOTHING * average + (1 - SMOOTHING) * values["total"]
        smoothed = average / (1 - SMOOTHING ** len(losses))
        lowest = min(lowest, smoothed)
        if smoothed > DIVERGED * lowest:
            return rates, losses, True
    return rates, losses, False
