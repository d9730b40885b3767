"""Which tool poses the UR10e can take for a picture of the board: within reach and limits, off the table, in sight.

It knows the arm and the table, nothing else that stands around.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from robot.calibration.board import BoardConfig
from robot.calibration.hand_eye import HandEye, Setting
from robot.config import WorkCellConfig
from robot.errors import UnreachableError
from robot.kinematics.collision_geometry import UR10E_PARTS, ArmShape, PlacedArm
from robot.kinematics.limits import joint_limits_from_config
from robot.kinematics.ur10e_ik import inverse_kinematics, nearest_turns
from robot.tracking.visibility import lines_cut
from robot.transforms import apply_transform

LIMIT_MARGIN_RAD = 0.05
"""Suggested configurations stay this far from the joint limits."""
TABLE_CLEARANCE_M = 0.02
_MOVING = slice(sum(part.link < 2 for part in UR10E_PARTS), None)


class ReachablePoses:
    """The arm of a cell that photographs a board, camera and board being about where `guess` says."""

    def __init__(self, cell: WorkCellConfig, guess: HandEye, board: BoardConfig) -> None:
        self._cell, self._guess = cell, guess
        self._limits = joint_limits_from_config(cell.joint_limits)
        self._shape, self._home = ArmShape(cell), np.array(cell.home_qpos)
        self._corners_board = board.corners_board()

    def __call__(self, T_base_tool: Float[np.ndarray, "4 4"]) -> bool:
        """Whether some configuration will do."""
        return self.joints(T_base_tool) is not None

    def joints(self, T_base_tool: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, " 6"] | None:
        """Of the configurations (rad) that will do, the nearest to the cell's home; None where there is none."""
        for qpos in self._configurations(T_base_tool):
            arm = self._shape.place(qpos, self._cell.gripper.opening_max_m).without_tool()
            if self._clears_table(arm) and self._shows_board(T_base_tool, arm):
                return qpos
        return None

    def _configurations(self, T_base_tool: Float[np.ndarray, "4 4"]) -> Iterator[Float[np.ndarray, " 6"]]:
        """Those within the limits, nearest to home first."""
        try:
            solutions = inverse_kinematics(T_base_tool, q6_hint=float(self._home[5]))
        except UnreachableError:
            return
        turned = nearest_turns(solutions, self._home, self._limits)
        allowed = turned[self._limits.contain(turned, LIMIT_MARGIN_RAD)]
        yield from allowed[np.argsort(np.linalg.norm(allowed - self._home, axis=1), kind="stable")]

    def _clears_table(self, arm: PlacedArm) -> bool:
        """Of the upper arm and all after it; base and shoulder stand on the table anyway."""
        lowest = np.minimum(arm.starts, arm.ends)[_MOVING, 2] - arm.radii_m[_MOVING]
        return bool(lowest.min() >= self._cell.table.height_m + TABLE_CLEARANCE_M)

    def _shows_board(self, T_base_tool: Float[np.ndarray, "4 4"], arm: PlacedArm) -> bool:
        """A camera beside the arm must see all corners past it; one on the tool has nothing of the arm before it."""
        if self._guess.setting is Setting.EYE_IN_HAND:
            return True
        corners = apply_transform(T_base_tool @ self._guess.Z, self._corners_board)
        return not lines_cut(self._guess.X[:3, 3], corners, arm).any()
