"""Ground truth for calibration: boards rendered through any lens with sensor errors, and whole hand-eye sessions.

Each pixel is the intersection of its ray with the board's plane; tool poses are reported with errors.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from handeye.robot.calibration.board import BoardConfig, BoardDetector, BoardView, board_pose, draw_board
from handeye.robot.calibration.hand_eye import HandEye, PosePairs, Setting
from handeye.robot.calibration.poses import ViewSpread, random_views, suggest_poses, tool_poses
from handeye.robot.calibration.refinement import NoiseLevels
from handeye.robot.camera.intrinsics import Intrinsics
from handeye.robot.transforms import inverse, make_transform, rotvec_to_rotation

_BACKGROUND = 140.0
_CANDIDATES = 120
_GUESS = NoiseLevels(tool_m=0.01, tool_rad=0.03)


@dataclass(frozen=True, slots=True)
class SensorFaults:
    """Of the simulated sensor: blur (standard deviation, px), noise of a pixel (grey levels), contrast and offset."""

    blur_px: float = 0.7
    noise_levels: float = 3.0
    black: float = 35.0
    white: float = 215.0


class BoardRenderer:
    """Draws one board through one lens; the rays are computed once. Each pixel is the mean of oversampling^2 rays."""

    def __init__(self, board: BoardConfig, intrinsics: Intrinsics, *, oversampling: int = 2) -> None:
        self.board, self.intrinsics, self._oversampling = board, intrinsics, oversampling
        height, width = intrinsics.size_hw
        fine = intrinsics.rescale((height * oversampling, width * oversampling))
        rows, columns = np.indices(fine.size_hw, dtype=np.float64)
        self._rays = fine.directions(np.stack([columns, rows], axis=-1))
        self._square_px = 96
        margin = np.pad(draw_board(board, self._square_px), self._square_px // 2, constant_values=255)
        self._texture = margin.astype(np.float32)

    def render(
        self, T_camera_board: Float[np.ndarray, "4 4"], faults: SensorFaults, rng: np.random.Generator
    ) -> UInt8[np.ndarray, "H W 3"]:
        """The board before a grey wall; a margin of half a square around it is white."""
        T_board_camera = inverse(T_camera_board)
        directions, origin = self._rays @ T_board_camera[:3, :3].T, T_board_camera[:3, 3]
        with np.errstate(divide="ignore", invalid="ignore"):
            depth = -origin[2] / directions[..., 2]
            place_m = origin[:2] + depth[..., None] * directions[..., :2]
        # Texel k spans k / n to (k + 1) / n squares, and its centre is what OpenCV's map calls k.
        texel = place_m / self.board.square_m * self._square_px + 0.5 * self._square_px - 0.5
        texel = np.where(np.isfinite(texel) & (depth > 0.0)[..., None], texel, -1e6).astype(np.float32)
        perfect = cv2.remap(
            faults.black + self._texture * ((faults.white - faults.black) / 255.0),
            np.ascontiguousarray(texel[..., 0]),
            np.ascontiguousarray(texel[..., 1]),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=_BACKGROUND,
        )
        height, width = self.intrinsics.size_hw
        image = cv2.resize(perfect, (width, height), interpolation=cv2.INTER_AREA)
        if faults.blur_px > 0.0:
            image = cv2.GaussianBlur(image, (0, 0), faults.blur_px)
        noisy = image + rng.normal(0.0, faults.noise_levels, image.shape)
        return np.repeat(np.clip(np.round(noisy), 0, 255).astype(np.uint8)[..., None], 3, axis=-1)


@dataclass(frozen=True, slots=True, eq=False)
class SimulatedSession:
    """What a user would have recorded, and the truth."""

    pairs: PosePairs
    views: tuple[BoardView, ...]
    truth: HandEye


def simulate_session(
    renderer: BoardRenderer, setting: Setting, num_poses: int, noise: NoiseLevels, faults: SensorFaults, seed: int
) -> SimulatedSession:
    """Poses suggested for a guess of X and Z that is off by a few centimetres and degrees, and what is recorded there.

    Reported tool poses have errors of `noise` (but corner_px), images those of `faults`.
    """
    rng = np.random.default_rng(seed)
    board, intrinsics = renderer.board, renderer.intrinsics
    truth = random_truth(setting, rng)
    guess = HandEye(setting, truth.X @ _pose_errors(1, _GUESS, rng)[0], truth.Z @ _pose_errors(1, _GUESS, rng)[0])
    candidates = tool_poses(random_views(board, intrinsics, ViewSpread(), _CANDIDATES, rng), guess)
    T_base_tool = suggest_poses(guess, board, intrinsics, candidates, num_poses, noise=noise)
    detector, views = BoardDetector(board), []
    for number, T in enumerate(truth.predict(T_base_tool)):
        view = detector(renderer.render(T, faults, rng), f"simulated {number}")
        assert view is not None, "the board is too small, or the noise too large"
        views.append(view)
    seen = np.stack([board_pose(view, intrinsics).T_camera_board for view in views])
    reported = T_base_tool @ _pose_errors(num_poses, noise, rng)
    return SimulatedSession(PosePairs(reported, seen, tuple(view.name for view in views)), tuple(views), truth)


def random_truth(setting: Setting, rng: np.random.Generator) -> HandEye:
    """A camera within a hand's breadth of the tool, or a metre from the base, each turned at random."""
    R_X, R_Z = (rotvec_to_rotation(rng.uniform(-1.0, 1.0, 3)) for _ in range(2))
    near, far = rng.uniform(-0.1, 0.1, 3), rng.uniform(0.4, 0.8, 3)
    match setting:
        case Setting.EYE_IN_HAND:
            return HandEye(setting, make_transform(R_X, near), make_transform(R_Z, far))
        case Setting.EYE_TO_HAND:
            return HandEye(setting, make_transform(R_X, far), make_transform(R_Z, near))


def _pose_errors(number: int, noise: NoiseLevels, rng: np.random.Generator) -> Float[np.ndarray, "number 4 4"]:
    turns = rotvec_to_rotation(rng.normal(0.0, noise.tool_rad, (number, 3)))
    return make_transform(turns, rng.normal(0.0, noise.tool_m, (number, 3)))
