"""Jerk-limited motion profiles: state to state by ruckig, braking to rest in closed form.

The only file that knows ruckig. Its community version solves for any moving start but raises on rare numerical
corner cases, so every failure becomes MotionPlanningError; braking does without it and has an answer always.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from handeye.robot.errors import MotionPlanningError
from handeye.vision.errors import MissingPackageError

if TYPE_CHECKING:
    import ruckig

# Where a distance is exactly that of a profile which just touches a bound, rounding can leave ruckig without an
# answer, as for 0.2 rad at 10 rad/s^2 and 100 rad/s^3. Slightly lower bounds are off that edge.
_BOUND_FRACTIONS = (1.0, 0.9999, 0.999, 0.99)
_LONGEST_TOGETHER = 3
"""A stop of all coordinates together may take this many times as long as the fastest of each by itself."""
_END_TOLERANCE = 1e-9  # part of a sampling period; a motion that ends this little after a sample ends on it


class Profile(NamedTuple):
    """A motion of D coordinates sampled from its start: position, velocity and acceleration."""

    position: Float[np.ndarray, "T D"]
    velocity: Float[np.ndarray, "T D"]
    acceleration: Float[np.ndarray, "T D"]


class Bounds(NamedTuple):
    """Greatest velocity, acceleration and jerk of each coordinate, in both directions; all above zero."""

    velocity: Float[np.ndarray, " D"]
    acceleration: Float[np.ndarray, " D"]
    jerk: Float[np.ndarray, " D"]


def state_to_rest(
    start: Float[np.ndarray, " D"],
    start_velocity: Float[np.ndarray, " D"],
    goal: Float[np.ndarray, " D"],
    bounds: Bounds,
    dt_s: float,
    start_acceleration: Float[np.ndarray, " D"] | None = None,
) -> Profile:
    """The fastest profile from a moving start to rest at the goal, all coordinates arriving together.

    From rest none turns round, and with like bounds they keep in proportion on a straight line. The last row is the
    goal itself. A start velocity above its bound is first brought down to it; without a start acceleration it is 0.
    Raises MotionPlanningError when ruckig has no answer, MissingPackageError without ruckig.
    """
    try:
        import ruckig  # optional: only those who plan motions need it
    except ImportError as error:
        raise MissingPackageError("planning motions needs ruckig: pip install 'handeye[robot]'") from error
    request = ruckig.InputParameter(len(start))
    request.current_position, request.current_velocity = start.tolist(), start_velocity.tolist()
    if start_acceleration is not None:
        request.current_acceleration = start_acceleration.tolist()
    request.target_position = goal.tolist()
    request.synchronization = ruckig.Synchronization.Phase
    solved = ruckig.Trajectory(len(start))
    reason = ""
    for fraction in _BOUND_FRACTIONS:
        request.max_velocity = bounds.velocity.tolist()
        request.max_acceleration = (bounds.acceleration * fraction).tolist()
        request.max_jerk = (bounds.jerk * fraction).tolist()
        try:
            ruckig.Ruckig(len(start)).calculate(request, solved)
        except ruckig.RuckigError as error:
            reason = reason or " ".join(str(error).split())
        else:
            return _sample(solved, goal, dt_s)
    raise MotionPlanningError(f"ruckig found no motion: {reason}")


def brake_to_rest(
    start: Float[np.ndarray, " D"],
    start_velocity: Float[np.ndarray, " D"],
    start_acceleration: Float[np.ndarray, " D"],
    bounds: Bounds,
    dt_s: float,
) -> Profile:
    """All coordinates to rest; an answer for every start whose acceleration is within its bound. At rest: one row.

    Where bounds allow, all stop at the same time, each velocity a cubic of time: without a start acceleration the
    velocities keep their proportion, so the path stays straight. Otherwise each stops by itself, as fast as it may.
    """
    if not (start_velocity.any() or start_acceleration.any()):
        return Profile(start[None].copy(), np.zeros((1, len(start))), np.zeros((1, len(start))))
    shortest = _num_rows(_shortest_brake_s(start_velocity, start_acceleration, bounds), dt_s) - 1
    num_periods = np.arange(max(shortest, 1), _LONGEST_TOGETHER * max(shortest, 1) + 2)
    fits = _cubic_brake_fits(start_velocity, start_acceleration, bounds, num_periods * dt_s)
    if not fits.any():
        return _brake_singly(start, start_velocity, start_acceleration, bounds, dt_s)
    return _brake_together(start, start_velocity, start_acceleration, int(num_periods[np.argmax(fits)]), dt_s)


def _brake_together(
    start: np.ndarray, velocity: np.ndarray, acceleration: np.ndarray, periods: int, dt_s: float
) -> Profile:
    """v(s) = (1 - s)^2 (v (1 + 2 s) + a T s), s = t / T: from v and a to rest in T."""
    duration_s = periods * dt_s
    s = np.linspace(0.0, 1.0, periods + 1)[:, None]
    gain = acceleration * duration_s
    way = velocity * (s - s**3 + 0.5 * s**4) + gain * (0.5 * s**2 - 2.0 / 3.0 * s**3 + 0.25 * s**4)
    rate = (1.0 - s) ** 2 * (velocity * (1.0 + 2.0 * s) + gain * s)
    change = (1.0 - s) * (gain * (1.0 - 3.0 * s) - 6.0 * velocity * s) / duration_s
    return Profile(start + duration_s * way, rate, change)


def _cubic_brake_fits(
    velocity: Float[np.ndarray, " D"],
    acceleration: Float[np.ndarray, " D"],
    bounds: Bounds,
    duration_s: Float[np.ndarray, " N"],
) -> Bool[np.ndarray, " N"]:
    """Whether the cubic of each duration keeps all bounds: velocity and acceleration at their extremes, and jerk."""
    T = duration_s[:, None]
    jerk_first = -(6.0 * velocity + 4.0 * acceleration * T) / T**2
    jerk_last = (6.0 * velocity + 2.0 * acceleration * T) / T**2
    fits = np.maximum(np.abs(jerk_first), np.abs(jerk_last)) <= bounds.jerk
    # Acceleration is extreme where the jerk is zero, velocity where the acceleration is, if that is on the way.
    with np.errstate(divide="ignore", invalid="ignore"):
        turn = jerk_first / (jerk_first - jerk_last)
        peak = acceleration * T / (3.0 * acceleration * T + 6.0 * velocity)
    turn = np.where((turn > 0.0) & (turn < 1.0), turn, 0.0)
    peak = np.where((peak > 0.0) & (peak < 1.0), peak, 0.0)
    steepest = acceleration + 0.5 * jerk_first * turn * T
    fastest = (1.0 - peak) ** 2 * (velocity * (1.0 + 2.0 * peak) + acceleration * T * peak)
    fits &= np.abs(steepest) <= bounds.acceleration
    fits &= np.abs(fastest) <= np.maximum(bounds.velocity, np.abs(velocity))
    return np.asarray(fits.all(axis=1))


def _shortest_brake_s(velocity: np.ndarray, acceleration: np.ndarray, bounds: Bounds) -> float:
    ramps = _brake_ramps(velocity, acceleration, bounds)
    return float(np.max(ramps.fall + ramps.hold + ramps.rise))


class _BrakeRamps(NamedTuple):
    """The fastest stop of each coordinate: deceleration grows, holds and goes back to zero, s; `sign` of the motion."""

    sign: np.ndarray
    fall: np.ndarray
    hold: np.ndarray
    rise: np.ndarray


def _brake_ramps(velocity: np.ndarray, acceleration: np.ndarray, bounds: Bounds) -> _BrakeRamps:
    """With the acceleration taken back to zero at once it would move at v + a |a| / (2 j): against that it brakes."""
    jerk = bounds.jerk
    ahead = velocity + acceleration * np.abs(acceleration) / (2.0 * jerk)
    sign = np.where(ahead == 0.0, -np.sign(acceleration), np.sign(ahead))
    v, a = sign * velocity, sign * acceleration
    peak = np.minimum(np.sqrt(np.maximum(jerk * v + 0.5 * a**2, 0.0)), bounds.acceleration)
    peak = np.maximum(peak, -a)
    left = v + (a**2 - 2.0 * peak**2) / (2.0 * jerk)
    hold = np.where(peak > 0.0, np.maximum(left, 0.0) / np.where(peak > 0.0, peak, 1.0), 0.0)
    return _BrakeRamps(sign, (a + peak) / jerk, hold, peak / jerk)


def _brake_singly(
    start: np.ndarray, velocity: np.ndarray, acceleration: np.ndarray, bounds: Bounds, dt_s: float
) -> Profile:
    ramps = _brake_ramps(velocity, acceleration, bounds)
    ends = ramps.fall + ramps.hold + ramps.rise
    num_rows = _num_rows(float(np.max(ends)), dt_s)
    stamps = np.arange(num_rows)[:, None] * dt_s
    position = start + velocity * stamps + 0.5 * acceleration * stamps**2
    rate, change = velocity + acceleration * stamps, np.tile(acceleration, (num_rows, 1))
    # The jerk is a sum of steps, each of which integrates to powers of the time since it began.
    for step, begin in ((-1.0, 0.0 * ends), (1.0, ramps.fall), (1.0, ramps.fall + ramps.hold), (-1.0, ends)):
        since = np.maximum(stamps - begin, 0.0)
        jerk = step * ramps.sign * bounds.jerk
        position += jerk * since**3 / 6.0
        rate += jerk * since**2 / 2.0
        change += jerk * since
    rate[-1], change[-1] = 0.0, 0.0
    return Profile(position, rate, change)


def _sample(solved: ruckig.Trajectory, goal: np.ndarray, dt_s: float) -> Profile:
    num_rows = _num_rows(solved.duration, dt_s)
    samples = np.array([solved.at_time(k * dt_s)[:3] for k in range(num_rows)])
    samples[-1] = [goal, np.zeros_like(goal), np.zeros_like(goal)]
    return Profile(samples[:, 0], samples[:, 1], samples[:, 2])


def _num_rows(duration_s: float, dt_s: float) -> int:
    return int(np.ceil(duration_s / dt_s - _END_TOLERANCE)) + 1
