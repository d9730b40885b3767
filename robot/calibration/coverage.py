"""What pictures of the board still lack, in words: corners in every part of the image, tilts, and distances.

Distortion is known only where corners were; focal length only from tilted boards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from robot.calibration.charuco import BoardView, board_pose
from robot.camera.intrinsics import Intrinsics

GRID_ROWS, GRID_COLUMNS = 4, 4
MIN_TILT_RAD = math.radians(10.0)
WANTED_TILT_RAD = math.radians(20.0)
WANTED_TILTED_VIEWS = 4
WANTED_VIEWS = 12
_NAMES_ROWS = ("top", "upper middle", "lower middle", "bottom")
_NAMES_COLUMNS = ("far left", "left of the middle", "right of the middle", "far right")


@dataclass(frozen=True, slots=True, eq=False)
class Coverage:
    """Which cells of a grid over the image have corners, how many views there are, and how far each is tilted (rad)."""

    is_covered: Bool[np.ndarray, "rows columns"]
    tilts_rad: Float[np.ndarray, " N"]

    @property
    def fraction(self) -> float:
        """Part of the cells that have corners."""
        return float(self.is_covered.mean())

    def advice(self) -> list[str]:
        """What to photograph next, most needed first; empty when nothing is missing."""
        missing = []
        tilted = int((self.tilts_rad >= WANTED_TILT_RAD).sum())
        if tilted < WANTED_TILTED_VIEWS:
            missing.append(f"tilt the board by 20 to 45 degrees: {tilted} of {WANTED_TILTED_VIEWS} views do")
        for row, column in np.argwhere(~self.is_covered):
            missing.append(f"hold the board into the {_NAMES_ROWS[row]}, {_NAMES_COLUMNS[column]} of the image")
        if len(self.tilts_rad) < WANTED_VIEWS:
            missing.append(f"take more pictures: {len(self.tilts_rad)} of {WANTED_VIEWS} are there")
        return missing


def measure_coverage(views: tuple[BoardView, ...], intrinsics: Intrinsics) -> Coverage:
    """Coverage by the views of images of the size that the intrinsics have; rough ones are good enough."""
    height, width = intrinsics.size_hw
    is_covered = np.zeros((GRID_ROWS, GRID_COLUMNS), dtype=bool)
    for view in views:
        cells = (view.pixels_uv + 0.5) / (width, height) * (GRID_COLUMNS, GRID_ROWS)
        columns, rows = np.clip(cells.astype(int), 0, (GRID_COLUMNS - 1, GRID_ROWS - 1)).T
        is_covered[rows, columns] = True
    return Coverage(is_covered, tilts_rad(views, intrinsics))


def tilts_rad(views: tuple[BoardView, ...], intrinsics: Intrinsics) -> Float[np.ndarray, " N"]:
    """Angle between each board's normal and the camera's axis."""
    normals = np.array([board_pose(view, intrinsics).T_camera_board[2, 2] for view in views])
    return np.arccos(np.clip(normals, -1.0, 1.0))
