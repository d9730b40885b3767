"""The shipped policy from a fresh observation to a set-point, in whole picks of a world without physics.

`make benchmark` prints the times; wanted is a 99th percentile of at most 5 ms. The processor's time is printed
beside the clock's: what else a busy machine does is not the policy's doing.
"""

from __future__ import annotations

import time

import numpy as np

from handeye.robot.pick import SHIPPED_POLICY
from handeye.robot.policies.learned_pick import LearnedPick, LearnedPickConfig, load_pick_network
from handeye.robot.timing import StageTimer
from handeye.robot.types import ActionChunk, Observation
from tests.robot.policies.paper_world import CELL, EDGE_M, PaperWorld
from tests.robot.policies.test_scripted_policy import TASK

PICKS = 20


class TimedPick(LearnedPick):
    """Keeps how long each decision took for which the network was asked, in ms of the clock and of the processor."""

    def __init__(self, timer: StageTimer) -> None:
        config = LearnedPickConfig()
        self.network = load_pick_network(SHIPPED_POLICY, CELL, config)
        super().__init__(CELL, config, self.network, timer)
        self.decisions_ms: list[tuple[float, float]] = []

    def act(self, observation: Observation) -> ActionChunk:
        self.was_asked = False
        started, started_cpu = time.perf_counter(), time.process_time()
        chunk = super().act(observation)
        if self.was_asked:
            spent_s = time.perf_counter() - started, time.process_time() - started_cpu
            self.decisions_ms.append((1e3 * spent_s[0], 1e3 * spent_s[1]))
        return chunk

    def _predict(self, state: np.ndarray) -> np.ndarray:
        self.was_asked = True
        return super()._predict(state)


def test_time_of_a_decision(benchmarks_wanted: None):
    policy = TimedPick(StageTimer())
    for number in range(PICKS):
        policy.reset(TASK)
        PaperWorld(np.array([0.45 + 0.015 * number, 0.2 - 0.02 * number, EDGE_M / 2])).run(policy, 8.0)
    told = [
        f"{name} p50 {p50:.2f} ms, p95 {p95:.2f} ms, p99 {p99:.2f} ms"
        for name, (p50, p95, p99) in zip(
            ("clock", "processor"), np.percentile(policy.decisions_ms, [50, 95, 99], axis=0).T, strict=True
        )
    ]
    print(f"\n{policy.network.session.engine}, 1 thread, {len(policy.decisions_ms)} decisions: {'; '.join(told)}")
