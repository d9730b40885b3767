"""Percentiles of durations: a mean hides exactly the slow tick that a robot trips over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def percentiles_ms(durations_s: Sequence[float]) -> dict[str, float]:
    """p50_ms, p95_ms and p99_ms of durations in seconds. Raises ValueError when there is none."""
    if not len(durations_s):
        raise ValueError("percentiles of no duration at all were asked for")
    p50, p95, p99 = np.percentile(np.asarray(durations_s, np.float64) * 1e3, [50, 95, 99])
    return {"p50_ms": float(p50), "p95_ms": float(p95), "p99_ms": float(p99)}


def stage_percentiles(stages_s: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Percentiles of each stage and of their sum, `total`, over calls that each give seconds by stage.

    Every call must name the same stages; raises ValueError otherwise.
    """
    names = list(stages_s[0]) if stages_s else []
    if any(list(call) != names for call in stages_s):
        raise ValueError("the calls name different stages")
    summary = {name: percentiles_ms([call[name] for call in stages_s]) for name in names}
    return summary | {"total": percentiles_ms([sum(call.values()) for call in stages_s])}
