"""What stands fixed in the cell, as boxes: the simulator builds them, the safety gates keep clear of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from handeye.robot.config import WorkCellConfig

BIN_FLOOR_M = 0.003


@dataclass(frozen=True, slots=True, eq=False)
class Fixtures:
    """F boxes along the base axes: names, middles and half sizes in the base frame, m."""

    names: tuple[str, ...]
    middles: Float[np.ndarray, "F 3"]
    half_m: Float[np.ndarray, "F 3"]


def fixtures_of_cell(cell: WorkCellConfig) -> Fixtures:
    """Floor and four walls of the bin."""
    bin_ = cell.bin
    (x, y), wall, height = np.array(bin_.inside_m) / 2, bin_.wall_thickness_m / 2, bin_.wall_height_m / 2
    boxes = {
        "bin_floor": ((0.0, 0.0, BIN_FLOOR_M / 2), (x, y, BIN_FLOOR_M / 2)),
        "bin_wall_x": ((x + wall, 0.0, height), (wall, y + 2 * wall, height)),
        "bin_wall_-x": ((-x - wall, 0.0, height), (wall, y + 2 * wall, height)),
        "bin_wall_y": ((0.0, y + wall, height), (x, wall, height)),
        "bin_wall_-y": ((0.0, -y - wall, height), (x, wall, height)),
    }
    middles, half_m = (np.array(rows, dtype=np.float64) for rows in zip(*boxes.values(), strict=True))
    return Fixtures(tuple(boxes), middles + [*bin_.centre_xy_m, cell.table.height_m], half_m)
