"""Interpolate action chunks to joint set-points at the control rate, and limit set-points in speed and acceleration.

Between rows a monotone cubic (Fritsch and Butland 1984: slopes are harmonic means) never leaves the interval of its
two rows, so interpolating cannot break a limit that the rows respect. `SetPointLimiter` is for targets that respect no
limits, such as those of a network.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from handeye.robot.errors import ActionError
from handeye.robot.types import NUM_JOINTS, ActionChunk

ROW_TOLERANCE = 1e-6
"""Part of a row's period; a stamp this near to a row means that row."""
CATCH_UP_PER_S = 20.0
"""Gain of SetPointLimiter: speed per distance left, 1/s."""


@dataclass(frozen=True, slots=True, eq=False)
class SetPoint:
    """Joint targets (rad), their velocity (rad/s) and the gripper's opening (m). is_past_end: the last row is held."""

    qpos_target: Float[np.ndarray, " 6"]
    qvel_target: Float[np.ndarray, " 6"]
    gripper_target_m: float
    is_past_end: bool


def interpolate_chunk(chunk: ActionChunk, stamp_s: float) -> SetPoint:
    """The chunk at a time: cubic between its rows, its first row before it begins, its last after it ends.

    The gripper is interpolated linearly. Raises ActionError for a chunk without rows or without a period.
    """
    _require_rows(chunk)
    row = snap_to_row((stamp_s - chunk.stamp_s) / chunk.dt_s)
    last = len(chunk.actions) - 1
    if row < 0.0 or row >= last:
        held = chunk.actions[0 if row < 0.0 else last]
        return SetPoint(held[:NUM_JOINTS].copy(), np.zeros(NUM_JOINTS), float(held[NUM_JOINTS]), row > last)
    before = int(row)
    fraction = row - before
    gripper_m = float((1.0 - fraction) * chunk.gripper_target_m[before] + fraction * chunk.gripper_target_m[before + 1])
    qpos, qvel = _monotone_cubic(chunk, before, fraction)
    return SetPoint(qpos, qvel, gripper_m, is_past_end=False)


def snap_to_row(row: float) -> float:
    """The nearest whole row where rounded stamps have missed it by less than ROW_TOLERANCE, otherwise `row` itself."""
    return float(round(row)) if abs(row - round(row)) < ROW_TOLERANCE else row


class SetPointLimiter:
    """Limit joint targets in speed and acceleration: `restart` once, then `follow` every dt_s.

    Targets within the bounds (rad/s and rad/s^2, one for each joint) pass unchanged. Where they ask for more, each
    joint catches up by itself: with the distance d left it goes faster than the target by min(k d, sqrt(a d)), which
    it can brake again in time, and its velocity changes by at most a dt.
    """

    def __init__(
        self, velocity_max: Float[np.ndarray, " D"], acceleration_max: Float[np.ndarray, " D"], dt_s: float
    ) -> None:
        self._velocity_max = velocity_max
        self._acceleration_max = acceleration_max
        self._dt_s = dt_s
        self.restart(np.zeros_like(velocity_max))

    def restart(self, qpos_command: Float[np.ndarray, " D"]) -> None:
        """Be at rest at `qpos_command` (rad)."""
        self.qpos_command = qpos_command.copy()
        self._qpos_target = qpos_command.copy()
        self._velocity = np.zeros_like(qpos_command)

    def follow(self, qpos_target: Float[np.ndarray, " D"]) -> Float[np.ndarray, " D"]:
        """The set-point for this period on the way to `qpos_target` (rad)."""
        left = self._qpos_target - self.qpos_command
        catch_up = np.minimum(CATCH_UP_PER_S * np.abs(left), np.sqrt(self._acceleration_max * np.abs(left)))
        velocity = (qpos_target - self._qpos_target) / self._dt_s + np.sign(left) * catch_up
        self._qpos_target = qpos_target.copy()
        velocity = np.clip(velocity, -self._velocity_max, self._velocity_max)
        most = self._acceleration_max * self._dt_s
        self._velocity = np.clip(velocity, self._velocity - most, self._velocity + most)
        self.qpos_command = self.qpos_command + self._velocity * self._dt_s
        return self.qpos_command


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
