"""Samples for a hand-eye calibration from disk: pictures beside the tool's poses, or pairs of poses."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robot.calibration.board import BoardConfig
from robot.calibration.charuco import BoardDetector, board_pose
from robot.calibration.hand_eye import PosePairs
from robot.calibration.reprojection import BoardMeasurement, measure, measure_pose
from robot.camera.intrinsics import Intrinsics
from robot.config import PoseConfig
from robot.transforms import nearest_transform
from vision.config import Config, load_config
from vision.errors import UserError
from vision.images import read_image

POSES_FILE = "poses.yaml"
_PRINTED_DIGITS = 1e-3  # rotations in files are rounded; what is farther from a rotation was never one


class PosesFile(Config):
    """poses.yaml in a folder of pictures."""

    poses: dict[str, PoseConfig]
    """T_base_tool at the moment of each picture, by the picture's file name."""


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Pairs of poses with what the camera measured, and the pictures in which no board was found."""

    pairs: PosePairs
    measurements: tuple[BoardMeasurement, ...]
    without_board: tuple[str, ...]


def load_session(folder: Path, board: BoardConfig, intrinsics: Intrinsics) -> Samples:
    """Pictures and poses.yaml from a folder. Raises UserError for files that are missing, broken or do not fit."""
    poses = load_config(PosesFile, folder / POSES_FILE).poses
    detector, names, without = BoardDetector(board), [], []
    T_base_tool, T_camera_board, measurements = [], [], []
    for name, pose in poses.items():
        image = read_image(folder / name)
        intrinsics.check_image(image)
        view = detector(image, name)
        if view is None:
            without.append(name)
            continue
        names.append(name)
        T_base_tool.append(pose.matrix())
        T_camera_board.append(board_pose(view, intrinsics).T_camera_board)
        measurements.append(measure(view.points_board, view.pixels_uv, intrinsics))
    if not names:
        raise UserError(f"{folder}: none of its {len(poses)} pictures shows the board; is it the right --board?")
    pairs = PosePairs(np.stack(T_base_tool), np.stack(T_camera_board), tuple(names))
    return Samples(pairs, tuple(measurements), tuple(without))


def load_pose_pairs(path: Path) -> Samples:
    """A JSON list of [T_base_tool, T_camera_board], 4 x 4 each in m, as MoveIt's calibration saves them.

    Raises UserError for another form and TransformError for matrices that are no rigid transforms.
    """
    try:
        recorded = np.array(json.loads(path.read_text(encoding="utf-8")), dtype=np.float64)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: expected a JSON list of pairs of 4 x 4 matrices: {error}") from error
    if recorded.ndim != 4 or recorded.shape[1:] != (2, 4, 4):
        raise UserError(f"{path}: expected a list of [T_base_tool, T_camera_board], 4 x 4 each, got {recorded.shape}")
    rigid = np.stack(
        [
            nearest_transform(pair, _PRINTED_DIGITS, f"{path}: sample {number}, [T_base_tool, T_camera_board]")
            for number, pair in enumerate(recorded)
        ]
    )
    pairs = PosePairs(rigid[:, 0], rigid[:, 1], tuple(str(number) for number in range(len(rigid))))
    return Samples(pairs, tuple(measure_pose(T) for T in pairs.T_camera_board), ())
