"""Durations by stage: what is collected, merged and summarised."""

from __future__ import annotations

import numpy as np
import pytest

from handeye.robot.timing import StageTimer


def test_summary_is_the_percentiles_of_what_was_merged() -> None:
    durations_ms = [float(value) for value in range(1, 101)]
    timer = StageTimer()
    timer.merge({"detect": durations_ms})
    summary = timer.summary()["detect"]
    expected = np.percentile(durations_ms, [50, 95, 99])
    assert [summary.p50_ms, summary.p95_ms, summary.p99_ms] == pytest.approx(expected)
    assert summary.count == 100


def test_one_duration_is_all_its_percentiles() -> None:
    timer = StageTimer()
    timer.merge({"detect": [2.5]})
    summary = timer.summary()["detect"]
    assert (summary.p50_ms, summary.p95_ms, summary.p99_ms, summary.count) == (2.5, 2.5, 2.5, 1)


def test_a_timer_without_a_stage_has_an_empty_summary() -> None:
    assert StageTimer().summary() == {}


def test_a_stage_counts_each_run_and_an_outer_stage_contains_the_inner_ones() -> None:
    timer = StageTimer()
    with timer.stage("tick"):
        for _ in range(3):
            with timer.stage("decide"):
                sum(range(1000))
    durations = timer.durations_ms()
    assert len(durations["decide"]) == 3
    assert durations["tick"][0] >= sum(durations["decide"]) > 0


def test_a_stage_that_raises_is_timed_all_the_same() -> None:
    timer = StageTimer()
    with pytest.raises(RuntimeError, match="camera"), timer.stage("camera"):
        raise RuntimeError("the camera is gone")
    assert len(timer.durations_ms()["camera"]) == 1


def test_merging_timers_is_the_same_as_one_timer_for_all() -> None:
    parts: list[dict[str, list[float]]] = [{"a": [1.0, 2.0]}, {"a": [3.0], "b": [4.0]}]
    merged, whole = StageTimer(), StageTimer()
    for part in parts:
        merged.merge(part)
    whole.merge({"a": [1.0, 2.0, 3.0], "b": [4.0]})
    assert merged.durations_ms() == whole.durations_ms()
