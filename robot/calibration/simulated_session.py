"""A whole hand-eye calibration without an arm: rendered boards, tool poses with errors, and the truth to compare with.

It tells before the first real image how accurate a board, a lens and an arm can make the calibration.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from handeye.robot.calibration.board import BoardDetector, BoardView, board_pose
from handeye.robot.calibration.hand_eye import HandEye, PosePairs, Setting
from handeye.robot.calibration.poses import ViewSpread, random_views, suggest_poses, tool_poses
from handeye.robot.calibration.refinement import NoiseLevels
from handeye.robot.calibration.rendered_board import BoardRenderer, SensorFaults
from handeye.robot.errors import CalibrationError
from handeye.robot.transforms import make_transform, rotvec_to_rotation

_CANDIDATES = 120
_GUESS = NoiseLevels(tool_m=0.01, tool_rad=0.03)


@dataclass(frozen=True, slots=True, eq=False)
class Session:
    """What a user would have recorded, and the truth."""

    pairs: PosePairs
    views: tuple[BoardView, ...]
    truth: HandEye


def simulate_session(
    renderer: BoardRenderer, setting: Setting, num_poses: int, noise: NoiseLevels, faults: SensorFaults, seed: int
) -> Session:
    """Suggested poses for a guess of X and Z that is off by a few centimetres and degrees, as a user would follow them.

    The tool poses that are reported are wrong by `noise`, of which corner_px plays no part: the images have `faults`.
    Raises CalibrationError where the renderer's board is not found in its own image: too small, or too much noise.
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
        if view is None:
            raise CalibrationError("the board is not found in its own image: less noise, or a larger board")
        views.append(view)
    seen = np.stack([board_pose(view, intrinsics).T_camera_board for view in views])
    reported = T_base_tool @ _pose_errors(num_poses, noise, rng)
    return Session(PosePairs(reported, seen, tuple(view.name for view in views)), tuple(views), truth)


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
