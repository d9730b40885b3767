"""Set-points stay within velocity, acceleration and jerk whatever the targets, and equal the targets where those do."""

from __future__ import annotations

import numpy as np
import pytest

from handeye.robot.motion.jerk_limited import Bounds
from handeye.robot.motion.set_points import follow_target, stop_path
from handeye.robot.types import CommandState

DT_S = 0.008
BOUNDS = Bounds(np.array([2.0, 3.0]), np.array([9.0, 15.0]), np.array([240.0, 400.0]))


def follow(targets: np.ndarray) -> list[CommandState]:
    """The states for targets (T, 2) from rest at 0, that start included: T + 1."""
    states, before = [CommandState.at_rest(np.zeros(2))], np.zeros(2)
    for target in targets:
        states.append(follow_target(states[-1], target, before, BOUNDS, DT_S))
        before = target
    return states


def places(states: list[CommandState]) -> np.ndarray:
    return np.array([state.qpos for state in states])


def worst_shares(qpos: np.ndarray) -> list[float]:
    """How much of each bound the differences of set-points use, standing still before the first."""
    qpos = np.concatenate([qpos[:1], qpos[:1], qpos[:1], qpos])
    differences = [np.abs(np.diff(qpos, order, axis=0)) / DT_S**order for order in (1, 2, 3)]
    return [float((size / bound).max()) for size, bound in zip(differences, BOUNDS, strict=True)]


def random_targets(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    jumps = np.where(rng.random((2000, 1)) < 0.03, rng.normal(0.0, 1.5, (2000, 2)), 0.0)
    return np.cumsum(jumps, axis=0) + rng.normal(0.0, 0.01, (2000, 2))


@pytest.mark.parametrize("seed", range(5))
def test_no_target_breaks_a_bound(seed: int) -> None:
    shares = worst_shares(places(follow(random_targets(seed))))
    assert max(shares) <= 1.0 + 1e-6
    assert min(shares) > 0.99, "the targets never came to a bound"


@pytest.mark.parametrize("seed", range(3))
def test_every_state_can_stop_within_the_bounds(seed: int) -> None:
    for state in follow(random_targets(seed))[::23]:
        stop = np.concatenate([[state.qpos], stop_path(state, BOUNDS, DT_S)])
        qvel = np.concatenate([[state.qvel], np.diff(stop, axis=0) / DT_S, np.zeros((1, 2))])
        qacc = np.concatenate([[state.qacc], np.diff(qvel, axis=0) / DT_S])
        assert (np.abs(qvel) <= BOUNDS.velocity * (1 + 1e-6)).all()
        assert (np.abs(qacc) <= BOUNDS.acceleration * (1 + 1e-6)).all()
        assert (np.abs(np.diff(qacc, axis=0)) / DT_S <= BOUNDS.jerk * (1 + 1e-6)).all()
        np.testing.assert_allclose(qvel[-2], 0.0, atol=1e-9)


def test_a_target_within_the_bounds_passes_unchanged() -> None:
    """From rest with a jerk within bounds: cubic in time first, then a sine's."""
    stamps = np.arange(1, 500)[:, None] * DT_S
    targets = 0.2 * (stamps - np.sin(np.pi * stamps) / np.pi) * np.array([1.0, -1.0])
    assert max(worst_shares(np.concatenate([np.zeros((1, 2)), targets]))) < 0.3
    np.testing.assert_array_equal(places(follow(targets))[1:], targets)


def test_a_target_that_moves_on_is_caught_up_with_and_met_again() -> None:
    stamps = np.arange(1, 500)[:, None] * DT_S
    targets = 0.2 * (stamps - np.sin(np.pi * stamps) / np.pi) * np.array([1.0, -1.0])
    targets[150:] += 0.2
    qpos = places(follow(targets))[1:]
    np.testing.assert_array_equal(qpos[:150], targets[:150])
    np.testing.assert_array_equal(qpos[-100:], targets[-100:])


@pytest.mark.parametrize("step_rad", [0.005, 0.0175, 0.05, 0.3, -2.0])
def test_a_step_is_reached_without_overshoot_and_then_exactly(step_rad: float) -> None:
    part = places(follow(np.full((400, 2), step_rad))) / step_rad
    assert part.max() <= 1.0 + 1e-9
    np.testing.assert_array_equal(part[-1], 1.0)


def test_at_rest_a_stop_is_where_it_is() -> None:
    np.testing.assert_array_equal(stop_path(CommandState.at_rest(np.ones(2)), BOUNDS, DT_S), np.ones((1, 2)))
