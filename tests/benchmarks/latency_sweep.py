"""Success and cycle time over the latency of camera and policy, in lock-step, for both policies.

python -m tests.benchmarks.latency_sweep --episodes 10 --output docs/images/latency_sweep.png
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import handeye

CAMERA_S = (0.0, 0.04, 0.08, 0.16, 0.23, 0.3)
POLICY_S = (0.0, 0.008, 0.05, 0.1, 0.2)
POLICIES = ("scripted", "act")
SWEEPS = (("latency.camera_s", CAMERA_S), ("latency.policy_s", POLICY_S))


def measure(key: str, latency_s: float, policy: str, *, episodes: int, workers: int) -> dict[str, Any]:
    """The report of `episodes` picks from seed 1000 on with one latency changed."""
    overrides = [f"{key}={latency_s}"]
    return handeye.pick(overrides=overrides, episodes=episodes, seed=1000, policy=policy, workers=workers)


def sweep(*, episodes: int, workers: int) -> list[dict[str, Any]]:
    """One row for each policy and latency: success rate, median cycle, stops and limits broken."""
    rows = []
    for policy in POLICIES:
        for key, values_s in SWEEPS:
            for latency_s in values_s:
                report = measure(key, latency_s, policy, episodes=episodes, workers=workers)
                kept = ("successes", "episodes", "cycle_s_median", "stops", "failures", "limit_breaches")
                rows.append({"policy": policy, "key": key, "latency_s": latency_s} | {k: report[k] for k in kept})
                print(json.dumps(rows[-1]), flush=True)
    return rows


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Median cycle above, success below; one column a latency, one line a policy."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(SWEEPS), figsize=(9, 5), sharex="col", sharey="row")
    for column, (key, _) in enumerate(SWEEPS):
        for policy in POLICIES:
            of_policy = [row for row in rows if row["policy"] == policy and row["key"] == key]
            latency_ms = [1e3 * row["latency_s"] for row in of_policy]
            cycle_s = [float("nan") if row["cycle_s_median"] is None else row["cycle_s_median"] for row in of_policy]
            axes[0, column].plot(latency_ms, cycle_s, "o-", label=policy)
            axes[1, column].plot(latency_ms, [100 * row["successes"] / row["episodes"] for row in of_policy], "o-")
        axes[1, column].set_xlabel(f"{key} in ms")
        axes[1, column].set_ylim(-5, 105)
    axes[0, 0].set_ylabel("median cycle, s")
    axes[0, 0].set_ylim(0, 1.1 * max(row["cycle_s_median"] or 1.0 for row in rows))
    axes[1, 0].set_ylabel("placed, %")
    axes[0, 0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def main() -> None:
    """Measure, print a line for each point, and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    draw(sweep(episodes=arguments.episodes, workers=arguments.workers), arguments.output)


if __name__ == "__main__":
    main()
