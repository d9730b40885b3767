"""Summarise episodes in a report: success rate with interval, cycle times, failures, time per stage."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean, median
from typing import Any

import numpy as np

from handeye.robot.control.episode import EpisodeResult
from handeye.robot.timing import StageTimer

Z_95 = 1.959964
"""The standard normal quantile of a two-sided 95 % interval."""


def wilson_interval(successes: int, trials: int, z: float = Z_95) -> tuple[float, float]:
    """The score interval of a proportion (Wilson 1927), in [0, 1]; (0, 1) without trials.

    Unlike the normal interval it is valid near 0 and 1. Raises ValueError unless 0 <= successes <= trials.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"expected 0 <= successes <= trials, got {successes} of {trials}")
    if trials == 0:
        return 0.0, 1.0
    share = successes / trials
    weight = 1.0 + z * z / trials
    centre = (share + z * z / (2 * trials)) / weight
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials)) / weight
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == trials else centre + half)


def summarise_episodes(results: Sequence[EpisodeResult]) -> dict[str, Any]:
    """The report as JSON holds it; cycle times are of successful episodes, null without one.

    Keys: episodes, successes, success_rate, wilson_low, wilson_high, gate_violations, gate_violations_by_reason,
    limit_breaches (limits broken in truth, by name), contacts (touches of the arm with itself, table, fixture and
    clutter, of any force), stops (failures that were stops, by reason), stop_s_max (from the
    last target let pass to standstill), cycle_s_median, cycle_s_mean, attempts_mean, failures, stages, results (one
    entry an episode, in their order); with a real clock latency_ms and period.
    """
    successes = [result for result in results if result.success]
    low, high = wilson_interval(len(successes), len(results))
    violations: Counter[str] = Counter()
    for result in results:
        violations.update(result.gate_violations)
    breaches: Counter[str] = Counter()
    for result in results:
        breaches.update(result.limit_breaches)
    contacts: Counter[str] = Counter()
    for result in results:
        contacts.update(result.contacts)
    stops = [result for result in results if result.stop_s is not None]
    cycles_s = [result.cycle_s for result in successes]
    return {
        "episodes": len(results),
        "successes": len(successes),
        "success_rate": len(successes) / len(results) if results else None,
        "wilson_low": low,
        "wilson_high": high,
        "gate_violations": sum(violations.values()),
        "gate_violations_by_reason": dict(violations),
        "limit_breaches": dict(breaches),
        "contacts": dict(contacts),
        "stops": dict(Counter(result.reason for result in stops)),
        "stop_s_max": max((result.stop_s for result in stops if result.stop_s is not None), default=None),
        "cycle_s_median": median(cycles_s) if cycles_s else None,
        "cycle_s_mean": fmean(cycles_s) if cycles_s else None,
        "attempts_mean": fmean(result.attempts for result in results) if results else None,
        "failures": dict(Counter(result.reason for result in results if result.reason is not None)),
        "stages": summarise_stages(results),
        "results": [_result_to_row(result) for result in results],
    } | summarise_punctuality(results)


def summarise_punctuality(results: Sequence[EpisodeResult]) -> dict[str, dict[str, Any]]:
    """latency_ms and period of episodes with a real clock; nothing of lock-step.

    latency_ms: p50, p99 and count, frame exposure to the first command that rests on it. period: lateness_p99_ms and
    missed_fraction, with missed {overrun, woken_late} and the count of the periods.
    """
    kept = [result.punctuality for result in results if result.punctuality is not None]
    lateness_ms = [value for one in kept for value in one.lateness_ms]
    latency_ms = [value for one in kept for value in one.latency_ms]
    by_reason: Counter[str] = Counter()
    for one in kept:
        by_reason.update(one.missed)
    missed, periods = by_reason.total(), len(lateness_ms)
    found: dict[str, dict[str, Any]] = {}
    if lateness_ms:
        late_ms = float(np.percentile(lateness_ms, 99))
        found["period"] = {
            "lateness_p99_ms": late_ms,
            "missed_fraction": missed / (periods + missed),
            "missed": dict(by_reason),
            "count": periods + missed,
        }
    if latency_ms:
        p50, p99 = np.percentile(latency_ms, [50, 99]).tolist()
        found["latency_ms"] = {"p50": p50, "p99": p99, "count": len(latency_ms)}
    return found


def summarise_stages(results: Sequence[EpisodeResult]) -> dict[str, dict[str, float]]:
    """p50_ms, p95_ms, p99_ms and count of each stage over all episodes."""
    timer = StageTimer()
    for result in results:
        timer.merge(result.stage_ms)
    return {name: asdict(time) for name, time in timer.summary().items()}


def _result_to_row(result: EpisodeResult) -> dict[str, Any]:
    return {
        "seed": result.seed,
        "success": result.success,
        "checked_success": result.checked_success,
        "outcome": result.outcome.value,
        "reason": result.reason,
        "check_reason": result.check_reason,
        "error": result.error,
        "last_stage": result.last_stage,
        "cycle_s": round(result.cycle_s, 4),
        "attempts": result.attempts,
        "gate_violations": dict(result.gate_violations),
        "limit_breaches": dict(result.limit_breaches),
        "contacts": dict(result.contacts),
        "stop_s": None if result.stop_s is None else round(result.stop_s, 4),
    }
