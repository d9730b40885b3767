"""Jerk-limited motion profiles: state to state by ruckig, braking to rest in closed form.

The only file that knows ruckig. Its community version solves for any moving start but raises on rare numerical
corner cases, so every failure becomes MotionPlanningError; braking does without it and has an answer always.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from handeye.robot.errors import MotionPlanningError
from handeye.vision.errors import MissingPackageError

if TYPE_CHECKING:
    import ruckig

# Where a distance is exactly that of a profile which just touches a bound, rounding can leave ruckig without an
# answer, as for 0.2 rad at 10 rad/s^2 and 100 rad/s^3. Slightly lower bounds are off that edge.
_BOUND_FRACTIONS = (1.0, 0.9999, 0.999, 0.99)
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
) -> Profile:
    """The fastest profile from a moving start to rest at the goal, all coordinates arriving together.

    From rest none turns round, and with like bounds they keep in proportion on a straight line. The last row is the
    goal itself. A start velocity above its bound is first brought down to it. Raises MotionPlanningError when ruckig
    has no answer, MissingPackageError without ruckig.
    """
    try:
        import ruckig  # optional: only those who plan motions need it
    except ImportError as error:
        raise MissingPackageError("planning motions needs ruckig: pip install 'handeye[robot]'") from error
    request = ruckig.InputParameter(len(start))
    request.current_position, request.current_velocity = start.tolist(), start_velocity.tolist()
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
    start: Float[np.ndarray, " D"], start_velocity: Float[np.ndarray, " D"], bounds: Bounds, dt_s: float
) -> Profile:
    """Each coordinate by itself to rest as fast as it may: the deceleration rises, holds, falls. At rest: one row."""
    speed, jerk = np.abs(start_velocity), bounds.jerk
    ramp = np.minimum(np.sqrt(speed / jerk), bounds.acceleration / jerk)
    peak = jerk * ramp
    hold = np.where(peak > 0.0, speed / np.where(peak > 0.0, peak, 1.0) - ramp, 0.0)
    num_rows = _num_rows(float(np.max(2.0 * ramp + hold)), dt_s)
    stamps = np.arange(num_rows)[:, None] * dt_s
    position, velocity = start + start_velocity * stamps, np.tile(start_velocity, (num_rows, 1))
    acceleration = np.zeros_like(velocity)
    # The jerk is a sum of four steps, each of which integrates to powers of the time since it began.
    for sign, begin in ((-1.0, 0.0 * ramp), (1.0, ramp), (1.0, ramp + hold), (-1.0, 2.0 * ramp + hold)):
        since = np.maximum(stamps - begin, 0.0)
        step = sign * jerk * np.sign(start_velocity)
        position += step * since**3 / 6.0
        velocity += step * since**2 / 2.0
        acceleration += step * since
    velocity[-1], acceleration[-1] = 0.0, 0.0
    return Profile(position, velocity, acceleration)


def _sample(solved: ruckig.Trajectory, goal: np.ndarray, dt_s: float) -> Profile:
    num_rows = _num_rows(solved.duration, dt_s)
    samples = np.array([solved.at_time(k * dt_s)[:3] for k in range(num_rows)])
    samples[-1] = [goal, np.zeros_like(goal), np.zeros_like(goal)]
    return Profile(samples[:, 0], samples[:, 1], samples[:, 2])


def _num_rows(duration_s: float, dt_s: float) -> int:
    return int(np.ceil(duration_s / dt_s - _END_TOLERANCE)) + 1
