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


accelerations = arrays(np.float64, 3, elements=st.floats(-5.0, 5.0))


@settings(max_examples=200)
@given(places, velocities, accelerations)
def test_braking_ends_at_rest_within_bounds(start: np.ndarray, velocity: np.ndarray, acceleration: np.ndarray) -> None:
    """From every state that can stop without breaking its velocity bound on the way."""
    ahead = velocity + acceleration * np.abs(acceleration) / (2.0 * BOUNDS.jerk)
    acceleration = np.where(np.abs(ahead) <= BOUNDS.velocity, acceleration, 0.0)
    profile = brake_to_rest(start, velocity, acceleration, BOUNDS, DT_S)
    np.testing.assert_array_equal(profile.velocity[-1], 0.0)
    np.testing.assert_array_equal(profile.acceleration[-1], 0.0)
    np.testing.assert_array_equal(profile.position[0], start)
    if len(profile.position) > 1:
        np.testing.assert_allclose(profile.velocity[0], velocity, atol=1e-12)
        np.testing.assert_allclose(profile.acceleration[0], acceleration, atol=1e-12)
    assert_consistent(profile, BOUNDS, DT_S)


@given(velocities)
def test_a_stop_from_constant_speed_stays_on_its_line_and_in_its_time(velocity: np.ndarray) -> None:
    """A cubic of time: half the first speed in the mean, 1.5 v / T at most in acceleration, 6 v / T^2 in jerk."""
    profile = brake_to_rest(np.zeros(3), velocity, np.zeros(3), BOUNDS, DT_S)
    duration_s = (len(profile.position) - 1) * DT_S
    speed = np.abs(velocity)
    np.testing.assert_allclose(profile.position[-1], velocity * duration_s / 2, atol=1e-9)
    np.testing.assert_allclose(profile.position, profile.position[-1] * share_done(profile, duration_s), atol=1e-12)
    needed = max((1.5 * speed / BOUNDS.acceleration).max(), np.sqrt(6.0 * speed / BOUNDS.jerk).max())
    assert duration_s <= needed + DT_S + 1e-9


def share_done(profile: Profile, duration_s: float) -> np.ndarray:
    s = np.arange(len(profile.position))[:, None] * DT_S / max(duration_s, DT_S)
    return 2.0 * s - 2.0 * s**3 + s**4


def test_where_one_joint_must_not_speed_up_any_more_each_stops_by_itself() -> None:
    """At 0.95 of the velocity bound and speeding up, the cubic would break the bound; ramp, hold and ramp do not."""
    velocity, acceleration = np.array([1.73, 0.0, 0.95]), np.array([0.0, 0.0, 4.4])
    profile = brake_to_rest(np.zeros(3), velocity, acceleration, BOUNDS, DT_S)
    assert_consistent(profile, BOUNDS, DT_S)
    first, third = (int(np.flatnonzero(np.abs(profile.velocity[:, i]) > 1e-9)[-1]) for i in (0, 2))
    assert third < first - 5


def test_braking_without_ruckig_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ruckig", None)
    assert len(brake_to_rest(np.zeros(3), np.ones(3), np.zeros(3), BOUNDS, DT_S).position) > 1


def test_at_rest_braking_is_one_row() -> None:
    assert len(brake_to_rest(np.ones(3), np.zeros(3), np.zeros(3), BOUNDS, DT_S).position) == 1


@settings(max_examples=60)
@given(places, velocities, accelerations)
def test_state_to_rest_goes_on_from_an_acceleration(
    start: np.ndarray, velocity: np.ndarray, acceleration: np.ndarray
) -> None:
    acceleration = 0.5 * acceleration
    profile = state_to_rest(start, velocity, start + 1.0, BOUNDS, DT_S, acceleration)
    np.testing.assert_allclose(profile.acceleration[0], acceleration, atol=1e-9)
    np.testing.assert_array_equal(profile.position[-1], start + 1.0)
    assert_consistent(profile, BOUNDS, DT_S)
