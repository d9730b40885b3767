"""Suggest arm poses for hand-eye calibration: the views of the board that most reduce the covariance of X.

Candidates look at the board from a cap of directions with all rolls. They are chosen one after the other, each the
one that makes the expected covariance of X smallest (greedy A-optimal design, e.g. Pukelsheim 1993); rotation
about several axes follows from that. Poses are checked for reach, joint limits, clearance of the table and occlusion by
the arm; other obstacles are not known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from handeye.robot.calibration.board import BoardConfig
from handeye.robot.calibration.hand_eye import HandEye, Setting
from handeye.robot.calibration.refinement import NUM_SHARED, NoiseLevels, Reprojection, measure
from handeye.robot.camera.intrinsics import Intrinsics
from handeye.robot.config import WorkCellConfig
from handeye.robot.errors import CalibrationError, UnreachableError
from handeye.robot.kinematics.collision_geometry import UR10E_PARTS, ArmShape, PlacedArm, lines_cut
from handeye.robot.kinematics.limits import joint_limits_from_config
from handeye.robot.kinematics.ur10e_ik import inverse_kinematics, nearest_turns
from handeye.robot.transforms import apply_transform, inverse, make_transform, rotvec_to_rotation

IsReachable = Callable[[Float[np.ndarray, "4 4"]], bool]
"""Whether the arm can take a tool pose T_base_tool."""

LIMIT_MARGIN_RAD = 0.05
"""Suggested configurations stay this far from the joint limits."""
TABLE_CLEARANCE_M = 0.02
_MOVING = slice(sum(part.link < 2 for part in UR10E_PARTS), None)
_BATCHES = 10
_IMAGE_MARGIN = 0.04  # of the image's size: corners nearer to its border may be lost by small errors of the guess
_LEVER_M = 0.4  # a rotation error counts as the error that it makes of a point so far away
# Prior before the first image: the accuracy of a ruler, and roughly which way the camera looks.
_PRIOR_M, _PRIOR_RAD = 0.1, 0.3


@dataclass(frozen=True, slots=True)
class ViewSpread:
    """From where candidates look at the board: distance (m), angle to its normal and roll (rad), and how far beside
    the image's middle the board's centre may be (part of the image's size).
    """

    distance_m: tuple[float, float] = (0.3, 0.55)
    tilt_rad: float = math.radians(50.0)
    roll_rad: float = math.radians(170.0)
    offset: float = 0.15


def random_views(
    board: BoardConfig, intrinsics: Intrinsics, spread: ViewSpread, number: int, rng: np.random.Generator
) -> Float[np.ndarray, "number 4 4"]:
    """T_camera_board of views that keep the whole board in the image.

    Raises CalibrationError when hardly any view does: the board is too large or too near.
    """
    views: list[np.ndarray] = []
    for _ in range(100 * number):
        view = _random_view(board, intrinsics, spread, rng)
        if shows_board(view[None], board, intrinsics)[0]:
            views.append(view)
        if len(views) == number:
            return np.stack(views)
    low, high = spread.distance_m
    raise CalibrationError(
        f"the board of {board.size_m[0]:g} x {board.size_m[1]:g} m does not fit into the image from {low:g} to "
        f"{high:g} m away: look from farther away, or take a smaller board"
    )


def shows_board(
    T_camera_board: Float[np.ndarray, "N 4 4"], board: BoardConfig, intrinsics: Intrinsics
) -> Bool[np.ndarray, " N"]:
    """Whether all corners lie in the image, a little away from its border, and the board shows its face."""
    height, width = intrinsics.size_hw
    border = _IMAGE_MARGIN * np.array([width, height])
    inside = []
    for T in T_camera_board:
        pixels = intrinsics.project(apply_transform(T, board.corners_board()))
        seen = (pixels > border) & (pixels < np.array([width, height]) - border)  # NaN is neither
        faces = T[:3, 2] @ T[:3, 3] > 0.0
        inside.append(bool(seen.all() and faces))
    return np.array(inside, dtype=bool)


def tool_poses(T_camera_board: Float[np.ndarray, "N 4 4"], guess: HandEye) -> Float[np.ndarray, "N 4 4"]:
    """T_base_tool for these views of the board: G = X C inverse(Z)."""
    G = guess.X @ T_camera_board @ inverse(guess.Z)
    return inverse(G) if guess.setting is Setting.EYE_IN_HAND else G


def reachable_candidates(
    guess: HandEye,
    board: BoardConfig,
    intrinsics: Intrinsics,
    spread: ViewSpread,
    number: int,
    rng: np.random.Generator,
    *,
    is_reachable: IsReachable,
) -> Float[np.ndarray, "K 4 4"]:
    """T_base_tool of random views that show the board and can be reached: `number`, or fewer where few can be.

    Raises CalibrationError as `random_views` does.
    """
    found: list[np.ndarray] = []
    for _ in range(_BATCHES):
        poses = tool_poses(random_views(board, intrinsics, spread, number, rng), guess)
        reached = [T for T in poses if is_reachable(T)]
        found += reached
        if not reached or len(found) >= number:
            break
    return np.array(found[:number]).reshape(-1, 4, 4)


def suggest_poses(
    guess: HandEye,
    board: BoardConfig,
    intrinsics: Intrinsics,
    candidates_base_tool: Float[np.ndarray, "K 4 4"],
    number: int,
    *,
    taken_base_tool: Float[np.ndarray, "N 4 4"] | None = None,
    noise: NoiseLevels | None = None,
    is_reachable: IsReachable = lambda _: True,
) -> Float[np.ndarray, "number 4 4"]:
    """The `number` candidates (T_base_tool) with the most information about X, given those already taken, best first.

    Raises CalibrationError when fewer candidates show the whole board and are reachable.
    """
    levels = NoiseLevels() if noise is None else noise
    visible = shows_board(guess.predict(candidates_base_tool), board, intrinsics)
    usable = [T for T, is_visible in zip(candidates_base_tool, visible, strict=True) if is_visible and is_reachable(T)]
    if len(usable) < number:
        raise CalibrationError(
            f"only {len(usable)} candidate poses show the whole board and can be reached, {number} are wanted: put the "
            "board nearer to the middle of the arm's reach, or look at it from other distances"
        )
    information = np.diag(np.repeat([_PRIOR_M, _PRIOR_RAD, _PRIOR_M, _PRIOR_RAD], 3) ** -2.0)
    for T in () if taken_base_tool is None else taken_base_tool:
        information = information + _information(guess, board, intrinsics, T, levels)
    gains = [_information(guess, board, intrinsics, T, levels) for T in usable]
    chosen: list[int] = []
    for _ in range(number):
        left = [index for index in range(len(usable)) if index not in chosen]
        best = min(left, key=lambda index: _expected_error_m2(information + gains[index]))
        chosen.append(best)
        information = information + gains[best]
    return np.stack([usable[index] for index in chosen])


class ReachablePoses:
    """Tests tool poses against a cell's arm, with camera and board about where `guess` has them."""

    def __init__(self, cell: WorkCellConfig, guess: HandEye, board: BoardConfig) -> None:
        self._cell, self._guess = cell, guess
        self._limits = joint_limits_from_config(cell.joint_limits)
        self._shape, self._home = ArmShape(cell), np.array(cell.home_qpos)
        self._corners_board = board.corners_board()

    def __call__(self, T_base_tool: Float[np.ndarray, "4 4"]) -> bool:
        """Whether some configuration is usable."""
        return self.joints(T_base_tool) is not None

    def joints(self, T_base_tool: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, " 6"] | None:
        """The usable configuration (rad) nearest to home; None if there is none."""
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


def _random_view(
    board: BoardConfig, intrinsics: Intrinsics, spread: ViewSpread, rng: np.random.Generator
) -> Float[np.ndarray, "4 4"]:
    azimuth, tilt = rng.uniform(-np.pi, np.pi), spread.tilt_rad * np.sqrt(rng.uniform())
    lean = rotvec_to_rotation(tilt * np.array([np.cos(azimuth), np.sin(azimuth), 0.0]))
    roll = rotvec_to_rotation(np.array([0.0, 0.0, rng.uniform(-spread.roll_rad, spread.roll_rad)]))
    R = roll @ lean
    middle = (np.array(intrinsics.size_hw[::-1]) - 1.0) / 2.0
    pixel = middle + rng.uniform(-spread.offset, spread.offset, 2) * np.array(intrinsics.size_hw[::-1])
    centre_camera = rng.uniform(*spread.distance_m) * intrinsics.directions(pixel)
    centre_board = np.array([*board.size_m, 0.0]) / 2.0
    return make_transform(R, centre_camera - R @ centre_board)


def _information(
    guess: HandEye, board: BoardConfig, intrinsics: Intrinsics, T_base_tool: np.ndarray, noise: NoiseLevels
) -> Float[np.ndarray, "12 12"]:
    """Fisher information of one sample about X and Z, its pose correction marginalised out (Schur complement)."""
    points = board.corners_board()
    pixels = intrinsics.project(apply_transform(guess.predict(T_base_tool), points))
    problem = Reprojection(guess, T_base_tool[None], (measure(points, pixels, intrinsics),))
    J = problem.jacobian_px(np.zeros(problem.num_parameters)) / noise.corner_px
    full = J.T @ J
    full[NUM_SHARED:, NUM_SHARED:] += np.diag(np.repeat([noise.tool_m, noise.tool_rad], 3) ** -2.0)
    shared, cross, own = full[:NUM_SHARED, :NUM_SHARED], full[:NUM_SHARED, NUM_SHARED:], full[NUM_SHARED:, NUM_SHARED:]
    return shared - cross @ np.linalg.solve(own, cross.T)


def _expected_error_m2(information: Float[np.ndarray, "12 12"]) -> float:
    """Expected square error (m^2) of a point _LEVER_M in front of the camera."""
    variances = np.diag(np.linalg.inv(information))[:6]
    return float(variances[:3].sum() + _LEVER_M**2 * variances[3:].sum())
