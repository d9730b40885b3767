"""How long each stage of a tick really takes: cheap enough to stay on in every run.

Measured with the machine's own monotonic clock, also when the loop runs on simulated time: simulated time says when
things happen, this says what they cost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter_ns

import numpy as np

NS_PER_MS = 1e6


@dataclass(frozen=True, slots=True)
class StageTime:
    """Order statistics of one stage over `count` runs, in milliseconds."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    count: int


class StageTimer:
    """Collects durations by stage name.

    `with timer.stage("detect"): ...` adds one duration, also when the block raises. Stages may nest; an outer one
    then includes the inner ones.
    """

    def __init__(self) -> None:
        self._durations_ns: dict[str, list[int]] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block as one run of stage `name`."""
        begin_ns = perf_counter_ns()
        try:
            yield
        finally:
            self._durations_ns.setdefault(name, []).append(perf_counter_ns() - begin_ns)

    def merge(self, durations_ms: Mapping[str, list[float]]) -> None:
        """Add the durations that another timer gave out, from another episode or process."""
        for name, values_ms in durations_ms.items():
            self._durations_ns.setdefault(name, []).extend(round(value_ms * NS_PER_MS) for value_ms in values_ms)

    def durations_ms(self) -> dict[str, list[float]]:
        """Every duration by stage, in the order in which the stages first ended."""
        return {name: [value / NS_PER_MS for value in values] for name, values in self._durations_ns.items()}

    def summary(self) -> dict[str, StageTime]:
        """p50, p95 and p99 of each stage; a stage that never ran is absent."""
        return {name: _summarise(values) for name, values in self._durations_ns.items()}


def _summarise(durations_ns: list[int]) -> StageTime:
    p50, p95, p99 = np.percentile(np.asarray(durations_ns) / NS_PER_MS, [50, 95, 99])
    return StageTime(float(p50), float(p95), float(p99), len(durations_ns))
