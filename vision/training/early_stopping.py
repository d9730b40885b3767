"""Ending a run that no longer improves; a pure function of what was measured, so a resumed run decides the same."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

from vision.config import Config


class EarlyStoppingConfig(Config):
    """When to give up; the best weights are kept in any case."""

    patience: Annotated[int, Field(gt=0)] = 10
    """Measurements in a row that may fail to beat the best one before them."""
    least_gain: Annotated[float, Field(ge=0)] = 0.0
    """A measurement beats the best one only by more than this."""


def has_stalled(config: EarlyStoppingConfig, values: Iterable[float]) -> bool:
    """Whether the last `patience` values all failed to beat the best one before them."""
    best, failures = None, 0
    for value in values:
        if best is None or value > best + config.least_gain:
            best, failures = value, 0
        else:
            failures += 1
    return failures >= config.patience
