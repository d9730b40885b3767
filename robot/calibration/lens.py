"""Calibrate camera intrinsics from images of a board (Zhang 2000), with coverage advice and residuals.

OpenCV does the fit; this module tells whether the images determine the lens, which of them do not fit the others, and
how certain the parameters are. Distortion is known only where corners were seen, focal length only from tilted boards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from typing_extensions import assert_never

from handeye.robot.calibration.board import BoardView, board_pose
from handeye.robot.camera.intrinsics import Intrinsics, Lens
from handeye.robot.errors import CalibrationError, CameraError
from handeye.robot.transforms import apply_transform

MIN_VIEWS = 6

GRID_ROWS, GRID_COLUMNS = 4, 4
MIN_TILT_RAD = math.radians(10.0)
WANTED_TILT_RAD = math.radians(20.0)
WANTED_TILTED_VIEWS = 4
WANTED_VIEWS = 12
_NAMES_ROWS = ("top", "upper middle", "lower middle", "bottom")
_NAMES_COLUMNS = ("far left", "left of the middle", "right of the middle", "far right")

MAGNIFICATION = 50.0


@dataclass(frozen=True, slots=True, eq=False)
class LensCalibration:
    """The lens, the root mean square error of each view (px), and of each corner its place and residual (px)."""

    intrinsics: Intrinsics
    view_rms_px: Float[np.ndarray, " N"]
    pixels_uv: Float[np.ndarray, "M 2"]
    residuals_px: Float[np.ndarray, "M 2"]
    focal_std_px: Float[np.ndarray, " 2"]
    """Standard deviation of fx and fy; NaN for fisheye lenses, for which OpenCV gives none."""

    @property
    def rms_px(self) -> float:
        """Root mean square over all corners."""
        return float(np.sqrt((self.residuals_px**2).sum(axis=1).mean()))


def rough_intrinsics(size_hw: tuple[int, int]) -> Intrinsics:
    """A guess before anything is known: 53 degrees wide, no distortion."""
    height, width = size_hw
    middle = (width - 1) / 2, (height - 1) / 2
    K = np.array([[float(width), 0.0, middle[0]], [0.0, float(width), middle[1]], [0.0, 0.0, 1.0]])
    return Intrinsics(K, size_hw)


def calibrate_lens(views: tuple[BoardView, ...], size_hw: tuple[int, int], lens: Lens) -> LensCalibration:
    """Fit a lens to views of one board in images of size_hw.

    Raises CalibrationError for fewer than MIN_VIEWS views, for views that all face the board squarely, from which
    focal length and distance cannot be told apart, and where the fit ends at no possible camera.
    """
    if len(views) < MIN_VIEWS:
        raise CalibrationError(
            f"the board is in {len(views)} images, expected at least {MIN_VIEWS}, better 20: take more, with the "
            "board in every part of the image and tilted by 20 to 45 degrees"
        )
    steepest = tilts_rad(views, rough_intrinsics(size_hw)).max()
    if steepest < MIN_TILT_RAD:
        raise CalibrationError(
            f"no image shows the board tilted by more than {np.rad2deg(steepest):.0f} degrees: focal length and "
            "distance cannot be told apart; tilt it by 20 to 45 degrees about both of its edges"
        )
    intrinsics, focal_std = _fit(views, size_hw, lens)
    poses = [board_pose(view, intrinsics).T_camera_board for view in views]
    residuals = [
        intrinsics.project(apply_transform(T, view.points_board)) - view.pixels_uv
        for T, view in zip(poses, views, strict=True)
    ]
    view_rms = np.array([np.sqrt((residual**2).sum(axis=1).mean()) for residual in residuals])
    pixels = np.concatenate([view.pixels_uv for view in views])
    return LensCalibration(intrinsics, view_rms, pixels, np.concatenate(residuals), focal_std)


@dataclass(frozen=True, slots=True, eq=False)
class Coverage:
    """Which cells of a grid over the image have corners, how many views there are, and how far each is tilted (rad)."""

    is_covered: Bool[np.ndarray, "rows columns"]
    tilts_rad: Float[np.ndarray, " N"]

    @property
    def fraction(self) -> float:
        """Part of the cells that have corners."""
        return float(self.is_covered.mean())

    def advice(self) -> list[str]:
        """Which images to take next, most needed first; empty when nothing is missing."""
        missing = []
        tilted = int((self.tilts_rad >= WANTED_TILT_RAD).sum())
        if tilted < WANTED_TILTED_VIEWS:
            missing.append(f"tilt the board by 20 to 45 degrees: {tilted} of {WANTED_TILTED_VIEWS} views do")
        for row, column in np.argwhere(~self.is_covered):
            missing.append(f"hold the board into the {_NAMES_ROWS[row]}, {_NAMES_COLUMNS[column]} of the image")
        if len(self.tilts_rad) < WANTED_VIEWS:
            missing.append(f"take more images: {len(self.tilts_rad)} of {WANTED_VIEWS} are there")
        return missing


def measure_coverage(views: tuple[BoardView, ...], intrinsics: Intrinsics) -> Coverage:
    """Coverage by the views of images of the size that the intrinsics have; rough ones are good enough."""
    height, width = intrinsics.size_hw
    is_covered = np.zeros((GRID_ROWS, GRID_COLUMNS), dtype=bool)
    for view in views:
        cells = (view.pixels_uv + 0.5) / (width, height) * (GRID_COLUMNS, GRID_ROWS)
        columns, rows = np.clip(cells.astype(int), 0, (GRID_COLUMNS - 1, GRID_ROWS - 1)).T
        is_covered[rows, columns] = True
    return Coverage(is_covered, tilts_rad(views, intrinsics))


def tilts_rad(views: tuple[BoardView, ...], intrinsics: Intrinsics) -> Float[np.ndarray, " N"]:
    """Angle between each board's normal and the camera's axis."""
    normals = np.array([board_pose(view, intrinsics).T_camera_board[2, 2] for view in views])
    return np.arccos(np.clip(normals, -1.0, 1.0))


def draw_residuals(calibration: LensCalibration) -> UInt8[np.ndarray, "H W 3"]:
    """Each corner as an arrow to where the lens puts it, MAGNIFICATION times as long as it is; RGB on white.

    A fitting lens leaves noise, a wrong one a pattern.
    """
    height, width = calibration.intrinsics.size_hw
    image = np.full((height, width, 3), 255, dtype=np.uint8)
    lengths = np.linalg.norm(calibration.residuals_px, axis=1)
    for start, residual, length in zip(calibration.pixels_uv, calibration.residuals_px, lengths, strict=True):
        share = min(1.0, float(length))  # red at a whole pixel
        end = start + MAGNIFICATION * residual
        first, last = ((int(round(x)), int(round(y))) for x, y in (start, end))
        colour = (int(255 * share), 60, int(255 * (1.0 - share)))
        cv2.arrowedLine(image, first, last, colour, 1, cv2.LINE_AA, tipLength=0.25)
    words = f"rms {calibration.rms_px:.3f} px, arrows x{MAGNIFICATION:g}"
    cv2.putText(image, words, (8, height - 10), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return image


def _fit(views: tuple[BoardView, ...], size_hw: tuple[int, int], lens: Lens) -> tuple[Intrinsics, np.ndarray]:
    size_wh, start = size_hw[::-1], rough_intrinsics(size_hw).K
    points: Any = [view.points_board.astype(np.float32)[:, None] for view in views]
    pixels: Any = [view.pixels_uv.astype(np.float32)[:, None] for view in views]
    try:
        match lens:
            case Lens.PINHOLE:
                # The first two returned are the error and K; deviations are of fx, fy and what follows.
                found: Any = cv2.calibrateCameraExtended(points, pixels, size_wh, start, np.zeros(5))
                K, distortion, focal_std = found[1], found[2].ravel(), found[5].ravel()[:2]
            case Lens.FISHEYE:
                flags = cv2.fisheye.CALIB_RECOMPUTE_EXTRINSIC | cv2.fisheye.CALIB_FIX_SKEW
                doubles: Any = [np.float64(each) for each in points], [np.float64(each) for each in pixels]
                fit: Any = cv2.fisheye.calibrate  # its stubs know no lists
                found = fit(*doubles, size_wh, start, np.zeros((4, 1)), flags=flags)
                K, distortion, focal_std = found[1], found[2].ravel(), np.full(2, np.nan)
            case _:
                assert_never(lens)
        return Intrinsics(np.asarray(K, float), size_hw, np.asarray(distortion, float), lens=lens), focal_std
    except (cv2.error, CameraError) as error:
        reason = " ".join(str(error).split())
        raise CalibrationError(
            f"no {lens.value} lens explains the corners, or too few views differ: {reason}"
        ) from error
