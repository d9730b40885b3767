"""Time is an argument: whoever waits or stamps asks a Clock, so tests never sleep and a simulator can own time.

Waiting is until an absolute stamp, never for a duration: a late tick then does not delay all that follow it.
"""

from __future__ import annotations

import time
from typing import Protocol, runtime_checkable


@runtime_checkable
class Clock(Protocol):
    """Seconds that never run backwards, from an arbitrary origin."""

    def now_s(self) -> float:
        """The present time, s."""
        ...

    def wait_until(self, stamp_s: float) -> None:
        """Return as soon as now_s() >= stamp_s; at once when that time has passed already."""
        ...


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
    """Time that moves only when told to: waiting jumps to the deadline, `advance` plays the passing of work."""

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
