"""From the rows of an action chunk to set-points at the control rate, without jumps in position or velocity.

Between rows a monotone cubic (Fritsch and Butland 1984: slopes are harmonic means) never leaves the interval of its
two rows, so interpolating cannot break a limit that the rows respect. When a new chunk arrives, its offset to what is
being commanded is faded out instead of being jumped over.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from jaxtyping import Float
from typing_extensions import assert_never

from handeye.robot.errors import ActionError
from handeye.robot.types import NUM_JOINTS, ActionChunk

_ON_A_ROW = 1e-6  # part of a row's period; a stamp this near to a row means that row


class Interpolation(Enum):
    """LINEAR: straight between rows, velocity jumps at rows. CUBIC: velocity continuous, also into the final hold."""

    LINEAR = "linear"
    CUBIC = "cubic"


@dataclass(frozen=True, slots=True, eq=False)
class SetPoint:
    """Joint targets (rad), their velocity (rad/s) and the gripper's opening (m). is_past_end: the last row is held."""

    qpos: Float[np.ndarray, " 6"]
    qvel: Float[np.ndarray, " 6"]
    gripper_m: float
    is_past_end: bool


def interpolate_chunk(chunk: ActionChunk, stamp_s: float, method: Interpolation) -> SetPoint:
    """The chunk at a time: between its rows by `method`, its first row before it begins, its last after it ends.

    The gripper goes linearly. Raises ActionError for a chunk without rows or without a period.
    """
    _require_rows(chunk)
    row = (stamp_s - chunk.stamp_s) / chunk.dt_s
    row = float(round(row)) if abs(row - round(row)) < _ON_A_ROW else row
    last = len(chunk.actions) - 1
    if row < 0.0 or row >= last:
        held = chunk.actions[0 if row < 0.0 else last]
        return SetPoint(held[:NUM_JOINTS].copy(), np.zeros(NUM_JOINTS), float(held[NUM_JOINTS]), row > last)
    before = int(row)
    fraction = row - before
    gripper_m = float((1.0 - fraction) * chunk.gripper_target_m[before] + fraction * chunk.gripper_target_m[before + 1])
    match method:
        case Interpolation.LINEAR:
            qpos, qvel = _linear(chunk, before, fraction)
        case Interpolation.CUBIC:
            qpos, qvel = _monotone_cubic(chunk, before, fraction)
        case _:
            assert_never(method)
    return SetPoint(qpos, qvel, gripper_m, is_past_end=False)


class ChunkFollower:
    """Follows one chunk after another; set-points stay continuous in position and velocity across chunks."""

    def __init__(self, method: Interpolation, *, blend_s: float) -> None:
        """blend_s: how long the offset of a new chunk takes to fade; 0 takes every chunk at its word."""
        if not (np.isfinite(blend_s) and blend_s >= 0.0):
            raise ActionError(f"blend_s: expected a finite time >= 0 s, got {blend_s}")
        self._method = method
        self._blend_s = blend_s
        self._chunk: ActionChunk | None = None
        self._offset = _Fade(np.zeros(NUM_JOINTS), np.zeros(NUM_JOINTS), 0.0, 0.0)

    def restart(self, qpos: Float[np.ndarray, " 6"], gripper_m: float, stamp_s: float) -> None:
        """Forget all chunks and hold this set-point (rad, m), after a stop or at the beginning."""
        self._chunk = ActionChunk(np.append(qpos, gripper_m)[None], 1.0, stamp_s)
        self._offset = _Fade(np.zeros(NUM_JOINTS), np.zeros(NUM_JOINTS), stamp_s, 0.0)

    def follow(self, chunk: ActionChunk, stamp_s: float) -> None:
        """From stamp_s on follow this chunk; the very same chunk again changes nothing. Raises ActionError."""
        if chunk is self._chunk:
            return
        arriving = interpolate_chunk(chunk, stamp_s, self._method)
        if self._chunk is not None and self._blend_s > 0.0:
            leaving = self.sample(stamp_s)
            self._offset = _Fade(leaving.qpos - arriving.qpos, leaving.qvel - arriving.qvel, stamp_s, self._blend_s)
        self._chunk = chunk

    def sample(self, stamp_s: float) -> SetPoint:
        """The set-point for a time no earlier than the last `follow`. Raises ActionError when there is no chunk."""
        if self._chunk is None:
            raise ActionError("there is no action chunk to follow yet")
        target = interpolate_chunk(self._chunk, stamp_s, self._method)
        offset_qpos, offset_qvel = self._offset.at(stamp_s)
        return SetPoint(target.qpos + offset_qpos, target.qvel + offset_qvel, target.gripper_m, target.is_past_end)


@dataclass(frozen=True, slots=True, eq=False)
class _Fade:
    """A cubic in time from an offset and its rate to nothing, over duration_s from start_s on."""

    qpos: np.ndarray
    qvel: np.ndarray
    start_s: float
    duration_s: float

    def at(self, stamp_s: float) -> tuple[np.ndarray, np.ndarray]:
        """Offset and its rate; zero once the time is over."""
        if self.duration_s == 0.0 or stamp_s - self.start_s >= self.duration_s:
            return np.zeros(NUM_JOINTS), np.zeros(NUM_JOINTS)
        zero = np.zeros(NUM_JOINTS)
        u = max(stamp_s - self.start_s, 0.0) / self.duration_s
        return _hermite(self.qpos, zero, self.qvel, zero, u, self.duration_s)


def _linear(chunk: ActionChunk, before: int, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    start, end = chunk.qpos_target[before], chunk.qpos_target[before + 1]
    return (1.0 - fraction) * start + fraction * end, (end - start) / chunk.dt_s


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


# Makes joint set-points that the gates let pass out of wishes that come from anywhere, one control period at a time.
#
# Wishes within the bounds pass unchanged. Where they ask for more, each joint catches up on its own: in the distance
# d
# that is left it goes faster than the wish by min(k d, sqrt(a d)), which it can brake again in time, and its
# velocity
# changes by at most a dt.

CATCH_UP_PER_S = 20.0
"""k, speed per distance left, 1/s."""


class SetPointLimiter:
    """Call `restart` once, then `follow` once every dt_s. Bounds in rad/s and rad/s^2, one for each joint."""

    def __init__(
        self, velocity_max: Float[np.ndarray, " D"], acceleration_max: Float[np.ndarray, " D"], dt_s: float
    ) -> None:
        self._velocity_max = velocity_max
        self._acceleration_max = acceleration_max
        self._dt_s = dt_s
        self.restart(np.zeros_like(velocity_max))

    def restart(self, qpos: Float[np.ndarray, " D"]) -> None:
        """Be at rest at `qpos` (rad)."""
        self.qpos = qpos.copy()
        self._wished = qpos.copy()
        self._velocity = np.zeros_like(qpos)

    def follow(self, wished: Float[np.ndarray, " D"]) -> Float[np.ndarray, " D"]:
        """The set-point for this period on the way to `wished` (rad)."""
        left = self._wished - self.qpos
        catch_up = np.minimum(CATCH_UP_PER_S * np.abs(left), np.sqrt(self._acceleration_max * np.abs(left)))
        velocity = (wished - self._wished) / self._dt_s + np.sign(left) * catch_up
        self._wished = wished.copy()
        velocity = np.clip(velocity, -self._velocity_max, self._velocity_max)
        most = self._acceleration_max * self._dt_s
        self._velocity = np.clip(velocity, self._velocity - most, self._velocity + most)
        self.qpos = self.qpos + self._velocity * self._dt_s
        return self.qpos
