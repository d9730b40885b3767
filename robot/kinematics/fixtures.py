"""What stands fixed in the cell, as boxes, and whether the hand keeps clear of it.

The simulator builds the bin from the same boxes. The hand's boxes are those of `hand_geometry`; two boxes are apart
when one of 15 axes separates them: the faces of both and the cross products of their edges (Gottschalk et al. 1996).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from handeye.robot.config import WorkCellConfig
from handeye.robot.kinematics.hand_geometry import HAND_BOXES, hand_boxes

BIN_FLOOR_M = 0.003
_PARALLEL = 1e-9


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


class HandClearance:
    """The hand of a cell against its fixtures."""

    def __init__(self, cell: WorkCellConfig, clearance_m: float) -> None:
        self._cell = cell
        self._fixtures = fixtures_of_cell(cell)
        self._half_m = self._fixtures.half_m + clearance_m
        low = (self._fixtures.middles - self._half_m).min(axis=0)
        high = (self._fixtures.middles + self._half_m).max(axis=0)
        self._opening_m, self._boxes = 0.0, hand_boxes(cell, 0.0)
        self._middle, self._radius_m = 0.5 * (low + high), 0.5 * float(np.linalg.norm(high - low))

    def hits(self, T_base_tool: Float[np.ndarray, "T 4 4"], opening_m: float) -> Bool[np.ndarray, " T"]:
        """Whether any part of the hand comes nearer to a fixture than the clearance, for each of T poses."""
        return np.asarray(self._touching(T_base_tool, opening_m).any(axis=(1, 2)))

    def names(self, T_base_tool: Float[np.ndarray, "4 4"], opening_m: float) -> list[str]:
        """The pairs that are too near, as "palm at bin_wall_x"."""
        touching = self._touching(T_base_tool[None], opening_m)[0]
        return [f"{HAND_BOXES[box]} at {self._fixtures.names[wall]}" for box, wall in np.argwhere(touching).tolist()]

    def _touching(self, T_base_tool: Float[np.ndarray, "T 4 4"], opening_m: float) -> Bool[np.ndarray, "T H F"]:
        if opening_m != self._opening_m:  # the gates ask every control period, and fingers seldom move
            self._opening_m, self._boxes = opening_m, hand_boxes(self._cell, opening_m)
        T_tool_box, half_m = self._boxes
        T_base_box = T_base_tool[:, None] @ T_tool_box
        touching = np.zeros((len(T_base_tool), len(half_m), len(self._half_m)), dtype=bool)
        distance_m = np.linalg.norm(T_base_box[..., :3, 3] - self._middle, axis=-1)
        near = distance_m <= self._radius_m + np.linalg.norm(half_m, axis=-1)
        pose, box = np.nonzero(near)
        if len(pose):
            touching[pose, box] = boxes_overlap(
                T_base_box[pose, box][:, None], half_m[box][:, None], self._fixtures.middles, self._half_m
            )
        return touching


def boxes_overlap(
    T_base_box: Float[np.ndarray, "N 1 4 4"],
    half_m: Float[np.ndarray, "N 1 3"],
    middles: Float[np.ndarray, "F 3"],
    fixture_half_m: Float[np.ndarray, "F 3"],
) -> Bool[np.ndarray, "N F"]:
    """Whether each of N turned boxes overlaps each of F boxes along the axes."""
    R, offset = T_base_box[..., :3, :3], T_base_box[..., :3, 3] - middles
    # Parallel edges have no cross product of length; a little on the radii keeps rounding from separating boxes.
    size = np.abs(R) + _PARALLEL
    apart = np.any(np.abs(offset) > fixture_half_m + (size @ half_m[..., None])[..., 0], axis=-1)
    along = (np.swapaxes(R, -1, -2) @ offset[..., None])[..., 0]
    reach = (np.swapaxes(size, -1, -2) @ fixture_half_m[..., None])[..., 0]
    apart |= np.any(np.abs(along) > half_m + reach, axis=-1)
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        for m in range(3):
            p, q = (m + 1) % 3, (m + 2) % 3
            distance = np.abs(offset[..., k] * R[..., j, m] - offset[..., j] * R[..., k, m])
            fixture = fixture_half_m[..., j] * size[..., k, m] + fixture_half_m[..., k] * size[..., j, m]
            box = half_m[..., p] * size[..., i, q] + half_m[..., q] * size[..., i, p]
            apart |= distance > fixture + box
    return ~apart
