"""Stage timers and clocks.

Stages are always timed with the machine's monotonic clock, also when the loop runs on simulated time: that says when
things happen, the timer what they cost.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

NS_PER_MS = 1e6
STAMP_TOLERANCE_S = 1e-6
"""Stamps that differ by less than this are the same time: they are sums of rounded steps."""


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
        begin_ns = time.perf_counter_ns()
        try:
            yield
        finally:
            self._durations_ns.setdefault(name, []).append(time.perf_counter_ns() - begin_ns)

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


T = TypeVar("T")


class Delayed(Generic[T]):
    """One result that is there after a time by the clock: what takes time on a real robot does so in lock-step too."""

    def __init__(self) -> None:
        self._waiting: tuple[T, float] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a result is on its way."""
        return self._waiting is not None

    def begin(self, result: T, ready_s: float) -> None:
        """The result of work that ends at `ready_s`; the one before must have been taken."""
        self._waiting = (result, ready_s)

    def take(self, stamp_s: float) -> T | None:
        """The result once its time has come, then no more."""
        if self._waiting is None or stamp_s < self._waiting[1] - STAMP_TOLERANCE_S:
            return None
        result, self._waiting = self._waiting[0], None
        return result


class MonotonicClock:
    """The machine's monotonic clock, for real cameras and arms."""

    def now_s(self) -> float:
        """Seconds of time.monotonic."""
        return time.monotonic()

    def wait_until(self, stamp_s: float) -> None:
        """Sleep until the absolute time `stamp_s`; a sleep that ends early is taken up again."""
        while (remaining_s := stamp_s - time.monotonic()) > 0.0:
            time.sleep(remaining_s)


class ManualClock:
    """A clock for tests: waiting jumps to the deadline, `advance` stands for work that takes time."""

    def __init__(self, start_s: float = 0.0) -> None:
        self._now_s = start_s

    def now_s(self) -> float:
        """The time last set by wait_until or advance, s."""
        return self._now_s

    def wait_until(self, stamp_s: float) -> None:
        """Jump to `stamp_s`; a stamp in the past changes nothing."""
        self._now_s = max(self._now_s, stamp_s)

    def advance(self, duration_s: float) -> None:
        """Let `duration_s` >= 0 pass, as work between two waits would."""
        if not duration_s >= 0.0:
            raise ValueError(f"time runs forwards only: expected a duration >= 0 s, got {duration_s}")
        self._now_s += duration_s


def _summarise(durations_ns: list[int]) -> StageTime:
    p50, p95, p99 = np.percentile(np.asarray(durations_ns) / NS_PER_MS, [50, 95, 99])
    return StageTime(float(p50), float(p95), float(p99), len(durations_ns))
