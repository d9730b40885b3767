"""Suggest a learning rate for a configuration: train shortly with rising rates and look where the loss falls fastest.

Nothing of the training is kept. Any value of the configuration can be given behind it, as to `handeye train`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from handeye.tools.command_line import Positional
from handeye.vision.config import load_config
from handeye.vision.files import write_json
from handeye.vision.training.config import TrainDetectorConfig
from handeye.vision.training.lr_finder import LrSweep, find_lr, override_of, plot_sweep


@dataclass(frozen=True)
class Arguments:
    """What `handeye find-lr` is told besides the configuration."""

    config: Positional[Path]
    """Configuration file of a detector's training."""
    steps: int = 200
    """Optimiser steps of the sweep; it ends sooner where the loss grows without bound."""
    lowest: float = 1e-6
    """First learning rate."""
    highest: float = 1.0
    """Last learning rate."""
    plot: Path | None = None
    """Draw the losses against the rates into this PNG file."""
    json: Path | None = None
    """Write the suggestion and the whole sweep to this file."""


def run(arguments: Arguments, overrides: list[str]) -> int:
    """Sweep, and print the suggestion as an override that `handeye train` takes."""
    config = load_config(TrainDetectorConfig, arguments.config, overrides)
    sweep = find_lr(
        config,
        Console(stderr=True),
        num_steps=arguments.steps,
        lowest=arguments.lowest,
        highest=arguments.highest,
    )
    override = override_of(config, sweep.suggested_lr)
    if arguments.plot is not None:
        plot_sweep(arguments.plot, sweep)
    if arguments.json is not None:
        write_json(arguments.json, _summary(sweep, override))
    end = "the loss diverged" if sweep.has_diverged else "the sweep was over"
    print(
        f"{len(sweep.rates)} steps, then {end}; "
        f"the loss falls fastest at a rate of {sweep.suggested_lr:.2g}: {override}"
    )
    return 0


def _summary(sweep: LrSweep, override: str) -> dict[str, object]:
    return {
        "suggested_lr": sweep.suggested_lr,
        "override": override,
        "steps": len(sweep.rates),
        "diverged": sweep.has_diverged,
        "rates": sweep.rates.tolist(),
        "losses": sweep.losses.tolist(),
        "smoothed": sweep.smoothed.tolist(),
    }
