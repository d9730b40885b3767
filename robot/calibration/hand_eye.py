"""Hand-eye calibration: where the camera sits on the tool, or beside the arm, from poses of tool and board.

Eye in hand: the camera is on the tool, the board lies still in the cell. Eye to hand: the camera stands still, the
board is on the tool. Both are one equation, T_camera_board = inverse(X) G Z, with
    eye in hand:  X = T_tool_camera,  Z = T_base_board,  G = inverse(T_base_tool)
    eye to hand:  X = T_base_camera,  Z = T_tool_board,  G = T_base_tool.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from jaxtyping import Float
from typing_extensions import assert_never

from robot.calibration.ax_xb import ClosedForm, relative_motions, solve_ax_xb
from robot.calibration.degeneracy import MIN_POSES
from robot.errors import CalibrationError
from robot.transforms import inverse, make_transform, nearest_rotation, require_transform, rotation_to_rotvec

MAX_PLAUSIBLE_M = 20.0


class Setting(Enum):
    """Where the camera is."""

    EYE_IN_HAND = "eye-in-hand"
    EYE_TO_HAND = "eye-to-hand"


@dataclass(frozen=True, slots=True, eq=False)
class PosePairs:
    """Poses of the tool in the base frame and of the board in the camera frame (m), taken at the same moments.

    Raises TransformError for what is no rigid transform (mirrored, sheared, NaN), naming the sample, and
    CalibrationError for too few samples and for lengths that can only be millimetres.
    """

    T_base_tool: Float[np.ndarray, "N 4 4"]
    T_camera_board: Float[np.ndarray, "N 4 4"]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        for poses, what in ((self.T_base_tool, "T_base_tool"), (self.T_camera_board, "T_camera_board")):
            for name, T in zip(self.names, poses, strict=True):
                require_transform(T, f"{what} of sample {name}")
                if np.abs(T[:3, 3]).max() > MAX_PLAUSIBLE_M:
                    raise CalibrationError(
                        f"{what} of sample {name} is {np.linalg.norm(T[:3, 3]):g} m away: expected metres, are these "
                        "millimetres?"
                    )
        if len(self.names) < MIN_POSES:
            raise CalibrationError(
                f"expected at least {MIN_POSES} samples, better 15, got {len(self.names)}: record more poses, each "
                "turned by 20 to 60 degrees about another axis"
            )

    def __len__(self) -> int:
        return len(self.names)

    def without(self, index: int) -> PosePairs:
        """All samples but one."""
        keep = np.arange(len(self)) != index
        names = tuple(name for name, is_kept in zip(self.names, keep, strict=True) if is_kept)
        return PosePairs(self.T_base_tool[keep], self.T_camera_board[keep], names)


@dataclass(frozen=True, slots=True, eq=False)
class HandEye:
    """A solution: X and Z of the equation above, by the names that they have in each setting (m)."""

    setting: Setting
    X: Float[np.ndarray, "4 4"]
    Z: Float[np.ndarray, "4 4"]

    @property
    def names(self) -> tuple[str, str]:
        """What X and Z are."""
        match self.setting:
            case Setting.EYE_IN_HAND:
                return "T_tool_camera", "T_base_board"
            case Setting.EYE_TO_HAND:
                return "T_base_camera", "T_tool_board"
            case _:
                assert_never(self.setting)

    def predict(self, T_base_tool: Float[np.ndarray, "*batch 4 4"]) -> Float[np.ndarray, "*batch 4 4"]:
        """T_camera_board that the camera must see with the tool there."""
        return inverse(self.X) @ tool_motion(T_base_tool, self.setting) @ self.Z


def tool_motion(T_base_tool: Float[np.ndarray, "*batch 4 4"], setting: Setting) -> Float[np.ndarray, "*batch 4 4"]:
    """G of the equation above."""
    match setting:
        case Setting.EYE_IN_HAND:
            return inverse(T_base_tool)
        case Setting.EYE_TO_HAND:
            return T_base_tool
        case _:
            assert_never(setting)


def solve_hand_eye(pairs: PosePairs, setting: Setting, method: ClosedForm) -> HandEye:
    """X by a closed form over all pairs of samples, Z as the mean over samples.

    Raises CalibrationError where the motions determine no X.
    """
    # With U = inverse(G): U_i X C_i = Z for every sample i, so inverse(U_i) U_j X = X C_i inverse(C_j) for every pair.
    unmoved = inverse(tool_motion(pairs.T_base_tool, setting))
    X = solve_ax_xb(relative_motions(unmoved), relative_motions(inverse(pairs.T_camera_board)), method)
    return HandEye(setting, X, mean_transform(unmoved @ X @ pairs.T_camera_board))


def mean_transform(transforms: Float[np.ndarray, "N 4 4"]) -> Float[np.ndarray, "4 4"]:
    """The rotation nearest to all rotations (chordal distance) and the mean translation."""
    return make_transform(nearest_rotation(transforms[:, :3, :3].mean(axis=0)), transforms[:, :3, 3].mean(axis=0))


def transform_errors(
    found: Float[np.ndarray, "*batch 4 4"], expected: Float[np.ndarray, "*batch 4 4"]
) -> tuple[Float[np.ndarray, "*batch"], Float[np.ndarray, "*batch"]]:
    """Distance of the origins (m) and angle between the axes (rad)."""
    distance = np.linalg.norm(found[..., :3, 3] - expected[..., :3, 3], axis=-1)
    turn = np.swapaxes(expected[..., :3, :3], -1, -2) @ found[..., :3, :3]
    return np.asarray(distance), np.asarray(np.linalg.norm(rotation_to_rotvec(turn), axis=-1))
