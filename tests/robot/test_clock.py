"""Clocks: never early, never backwards, and a manual clock that never sleeps."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handeye.robot.interfaces import Clock
from handeye.robot.timing import ManualClock, MonotonicClock


def tick_stamps(clock: Clock, work_s: list[float], period_s: float) -> list[float]:
    """When the ticks of a loop with absolute deadlines begin, if each does so much work."""
    begin_s, stamps = clock.now_s(), []
    for k, work in enumerate(work_s):
        clock.wait_until(begin_s + k * period_s)
        stamps.append(clock.now_s() - begin_s)
        if isinstance(clock, ManualClock):
            clock.advance(work)
    return stamps


def test_monotonic_clock_never_returns_before_the_deadline() -> None:
    clock = MonotonicClock()
    for wait_s in (0.0, 1e-4, 3e-3):
        deadline_s = clock.now_s() + wait_s
        clock.wait_until(deadline_s)
        assert clock.now_s() >= deadline_s


def test_monotonic_clock_goes_back_to_sleep_when_woken_early(monkeypatch: pytest.MonkeyPatch) -> None:
    now, sleeps = [10.0], []

    def sleep(duration_s: float) -> None:
        sleeps.append(duration_s)
        now[0] += duration_s / 2 if duration_s > 0.1 else duration_s

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", sleep)
    MonotonicClock().wait_until(10.5)
    assert now[0] >= 10.5
    assert len(sleeps) > 1


def test_monotonic_clock_does_not_sleep_for_a_stamp_in_the_past(monkeypatch: pytest.MonkeyPatch) -> None:
    sleeps: list[float] = []
    monkeypatch.setattr(time, "sleep", sleeps.append)
    clock = MonotonicClock()
    clock.wait_until(clock.now_s() - 1.0)
    assert sleeps == []


def test_one_slow_tick_does_not_delay_the_ones_after_it() -> None:
    stamps = tick_stamps(ManualClock(), [0.001, 0.025, 0.001, 0.001, 0.001], period_s=0.01)
    assert stamps == pytest.approx([0.0, 0.01, 0.035, 0.036, 0.04])


@given(st.floats(-1e6, 1e6), st.lists(st.floats(-1e6, 1e6), max_size=20))
def test_manual_clock_is_never_early_and_never_runs_backwards(start_s: float, stamps_s: list[float]) -> None:
    clock = ManualClock(start_s)
    for stamp_s in stamps_s:
        before_s = clock.now_s()
        clock.wait_until(stamp_s)
        assert clock.now_s() >= max(before_s, stamp_s)
        assert clock.now_s() in (before_s, stamp_s)


@pytest.mark.parametrize("duration_s", [-1e-9, float("nan")])
def test_manual_clock_refuses_to_go_back(duration_s: float) -> None:
    with pytest.raises(ValueError, match="forwards"):
        ManualClock().advance(duration_s)
