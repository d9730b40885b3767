"""Find out why samples fit no hand-eye calibration: read them as if a usual mistake had been made, and solve again.

Inverted poses, quaternions in the other order, the other setting, and poses of the next or previous image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from handeye.robot.calibration.hand_eye import (
    ClosedForm,
    HandEye,
    PosePairs,
    Setting,
    solve_hand_eye,
    transform_errors,
)
from handeye.robot.errors import CalibrationError
from handeye.robot.transforms import inverse, make_transform, quat_wxyz_to_rotation, rotation_to_quat_wxyz
from handeye.vision.errors import UserError

TOOL_INVERTED, BOARD_INVERTED = "the tool's poses are T_tool_base", "the board's poses are T_board_camera"
MOST_LEFT_OUT = 12
"""Samples, evenly spaced, that are predicted from all others to judge one reading."""
MIN_SHIFTED = 4
"""A shift costs one sample, and leaving one out another."""
_SCALAR_IS_LAST, _SCALAR_IS_FIRST = (3, 0, 1, 2), (1, 2, 3, 0)
"""Where w, x, y and z of the true quaternion stand in one that was read in the wrong order."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Largest median errors of a calibration that holds."""

    distance_m: float
    angle_rad: float

    @classmethod
    def from_mm_deg(cls, limit_mm: float, limit_deg: float) -> Limits:
        """As the command line states them. Raises UserError unless both are above 0."""
        if not (limit_mm > 0.0 and limit_deg > 0.0):
            raise UserError("expected --limit-mm and --limit-deg above 0")
        return cls(1e-3 * limit_mm, math.radians(limit_deg))

    def hold(self, errors_m: Float[np.ndarray, " N"], errors_rad: Float[np.ndarray, " N"]) -> bool:
        """Whether the medians are within them."""
        return float(np.median(errors_m)) <= self.distance_m and float(np.median(errors_rad)) <= self.angle_rad


@dataclass(frozen=True, slots=True)
class Reading:
    """A mistake that explains the samples, and the median errors that are left without it."""

    mistake: str
    error_m: float
    error_rad: float

    def __str__(self) -> str:
        return f"{self.mistake} ({1e3 * self.error_m:.1f} mm, {np.rad2deg(self.error_rad):.2f} degrees)"


def explain_samples(pairs: PosePairs, setting: Setting, limits: Limits) -> list[Reading]:
    """The mistakes without which the samples fit, the best first."""
    found = []
    other = Setting.EYE_IN_HAND if setting is Setting.EYE_TO_HAND else Setting.EYE_TO_HAND
    for mistake, others in readings(pairs):
        if mistake == BOARD_INVERTED:
            continue
        try:
            errors = _leave_some_out(others, setting)
        except CalibrationError:
            continue
        # Each of the three is the same equation as the others, so no sample can tell them apart.
        told = f"the setting is {other.value}, {mistake}, or {BOARD_INVERTED}" if mistake == TOOL_INVERTED else mistake
        if limits.hold(*errors):
            found.append(Reading(told, *(float(np.median(values)) for values in errors)))
    return sorted(found, key=lambda reading: reading.error_m)


def explain_check(pairs: PosePairs, known: HandEye, limits: Limits) -> list[Reading]:
    """The mistakes without which new samples agree with a known calibration, the best first."""
    found = []
    for mistake, others in readings(pairs):
        errors = transform_errors(known.predict(others.T_base_tool), others.T_camera_board)
        if limits.hold(*errors):
            found.append(Reading(mistake, *(float(np.median(values)) for values in errors)))
    return sorted(found, key=lambda reading: reading.error_m)


def readings(pairs: PosePairs) -> Iterator[tuple[str, PosePairs]]:
    """Each usual mistake, and the samples as they are without it."""
    tool, board = pairs.T_base_tool, pairs.T_camera_board
    yield TOOL_INVERTED, replace(pairs, T_base_tool=inverse(tool))
    yield BOARD_INVERTED, replace(pairs, T_camera_board=inverse(board))
    yield (
        f"{TOOL_INVERTED} and {BOARD_INVERTED}",
        replace(pairs, T_base_tool=inverse(tool), T_camera_board=inverse(board)),
    )
    for order, told in ((_SCALAR_IS_LAST, "xyzw, read as wxyz"), (_SCALAR_IS_FIRST, "wxyz, read as xyzw")):
        yield f"the tool's quaternions are {told}", replace(pairs, T_base_tool=_reordered(tool, order))
        yield f"the board's quaternions are {told}", replace(pairs, T_camera_board=_reordered(board, order))
        yield (
            f"all quaternions are {told}",
            replace(pairs, T_base_tool=_reordered(tool, order), T_camera_board=_reordered(board, order)),
        )
    if len(pairs) > MIN_SHIFTED:
        yield "each tool pose belongs to the image before it", PosePairs(tool[1:], board[:-1], pairs.names[:-1])
        yield "each tool pose belongs to the image after it", PosePairs(tool[:-1], board[1:], pairs.names[1:])


def _reordered(T: Float[np.ndarray, "N 4 4"], order: tuple[int, ...]) -> Float[np.ndarray, "N 4 4"]:
    quats = rotation_to_quat_wxyz(T[:, :3, :3])[:, list(order)]
    return make_transform(quat_wxyz_to_rotation(quats), T[:, :3, 3])


def _leave_some_out(pairs: PosePairs, setting: Setting) -> tuple[Float[np.ndarray, " K"], Float[np.ndarray, " K"]]:
    """Errors of samples as predicted from all others, in closed form."""
    chosen = np.unique(np.linspace(0, len(pairs) - 1, MOST_LEFT_OUT).round().astype(int))
    predicted = [
        solve_hand_eye(pairs.without(index), setting, ClosedForm.PARK_MARTIN).predict(pairs.T_base_tool[index])
        for index in chosen.tolist()
    ]
    return transform_errors(np.stack(predicted), pairs.T_camera_board[chosen])
