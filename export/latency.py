"""Latency of several files side by side, in turn and with a rest, so that none pays for another's heat or for whoever
else runs on the machine.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vision.evaluation.speed import percentiles_ms
from vision.runtime.engines import EngineName, Session, open_session

ROUNDS = 5
CALLS = 20
WARM_UP = 5


@dataclass(frozen=True)
class Latency:
    """What one file took in one engine: the network alone, without preparing the image or reading the rows."""

    engine: str
    """With its version."""
    threads: int
    p50_ms: float
    p95_ms: float
    best_ms: float
    """The fastest call: what is left where nobody disturbs."""
    pause_s: float
    """Rest before each turn."""


def measure_latencies(
    files: Mapping[str, Path],
    size_hw: tuple[int, int],
    engine: EngineName,
    num_threads: int | None = None,
    pause_s: float = 0.2,
) -> dict[str, Latency]:
    """Run each file in turn, ROUNDS times CALLS calls, and give its percentiles by the name of the file."""
    sessions = {name: open_session(path, engine, num_threads) for name, path in files.items()}
    durations: dict[str, list[float]] = {name: [] for name in files}
    for _ in range(ROUNDS):
        for name, session in sessions.items():
            time.sleep(pause_s)
            durations[name] += _calls(session, size_hw)
    latencies = {}
    for name, session in sessions.items():
        figures = percentiles_ms(durations[name])
        best = min(durations[name]) * 1e3
        latencies[name] = Latency(
            session.engine, session.num_threads, figures["p50_ms"], figures["p95_ms"], best, pause_s
        )
    return latencies


def _calls(session: Session, size_hw: tuple[int, int]) -> list[float]:
    """Seconds of each of CALLS calls on noise, after WARM_UP that are not counted."""
    name = next(iter(session.inputs))
    batch = np.random.default_rng(0).uniform(0, 255, (1, 3, *size_hw)).astype(np.float32)
    seconds = []
    for number in range(-WARM_UP, CALLS):
        started = time.perf_counter()
        session.run({name: batch})
        if number >= 0:
            seconds.append(time.perf_counter() - started)
    return seconds
