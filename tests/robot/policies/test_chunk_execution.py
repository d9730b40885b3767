"""Chunks become actions: by their times, without jumps, and with every prediction counted."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handeye.robot.policies.chunk_execution import (
    Asynchronous,
    AsynchronousConfig,
    Blending,
    BlendingConfig,
    DelayedInference,
    Ensembled,
    EnsembledConfig,
    Prediction,
    Synchronous,
    SynchronousConfig,
    ThreadedInference,
    build_blending,
    ensemble,
)

PERIOD_S = 0.04
ROWS = 16


def plan(speed: float = 1.0, start: float = 0.0) -> Callable[[float], Callable[[], np.ndarray]]:
    """A perfect network for a motion at constant speed: its chunk, whenever asked, continues the same line."""

    def at(stamp_s: float) -> Callable[[], np.ndarray]:
        times = stamp_s + PERIOD_S * np.arange(1, ROWS + 1)
        return lambda: (start + speed * times)[:, None]

    return at


ALL = [
    SynchronousConfig(),
    EnsembledConfig(),
    AsynchronousConfig(simulated_latency_s=0.0),
    AsynchronousConfig(simulated_latency_s=0.1),
]


@pytest.mark.parametrize("config", ALL)
def test_predictions_that_agree_are_followed_exactly(config: BlendingConfig) -> None:
    blending = build_blending(config, PERIOD_S)
    ask = plan()
    for tick in range(100):
        now_s = tick * 0.008
        if tick % 5 == 0:
            blending.observe(ask(now_s), now_s)
        action = blending.action_at(now_s + 0.008)
        if now_s >= 0.2:
            assert action is not None
            np.testing.assert_allclose(action, [now_s + 0.008], atol=1e-9)


@pytest.mark.parametrize("config", ALL)
def test_without_an_answer_there_is_no_action(config: BlendingConfig) -> None:
    assert build_blending(config, PERIOD_S).action_at(0.0) is None


def test_a_prediction_gives_its_rows_at_their_times_and_lines_between_and_before() -> None:
    prediction = Prediction(np.array([[1.0], [3.0], [2.0]]), observed_s=10.0, period_s=0.5)
    for stamp_s, value in ((9.0, -1.0), (10.0, -1.0), (10.5, 1.0), (10.75, 2.0), (11.0, 3.0), (11.5, 2.0), (99.0, 2.0)):
        assert prediction.at(stamp_s) == pytest.approx([value])
    assert [prediction.covers(stamp_s) for stamp_s in (10.4, 10.5, 11.5, 11.6)] == [False, True, True, False]


def test_the_synchronous_way_asks_when_its_rows_are_over() -> None:
    asked = []
    blending = Synchronous(PERIOD_S, rows=4)
    for row in range(13):
        stamp_s = row * PERIOD_S
        blending.observe(lambda stamp_s=stamp_s: asked.append(stamp_s) or np.zeros((ROWS, 1)), stamp_s)
    assert asked == pytest.approx([0.0, 4 * PERIOD_S, 8 * PERIOD_S, 12 * PERIOD_S])


def test_a_chunk_with_fewer_rows_than_asked_for_is_renewed_at_its_end() -> None:
    blending = Synchronous(PERIOD_S, rows=8)
    blending.observe(lambda: np.zeros((2, 1)), 0.0)
    blending.observe(lambda: np.ones((2, 1)), 2 * PERIOD_S)
    assert blending.action_at(3 * PERIOD_S) == pytest.approx([1.0])


def test_the_ensemble_weighs_the_oldest_most_as_published() -> None:
    decay = 0.5
    actions = [np.array([4.0]), np.array([0.0]), np.array([-2.0])]
    weights = np.exp(-decay * np.arange(3))
    expected = (weights @ np.array([4.0, 0.0, -2.0])) / weights.sum()
    assert ensemble(actions, decay) == pytest.approx([expected])


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=8))
def test_without_decay_the_ensemble_is_the_mean(values: list[float]) -> None:
    assert ensemble([np.array([value]) for value in values], 0.0) == pytest.approx([np.mean(values)], abs=1e-9)


def test_an_action_of_all_zeros_counts() -> None:
    """The original finds predictions by their not being zero, and would answer 1 here."""
    blending = Ensembled(PERIOD_S, decay=0.0)
    blending.observe(lambda: np.zeros((ROWS, 2)), 0.0)
    blending.observe(lambda: np.ones((ROWS, 2)), PERIOD_S)
    assert blending.action_at(2 * PERIOD_S) == pytest.approx([0.5, 0.5])


def test_the_ensemble_holds_as_many_predictions_as_a_chunk_has_rows() -> None:
    blending = Ensembled(PERIOD_S, decay=0.0)
    for row in range(40):
        blending.observe(lambda row=row: np.full((ROWS, 1), float(row)), row * PERIOD_S)
    assert blending.action_at(40 * PERIOD_S) == pytest.approx([np.mean(np.arange(24, 40))])


def test_a_late_chunk_is_entered_where_time_has_got_to() -> None:
    blending = Asynchronous(PERIOD_S, rows=4, fade_rows=1, inference=DelayedInference(3 * PERIOD_S))
    blending.observe(plan()(0.0), 0.0)
    assert not blending.refresh(2 * PERIOD_S)
    assert blending.action_at(3 * PERIOD_S) is None
    assert blending.refresh(3 * PERIOD_S)
    assert blending.action_at(3 * PERIOD_S) == pytest.approx([3 * PERIOD_S])


def largest_step(blending: Blending, levels: Callable[[float], float], dt_s: float = 0.008) -> float:
    """The largest change from tick to tick while the network's output jumps as `levels` says."""
    actions = []
    for tick in range(200):
        now_s = tick * dt_s
        if tick % 5 == 0:
            blending.observe(lambda now_s=now_s: np.full((ROWS, 1), levels(now_s)), now_s)
        blending.refresh(now_s + dt_s)
        action = blending.action_at(now_s + dt_s)
        if action is not None:
            actions.append(float(action[0]))
    return float(np.abs(np.diff(actions)).max())


def test_new_chunks_are_faded_in_without_a_jump() -> None:
    fade_rows = 4
    slope = 0.008 / (fade_rows * PERIOD_S)
    for latency_s in (0.0, 0.05, 0.3):
        blending = Asynchronous(PERIOD_S, rows=4, fade_rows=fade_rows, inference=DelayedInference(latency_s))
        assert largest_step(blending, lambda now_s: float(now_s > 0.5)) <= slope * 1.01
    abrupt = Synchronous(PERIOD_S, rows=4)
    assert largest_step(abrupt, lambda now_s: float(now_s > 0.5)) == pytest.approx(0.008 / PERIOD_S)


def test_a_chunk_that_comes_while_another_is_faded_in_does_not_jump_either() -> None:
    blending = Asynchronous(PERIOD_S, rows=1, fade_rows=8, inference=DelayedInference(0.0))
    assert largest_step(blending, lambda now_s: float(int(now_s / 0.1) % 2)) <= 0.008 / PERIOD_S


def test_a_thread_computes_while_the_last_chunk_is_followed() -> None:
    may_answer = threading.Event()

    def slow() -> np.ndarray:
        may_answer.wait()
        return np.ones((ROWS, 1))

    inference = ThreadedInference()
    blending = Asynchronous(PERIOD_S, rows=1, fade_rows=1, inference=inference)
    blending.observe(slow, 0.0)
    try:
        assert blending.action_at(0.01) is None
        assert inference.is_busy
        blending.observe(lambda: pytest.fail("asked twice at a time"), PERIOD_S)
    finally:
        may_answer.set()
    inference.close()  # waits for the thread
    assert blending.refresh(2 * PERIOD_S)
    assert blending.action_at(2 * PERIOD_S) == pytest.approx([1.0])


def test_errors_of_the_network_reach_the_loop() -> None:
    def broken() -> np.ndarray:
        raise ValueError("no weights")

    inference = ThreadedInference()
    blending = Asynchronous(PERIOD_S, rows=1, fade_rows=1, inference=inference)

    def ask_twice() -> None:
        blending.observe(broken, 0.0)  # takes the answer itself where the thread is quick
        inference.close()  # waits for the thread
        blending.observe(broken, PERIOD_S)

    with pytest.raises(ValueError, match="no weights"):
        ask_twice()
