"""Finding the board in an image: its corners to a fraction of a pixel, and from them where it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from robot.calibration.board import BoardConfig
from robot.camera.intrinsics import Intrinsics
from robot.errors import CalibrationError
from robot.transforms import apply_transform, make_transform, rotvec_to_rotation

MIN_CORNERS = 8
"""Fewer leave a pose that is hardly better than none."""


@dataclass(frozen=True, slots=True, eq=False)
class BoardView:
    """Corners of one image: their numbers, where they are in the image (px) and on the board (m)."""

    name: str
    corner_ids: Int[np.ndarray, " n"]
    pixels_uv: Float[np.ndarray, "n 2"]
    points_board: Float[np.ndarray, "n 3"]

    def __len__(self) -> int:
        return len(self.corner_ids)


class BoardDetector:
    """Finds one kind of board; building it once saves the tables of its markers."""

    def __init__(self, board: BoardConfig) -> None:
        self.board = board
        self._points = board.corners_board()
        self._detector: Any = cv2.aruco.CharucoDetector(board.build())

    def __call__(self, image_rgb: UInt8[np.ndarray, "H W 3"], name: str = "image") -> BoardView | None:
        """The corners that are seen; None with fewer than MIN_CORNERS, or when all lie on one line of the board."""
        grey = cv2.cvtColor(image_rgb, cv2.COLOR_RGB2GRAY)
        pixels, ids, _, _ = self._detector.detectBoard(grey)
        if ids is None or len(ids) < MIN_CORNERS:
            return None
        corner_ids = np.asarray(ids).reshape(-1)
        rows, columns = np.divmod(corner_ids, self.board.columns - 1)
        if len(set(rows.tolist())) < 2 or len(set(columns.tolist())) < 2:
            return None
        pixels_uv = np.asarray(pixels, dtype=np.float64).reshape(-1, 2)
        return BoardView(name, corner_ids, pixels_uv, self._points[corner_ids])


@dataclass(frozen=True, slots=True, eq=False)
class BoardPose:
    """Where the board is (m), and how far its corners land from where they were seen (root mean square, px)."""

    T_camera_board: Float[np.ndarray, "4 4"]
    rms_px: float


def board_pose(view: BoardView, intrinsics: Intrinsics) -> BoardPose:
    """The pose that explains the corners best. A plane seen from far away has two that nearly do; the better one wins.

    Raises CalibrationError for corners in front of no plane, which a board of another kind or a wrong K give.
    """
    straight = np.ascontiguousarray(intrinsics.directions(view.pixels_uv)[:, :2])
    if not np.isfinite(straight).all():
        raise CalibrationError(f"{view.name}: corners lie where the lens's distortion model folds over")
    candidates = cv2.solvePnPGeneric(view.points_board, straight, np.eye(3), None, flags=cv2.SOLVEPNP_IPPE)
    poses = []
    for rvec, tvec in zip(candidates[1], candidates[2], strict=True):
        rvec, tvec = cv2.solvePnPRefineLM(view.points_board, straight, np.eye(3), np.zeros(4), rvec, tvec)
        T = make_transform(rotvec_to_rotation(np.asarray(rvec, float).ravel()), np.asarray(tvec, float).ravel())
        poses.append(BoardPose(T, reprojection_rms_px(view, intrinsics, T)))
    poses = [pose for pose in poses if np.isfinite(pose.rms_px)]
    if not poses:
        raise CalibrationError(f"{view.name}: no pose of the board explains its corners")
    return min(poses, key=lambda pose: pose.rms_px)


def reprojection_rms_px(view: BoardView, intrinsics: Intrinsics, T_camera_board: Float[np.ndarray, "4 4"]) -> float:
    """Root mean square distance (px) between corners seen and projected; NaN when one is behind the camera."""
    projected = intrinsics.project(apply_transform(T_camera_board, view.points_board))
    return float(np.sqrt(((projected - view.pixels_uv) ** 2).sum(axis=1).mean()))
