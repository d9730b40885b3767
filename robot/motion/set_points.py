"""Interpolate action chunks to joint set-points at the control rate, and keep set-points within limits on their way.

Between rows a monotone cubic (Fritsch and Butland 1984: slopes are harmonic means) never leaves the interval of its
two rows, so interpolating cannot break a speed limit that the rows respect. Targets that respect no limits, such as
those of a network, are followed within velocity, acceleration and jerk; the same three bound every stop.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from handeye.robot.errors import ActionError
from handeye.robot.motion.jerk_limited import Bounds, brake_to_rest
from handeye.robot.types import NUM_JOINTS, ActionChunk, CommandState

ROW_TOLERANCE = 1e-6
"""Part of a row's period; a stamp this near to a row means that row."""
CATCH_UP_PER_S = 20.0
"""Speed per distance left in the exponential approach to a target, 1/s."""


@dataclass(frozen=True, slots=True, eq=False)
class SetPoint:
    """Joint targets (rad), their velocity (rad/s) and the gripper's opening (m).

    past_end_s: for how long the chunk's last row has been held, 0 before its end.
    """

    qpos_target: Float[np.ndarray, " 6"]
    qvel_target: Float[np.ndarray, " 6"]
    gripper_target_m: float
    past_end_s: float = 0.0


def interpolate_chunk(chunk: ActionChunk, stamp_s: float) -> SetPoint:
    """The chunk at a time: cubic between its rows, its first row before it begins, its last after it ends.

    The gripper keeps to the row before, since openings are goals and not a path. Raises ActionError for a chunk without
    rows or without a period.
    """
    _require_rows(chunk)
    row = snap_to_row((stamp_s - chunk.stamp_s) / chunk.dt_s)
    last = len(chunk.actions) - 1
    if row < 0.0 or row >= last:
        held = chunk.actions[0 if row < 0.0 else last]
        past_end_s = max(0.0, (row - last) * chunk.dt_s)
        return SetPoint(held[:NUM_JOINTS].copy(), np.zeros(NUM_JOINTS), float(held[NUM_JOINTS]), past_end_s)
    before = int(row)
    fraction = row - before
    gripper_m = float(chunk.gripper_target_m[before])
    qpos, qvel = _monotone_cubic(chunk, before, fraction)
    return SetPoint(qpos, qvel, gripper_m)


def snap_to_row(row: float) -> float:
    """The nearest whole row where rounded stamps have missed it by less than ROW_TOLERANCE, otherwise `row` itself."""
    return float(round(row)) if abs(row - round(row)) < ROW_TOLERANCE else row


def follow_target(
    state: CommandState,
    target: Float[np.ndarray, " D"],
    target_before: Float[np.ndarray, " D"],
    bounds: Bounds,
    dt_s: float,
) -> CommandState:
    """One period towards a target that was at target_before a period ago, within velocity, acceleration and jerk.

    Where the target itself keeps the bounds, and the state was on it, the next set-point is the target. Otherwise each
    joint catches up by itself: with the distance d left it aims to be faster than the target by a speed from which it
    can brake in time, and lets its acceleration fall to zero as it comes to that speed. Whatever the target, a stop
    within the bounds remains possible: the acceleration never takes a velocity beyond its bound before it is back at 0.
    """
    step = bounds.jerk * dt_s
    left = target_before - state.qpos
    speed = (target - target_before) / dt_s + np.sign(left) * _catch_up_speed(np.abs(left), bounds)
    change = _acceleration_to(speed - state.qvel, bounds.jerk, dt_s)
    exact = ((target - state.qpos) / dt_s - state.qvel) / dt_s
    # On the target: stay there. Behind it: meet it only at its own speed, or the next period would leave it again.
    to_stay = (target - target_before) / dt_s - (target - state.qpos) / dt_s
    can_stay = (left == 0.0) | (np.abs(to_stay / dt_s - exact) <= step)
    change = np.where(can_stay & (np.abs(exact - state.qacc) <= step), exact, change)
    qacc = np.clip(change, state.qacc - step, state.qacc + step)
    qacc = np.clip(qacc, -bounds.acceleration, bounds.acceleration)
    # v + a dt + a^2 / 2 j: the velocity by the time that the acceleration is back at zero.
    room_up, room_down = bounds.velocity - state.qvel, bounds.velocity + state.qvel
    most_up, most_down = (_most_acceleration(room, bounds.jerk, dt_s) for room in (room_up, room_down))
    qacc = np.clip(qacc, -most_down, most_up)
    return state.then(np.where(qacc == exact, target, state.qpos + (state.qvel + qacc * dt_s) * dt_s), dt_s)


def stop_path(state: CommandState, bounds: Bounds, dt_s: float) -> Float[np.ndarray, "T D"]:
    """The set-points from the next one on that bring the state to rest within the bounds; one row at rest."""
    stop = brake_to_rest(state.qpos, state.qvel, state.qacc, bounds, dt_s)
    if len(stop.velocity) == 1:
        return state.qpos[None].copy()
    return state.qpos + np.cumsum(stop.velocity[1:], axis=0) * dt_s


def _catch_up_speed(distance: np.ndarray, bounds: Bounds) -> np.ndarray:
    """A speed that can be braked within the distance at half of acceleration and jerk, or an exponential approach.

    Half of the acceleration and of the jerk leave room for the lag of the acceleration: a target that steps away is
    not overshot.
    """
    by_acceleration = np.sqrt(bounds.acceleration * distance)
    by_jerk = np.cbrt(0.25 * bounds.jerk * distance**2)
    return np.minimum(np.minimum(by_acceleration, by_jerk), CATCH_UP_PER_S * distance)


def _acceleration_to(change: np.ndarray, jerk: np.ndarray, dt_s: float) -> np.ndarray:
    """The acceleration from which, falling to zero period by period, the velocity changes by just so much."""
    size = np.abs(change)
    ramp = jerk * dt_s * (np.sqrt(0.25 + 2.0 * size / (jerk * dt_s**2)) - 0.5)
    return np.sign(change) * np.minimum(ramp, size / dt_s)


def _most_acceleration(room: np.ndarray, jerk: np.ndarray, dt_s: float) -> np.ndarray:
    return jerk * (np.sqrt(dt_s**2 + 2.0 * np.maximum(room, 0.0) / jerk) - dt_s)


def _monotone_cubic(chunk: ActionChunk, before: int, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    rows = chunk.qpos_target[before : before + 2]
    slopes = (_slope(chunk, before), _slope(chunk, before + 1))
    return _hermite(rows[0], rows[1], slopes[0], slopes[1], fraction, chunk.dt_s)


def _slope(chunk: ActionChunk, row: int) -> np.ndarray:
    """Velocity at a row: the harmonic mean of both sides, 0 where they disagree in sign and at the last row."""
    rows = chunk.qpos_target
    if row == len(rows) - 1:
        return np.zeros(NUM_JOINTS)
    right = (rows[row + 1] - rows[row]) / chunk.dt_s
    if row == 0:
        return right
    left = (rows[row] - rows[row - 1]) / chunk.dt_s
    same_sign = left * right > 0.0
    total = np.where(same_sign, left + right, 1.0)
    return np.where(same_sign, 2.0 * left * right / total, 0.0)


def _hermite(
    start: np.ndarray, end: np.ndarray, start_rate: np.ndarray, end_rate: np.ndarray, u: float, duration_s: float
) -> tuple[np.ndarray, np.ndarray]:
    """The cubic through both ends with these rates, and its rate, at u = 0..1 of its duration."""
    travel = end - start
    bend = duration_s * (start_rate + end_rate) - 2.0 * travel
    turn = 3.0 * travel - duration_s * (2.0 * start_rate + end_rate)
    position = start + u * (duration_s * start_rate + u * (turn + u * bend))
    rate = start_rate + u * (2.0 * turn + 3.0 * u * bend) / duration_s
    return position, rate


def _require_rows(chunk: ActionChunk) -> None:
    if len(chunk.actions) == 0 or not (np.isfinite(chunk.dt_s) and chunk.dt_s > 0.0):
        raise ActionError(
            f"an action chunk needs rows and a period above 0 s, got {len(chunk.actions)}, {chunk.dt_s} s"
        )
