"""Whether a set of motions determines a hand-eye calibration, and what to record where it does not.

Two rotations about axes that are not parallel are needed (Tsai and Lenz 1989). How far the motions are from failing
is measured by the rotation that they contain about each axis in space: the weakest one decides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from robot.errors import CalibrationError
from robot.transforms import rotation_to_rotvec

MIN_POSES = 3
MIN_ROTATION_RAD = math.radians(5.0)
"""Largest rotation between any two poses; with less, errors of the poses are magnified more than twelvefold."""
MIN_SECOND_AXIS_RAD = math.radians(3.0)
"""Root mean square rotation about the second-best axis; with less, all axes are as good as parallel."""


@dataclass(frozen=True, slots=True, eq=False)
class Excitation:
    """How much a set of motions rotates: root mean square angle about its principal axes (rad, falling), the axes in
    rows, and the largest angle between two poses.
    """

    angles_rad: Float[np.ndarray, " 3"]
    axes: Float[np.ndarray, "3 3"]
    largest_rad: float


def excitation(motions: Float[np.ndarray, "M 4 4"]) -> Excitation:
    """The rotation in motions; axes are given in the frame that the motions are given in."""
    rotvecs = rotation_to_rotvec(motions[:, :3, :3])
    _, singular, axes = np.linalg.svd(rotvecs.reshape(-1, 3), full_matrices=False)
    angles = np.zeros(3)
    angles[: len(singular)] = singular / np.sqrt(max(1, len(rotvecs)))
    largest = float(np.linalg.norm(rotvecs, axis=1).max(initial=0.0))
    return Excitation(angles, axes if len(axes) == 3 else np.eye(3), largest)


def check_motions(motions: Float[np.ndarray, "M 4 4"]) -> None:
    """Raise CalibrationError, saying what to record, where relative motions leave AX = XB undetermined."""
    if len(motions) < 2:
        raise CalibrationError(
            f"{len(motions)} motion cannot determine where the camera sits: record at least {MIN_POSES} poses, "
            "better 15, each turned about another axis"
        )
    found = excitation(motions)
    if found.largest_rad < MIN_ROTATION_RAD:
        raise CalibrationError(
            f"the poses differ by at most {np.rad2deg(found.largest_rad):.2f} degrees: rotations say where the camera "
            f"sits, moving straight says nothing; turn the tool by 20 to 60 degrees between poses"
        )
    if found.angles_rad[1] < MIN_SECOND_AXIS_RAD:
        x, y, z = found.axes[0]
        raise CalibrationError(
            f"all rotations are about one axis, ({x:.2f}, {y:.2f}, {z:.2f}) in the tool's frame; along it the camera's "
            f"place is undetermined (about others they turn {np.rad2deg(found.angles_rad[1]):.2f} degrees): also tilt "
            "the tool by 20 to 40 degrees about two axes across that one"
        )
