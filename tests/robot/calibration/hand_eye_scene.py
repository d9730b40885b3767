"""Samples without images: corners projected exactly, with as much noise as a test asks for."""

from __future__ import annotations

import numpy as np

from handeye.robot.calibration.board import BoardConfig
from handeye.robot.calibration.hand_eye import HandEye, PosePairs, Setting
from handeye.robot.calibration.poses import ViewSpread, random_views, tool_poses
from handeye.robot.calibration.refinement import BoardMeasurement, NoiseLevels, measure
from handeye.robot.camera.intrinsics import Intrinsics
from handeye.robot.transforms import apply_transform, make_transform, rotvec_to_rotation
from tests.robot.calibration.simulated_session import random_truth

INTRINSICS = Intrinsics(
    np.array([[600.0, 0.0, 320.5], [0.0, 602.0, 238.0], [0.0, 0.0, 1.0]]),
    (480, 640),
    np.array([-0.05, 0.06, -0.0007, 0.0004, -0.02]),
)
BOARD = BoardConfig()
EXACT = NoiseLevels(0.0, 0.0, 0.0)


def make_samples(
    setting: Setting, number: int, noise: NoiseLevels, seed: int
) -> tuple[HandEye, PosePairs, tuple[BoardMeasurement, ...]]:
    """The truth, the poses as reported (those of the board as they really are), and what the camera measured."""
    rng = np.random.default_rng(seed)
    truth = random_truth(setting, rng)
    C = random_views(BOARD, INTRINSICS, ViewSpread(), number, rng)
    turns = rotvec_to_rotation(rng.normal(0.0, noise.tool_rad, (number, 3)))
    errors = make_transform(turns, rng.normal(0.0, noise.tool_m, (number, 3)))
    points = BOARD.corners_board()
    measurements = []
    for T in C:
        pixels = INTRINSICS.project(apply_transform(T, points))
        measurements.append(measure(points, pixels + rng.normal(0.0, noise.corner_px, pixels.shape), INTRINSICS))
    names = tuple(f"{index:02d}" for index in range(number))
    return truth, PosePairs(tool_poses(C, truth) @ errors, C, names), tuple(measurements)
