"""Profiles: bounds hold between samples too, rates are the derivatives, and failures have one name."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from handeye.robot.errors import MotionPlanningError
from handeye.robot.motion.jerk_limited import Bounds, Profile, brake_to_rest, state_to_rest
from handeye.vision.errors import MissingPackageError

DT_S = 0.008
BOUNDS = Bounds(np.array([2.0, 3.0, 1.0]), np.array([6.0, 8.0, 5.0]), np.array([60.0, 80.0, 200.0]))
ROUNDING = 1e-7

places = arrays(np.float64, 3, elements=st.floats(-3.0, 3.0))
velocities = arrays(np.float64, 3, elements=st.floats(-1.0, 1.0))


def assert_consistent(profile: Profile, bounds: Bounds, dt_s: float) -> None:
    """Bounds hold at samples and between them, and each rate integrates to the next: a cubic in pieces."""
    assert np.all(np.abs(profile.velocity) <= bounds.velocity + ROUNDING)
    assert np.all(np.abs(profile.acceleration) <= bounds.acceleration + ROUNDING)
    jerk = np.diff(profile.acceleration, axis=0) / dt_s
    assert np.all(np.abs(jerk) <= bounds.jerk * (1 + 1e-6) + ROUNDING / dt_s)
    # Taylor: what a bounded jerk may add in one period to what the row before foretells.
    foretold = profile.position[:-1] + profile.velocity[:-1] * dt_s + profile.acceleration[:-1] * dt_s**2 / 2
    assert np.all(np.abs(profile.position[1:] - foretold) <= bounds.jerk * dt_s**3 / 6 + ROUNDING)
    foretold = profile.velocity[:-1] + profile.acceleration[:-1] * dt_s
    assert np.all(np.abs(profile.velocity[1:] - foretold) <= bounds.jerk * dt_s**2 / 2 + ROUNDING)


@settings(max_examples=60)
@given(places, velocities, places)
def test_state_to_rest_begins_as_given_and_ends_at_rest_within_bounds(
    start: np.ndarray, velocity: np.ndarray, goal: np.ndarray
) -> None:
    profile = state_to_rest(start, velocity, goal, BOUNDS, DT_S)
    np.testing.assert_allclose(profile.position[-1], goal, atol=0)
    np.testing.assert_array_equal(profile.velocity[-1], 0.0)
    if len(profile.position) > 1:
        np.testing.assert_allclose(profile.position[0], start, atol=1e-12)
        np.testing.assert_allclose(profile.velocity[0], velocity, atol=1e-12)
    assert_consistent(profile, BOUNDS, DT_S)


def test_from_rest_all_arrive_together_and_none_turns_round() -> None:
    start, goal = np.array([0.0, 1.0, -1.0]), np.array([1.0, 1.5, 1.0])
    profile = state_to_rest(start, np.zeros(3), goal, BOUNDS, DT_S)
    share = (profile.position - start) / (goal - start)
    assert np.all(np.diff(share, axis=0) >= -1e-12)
    assert np.all(share[-3] < 1.0)
    assert np.all(share[-3] > 0.999)


def test_from_rest_with_like_bounds_the_path_is_straight() -> None:
    start, goal = np.array([0.0, 1.0, -1.0]), np.array([1.0, 1.5, 1.0])
    profile = state_to_rest(start, np.zeros(3), goal, Bounds(np.full(3, 2.0), np.full(3, 6.0), np.full(3, 60.0)), DT_S)
    share = (profile.position - start) / (goal - start)
    np.testing.assert_allclose(share, share[:, :1] * np.ones(3), atol=1e-9)


@pytest.mark.parametrize("acceleration", [2.0, 5.0, 8.0, 10.0])
@pytest.mark.parametrize("ratio", [5.0, 10.0, 20.0])
def test_distances_on_the_edge_between_profiles_are_solved(acceleration: float, ratio: float) -> None:
    """Such a distance just reaches the greatest acceleration, or velocity; plain ruckig fails on many of them."""
    jerk, velocity = ratio * acceleration, 3.1416
    bounds = Bounds(np.full(3, velocity), np.full(3, acceleration), np.full(3, jerk))
    touches_acceleration = 2.0 * acceleration**3 / jerk**2
    touches_velocity = velocity**2 / acceleration + velocity * acceleration / jerk
    rng = np.random.default_rng(0)
    for distance in (touches_acceleration, touches_velocity):
        for start in np.round(rng.uniform(-3, 3, (20, 3)), 4):
            goal = start + distance * np.array([1.0, -1.0, 0.5])
            profile = state_to_rest(start, np.zeros(3), goal, bounds, DT_S)
            np.testing.assert_array_equal(profile.position[-1], goal)
            assert_consistent(profile, bounds, DT_S)


def test_the_fastest_long_motion_takes_the_time_of_its_formula() -> None:
    """A full seven-phase profile: distance / v + v / a + a / j."""
    one = Bounds(np.array([1.0]), np.array([5.0]), np.array([50.0]))
    profile = state_to_rest(np.zeros(1), np.zeros(1), np.array([2.0]), one, 0.001)
    assert len(profile.position) - 1 == pytest.approx((2.0 / 1.0 + 1.0 / 5.0 + 5.0 / 50.0) / 0.001, abs=1.01)


def test_no_motion_is_one_row() -> None:
    profile = state_to_rest(np.ones(3), np.zeros(3), np.ones(3), BOUNDS, DT_S)
    np.testing.assert_array_equal(profile.position, np.ones((1, 3)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_ruckig_cannot_solve_becomes_one_error(bad: float) -> None:
    with pytest.raises(MotionPlanningError, match="ruckig found no motion"):
        state_to_rest(np.zeros(3), np.zeros(3), np.array([1.0, bad, 0.0]), BOUNDS, DT_S)
    with pytest.raises(MotionPlanningError, match="ruckig found no motion"):
        state_to_rest(np.zeros(3), np.zeros(3), np.ones(3), BOUNDS._replace(jerk=np.array([1.0, -bad, 1.0])), DT_S)


def test_without_ruckig_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ruckig", None)
    with pytest.raises(MissingPackageError, match="pip install"):
        state_to_rest(np.zeros(3), np.zeros(3), np.ones(3), BOUNDS, DT_S)


@given(places, velocities)
def test_braking_ends_at_rest_within_bounds(start: np.ndarray, velocity: np.ndarray) -> None:
    profile = brake_to_rest(start, velocity, BOUNDS, DT_S)
    np.testing.assert_array_equal(profile.velocity[-1], 0.0)
    np.testing.assert_array_equal(profile.acceleration[-1], 0.0)
    np.testing.assert_array_equal(profile.position[0], start)
    if len(profile.position) > 1:
        np.testing.assert_array_equal(profile.velocity[0], velocity)
    assert_consistent(profile, BOUNDS, DT_S)


@given(velocities)
def test_braking_never_turns_round_and_stops_where_the_formula_says(velocity: np.ndarray) -> None:
    """By symmetry of the profile the mean speed is half the first: way = v / 2 * duration."""
    profile = brake_to_rest(np.zeros(3), velocity, BOUNDS, DT_S)
    speed = np.abs(velocity)
    peak = np.minimum(np.sqrt(speed * BOUNDS.jerk), BOUNDS.acceleration)
    duration = np.where(speed > 0, speed / np.where(peak > 0, peak, 1.0) + peak / BOUNDS.jerk, 0.0)
    np.testing.assert_allclose(profile.position[-1], velocity * duration / 2, atol=1e-9)
    assert np.all(profile.velocity * np.sign(velocity) >= -1e-12)
    assert (len(profile.position) - 1) * DT_S == pytest.approx(duration.max(), abs=DT_S)


def test_braking_without_ruckig_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ruckig", None)
    assert len(brake_to_rest(np.zeros(3), np.ones(3), BOUNDS, DT_S).position) > 1


def test_at_rest_braking_is_one_row() -> None:
    assert len(brake_to_rest(np.ones(3), np.zeros(3), BOUNDS, DT_S).position) == 1
