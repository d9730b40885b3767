"""Set-points stay within their bounds whatever the targets, and equal the targets where those do too."""

from __future__ import annotations

import numpy as np
import pytest

from handeye.robot.motion.set_points import SetPointLimiter

DT_S = 0.008
VELOCITY_MAX, ACCELERATION_MAX = np.array([2.0, 3.0]), np.array([6.0, 10.0])


def follow(targets: np.ndarray) -> np.ndarray:
    """The set-points for targets (T, 2) from rest at 0, that start included: (T + 1, 2)."""
    limiter = SetPointLimiter(VELOCITY_MAX, ACCELERATION_MAX, DT_S)
    return np.array([np.zeros(2), *(limiter.follow(target) for target in targets)])


@pytest.mark.parametrize("seed", range(5))
def test_no_target_breaks_a_bound(seed: int) -> None:
    rng = np.random.default_rng(seed)
    jumps = np.where(rng.random((4000, 1)) < 0.03, rng.normal(0.0, 1.5, (4000, 2)), 0.0)
    qpos = follow(np.cumsum(jumps, axis=0) + rng.normal(0.0, 0.01, (4000, 2)))
    qvel = np.diff(qpos, axis=0) / DT_S
    qacc = np.diff(np.vstack([np.zeros(2), qvel]), axis=0) / DT_S
    assert (np.abs(qvel) <= VELOCITY_MAX + 1e-9).all()
    assert (np.abs(qacc) <= ACCELERATION_MAX + 1e-6).all()
    assert (np.abs(qvel).max(axis=0) > 0.99 * VELOCITY_MAX).all(), "the targets never came to the bound"


def test_a_target_within_the_bounds_passes_unchanged() -> None:
    stamps = np.arange(1, 500)[:, None] * DT_S
    targets = 0.4 * (1.0 - np.cos(np.pi * stamps)) * np.array([1.0, -1.0])  # at most 1.3 rad/s and 4 rad/s^2
    np.testing.assert_allclose(follow(targets)[1:], targets, atol=1e-12)


@pytest.mark.parametrize("step_rad", [0.005, 0.3, -2.0])
def test_a_step_is_reached_soon_and_without_overshoot(step_rad: float) -> None:
    part = follow(np.full((500, 2), step_rad)) / step_rad
    assert part.max() < 1.0 + 1e-6 + 0.002 / abs(step_rad)
    np.testing.assert_allclose(part[-1], 1.0, atol=1e-6)


def test_after_a_restart_it_is_at_rest_there() -> None:
    limiter = SetPointLimiter(VELOCITY_MAX, ACCELERATION_MAX, DT_S)
    for _ in range(50):
        limiter.follow(np.ones(2))
    limiter.restart(np.full(2, 0.5))
    np.testing.assert_array_equal(limiter.follow(np.full(2, 0.5)), 0.5)
