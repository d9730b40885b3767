"""The report of many episodes: the Wilson interval and what is counted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from handeye.robot.control.episode import EpisodeResult
from handeye.robot.interfaces import Outcome
from handeye.robot.viewer.report import summarise_episodes, wilson_interval


@given(st.integers(1, 500), st.data())
def test_wilson_interval_agrees_with_scipy(trials: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, trials))
    expected = binomtest(successes, trials).proportion_ci(confidence_level=0.95, method="wilson")
    assert wilson_interval(successes, trials) == pytest.approx((expected.low, expected.high), abs=1e-6)


@given(st.integers(1, 300), st.data())
def test_wilson_interval_contains_the_share_and_mirrors(trials: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, trials))
    low, high = wilson_interval(successes, trials)
    assert 0.0 <= low <= successes / trials <= high <= 1.0
    mirrored = wilson_interval(trials - successes, trials)
    assert (1 - high, 1 - low) == pytest.approx(mirrored)


def test_wilson_interval_of_nothing_is_everything() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("successes", "trials"), [(2, 1), (-1, 3)])
def test_wilson_interval_refuses_impossible_counts(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match="successes"):
        wilson_interval(successes, trials)


def result(
    seed: int, *, success: bool, reason: str | None = None, cycle_s: float = 8.0, gates: Mapping[str, int] | None = None
) -> EpisodeResult:
    return EpisodeResult(
        seed=seed,
        success=success,
        checked_success=success,
        outcome=Outcome.SUCCEEDED if success else Outcome.FAILED,
        reason=reason,
        check_reason="",
        last_stage="done",
        cycle_s=cycle_s,
        attempts=1,
        gate_violations=gates or {},
        stage_ms={"tick": [1.0, 3.0]},
    )


def test_report_counts_reasons_violations_and_cycle_times_of_successes_only() -> None:
    report = summarise_episodes(
        [
            result(1, success=True, cycle_s=7.0),
            result(2, success=True, cycle_s=9.0),
            result(3, success=False, reason="lost", cycle_s=60.0, gates={"step": 2, "table": 1}),
            result(4, success=False, reason="lost", cycle_s=60.0, gates={"step": 1}),
        ]
    )
    assert (report["episodes"], report["successes"], report["success_rate"]) == (4, 2, 0.5)
    assert report["failures"] == {"lost": 2}
    assert report["gate_violations"] == 4
    assert report["gate_violations_by_reason"] == {"step": 3, "table": 1}
    assert (report["cycle_s_median"], report["cycle_s_mean"]) == (8.0, 8.0)
    assert report["stages"]["tick"]["count"] == 8
    assert report["stages"]["tick"]["p50_ms"] == pytest.approx(2.0)


def test_report_adds_up_contacts_and_broken_limits() -> None:
    first = replace(result(1, success=True), contacts={"clutter": 2}, limit_breaches={"table_contact": 3})
    second = replace(result(2, success=True), contacts={"clutter": 1, "self": 1}, limit_breaches={})
    report = summarise_episodes([first, second])
    assert report["contacts"] == {"clutter": 3, "self": 1}
    assert report["limit_breaches"] == {"table_contact": 3}
    assert [row["contacts"] for row in report["results"]] == [{"clutter": 2}, {"clutter": 1, "self": 1}]


def test_report_has_the_agreed_keys_also_without_any_success() -> None:
    report = summarise_episodes([result(1, success=False, reason="not_found")])
    agreed = {"episodes", "successes", "success_rate", "wilson_low", "wilson_high", "gate_violations"}
    assert agreed | {"cycle_s_median", "failures", "stages"} <= report.keys()
    assert report["cycle_s_median"] is None
    assert json.loads(json.dumps(report)) == report
