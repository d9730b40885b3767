"""Draw and detect ChArUco boards, and estimate their pose (PnP).

A ChArUco board is a chessboard with markers in its white squares: any part of it suffices, in any orientation.

Frame: origin at the outer corner of the first square, x along the columns, y along the rows, z into the board, as
OpenCV has it. Inner corners are numbered along the rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8
from pydantic import Field, model_validator

from handeye.robot.camera.intrinsics import Intrinsics
from handeye.robot.errors import CalibrationError
from handeye.robot.transforms import apply_transform, make_transform, rotvec_to_rotation
from handeye.vision.config import Config

MIN_CORNERS = 8
"""With fewer the pose is unreliable."""
MIN_MARKERS = 6
"""As many of one dictionary are no accident, and between them are corners."""


class MarkerDictionary(Enum):
    """Sets of markers by bits a side and size of the set; the values are OpenCV's names."""

    DICT_4X4_50 = "DICT_4X4_50"
    DICT_4X4_100 = "DICT_4X4_100"
    DICT_4X4_250 = "DICT_4X4_250"
    DICT_4X4_1000 = "DICT_4X4_1000"
    DICT_5X5_50 = "DICT_5X5_50"
    DICT_5X5_100 = "DICT_5X5_100"
    DICT_5X5_250 = "DICT_5X5_250"
    DICT_5X5_1000 = "DICT_5X5_1000"
    DICT_6X6_50 = "DICT_6X6_50"
    DICT_6X6_100 = "DICT_6X6_100"
    DICT_6X6_250 = "DICT_6X6_250"
    DICT_6X6_1000 = "DICT_6X6_1000"
    DICT_7X7_50 = "DICT_7X7_50"
    DICT_7X7_100 = "DICT_7X7_100"
    DICT_7X7_250 = "DICT_7X7_250"
    DICT_7X7_1000 = "DICT_7X7_1000"
    DICT_ARUCO_ORIGINAL = "DICT_ARUCO_ORIGINAL"
    DICT_ARUCO_MIP_36H12 = "DICT_ARUCO_MIP_36H12"
    DICT_APRILTAG_16H5 = "DICT_APRILTAG_16H5"
    DICT_APRILTAG_25H9 = "DICT_APRILTAG_25H9"
    DICT_APRILTAG_36H10 = "DICT_APRILTAG_36H10"
    DICT_APRILTAG_36H11 = "DICT_APRILTAG_36H11"

    @property
    def markers(self) -> cv2.aruco.Dictionary:
        """OpenCV's set of markers."""
        return cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, self.value))

    @property
    def num_markers(self) -> int:
        """Number of markers in the set."""
        return len(self.markers.bytesList)


class BoardConfig(Config):
    """A ChArUco board; the defaults fill a sheet of A4."""

    columns: int = Field(default=7, ge=3)
    """Squares along x, black and white."""
    rows: int = Field(default=10, ge=3)
    """Squares along y."""
    square_m: float = Field(default=0.025, gt=0)
    """Edge of a square. Measure it on the print: printers scale."""
    marker_m: float = Field(default=0.018, gt=0)
    """Edge of a marker's black border."""
    dictionary: MarkerDictionary = MarkerDictionary.DICT_5X5_100
    """Which markers are printed."""
    legacy_pattern: bool = False
    """Boards made by OpenCV before 4.6 with an even number of rows begin with a white square."""

    @model_validator(mode="after")
    def _can_be_printed(self) -> BoardConfig:
        if not 0.4 * self.square_m <= self.marker_m <= 0.9 * self.square_m:
            raise ValueError(
                f"marker_m must be 0.4 to 0.9 of square_m ({self.square_m:g} m), so that it can be read and has a "
                f"white margin, got {self.marker_m:g}"
            )
        needed = self.columns * self.rows // 2
        if needed > self.dictionary.num_markers:
            raise ValueError(
                f"{self.columns} x {self.rows} squares need {needed} markers, {self.dictionary.value} has "
                f"{self.dictionary.num_markers}"
            )
        return self

    @property
    def size_m(self) -> tuple[float, float]:
        """Width along x and height along y."""
        return self.columns * self.square_m, self.rows * self.square_m

    @property
    def num_corners(self) -> int:
        """Inner corners of the chessboard."""
        return (self.columns - 1) * (self.rows - 1)

    def corners_board(self) -> Float[np.ndarray, "N 3"]:
        """Inner corners in the board's frame (m), by their number."""
        y, x = np.divmod(np.arange(self.num_corners), self.columns - 1)
        return np.stack([(x + 1) * self.square_m, (y + 1) * self.square_m, np.zeros(len(x))], axis=1)

    def build(self) -> cv2.aruco.CharucoBoard:
        """OpenCV's board."""
        board = cv2.aruco.CharucoBoard((self.columns, self.rows), self.square_m, self.marker_m, self.dictionary.markers)
        board.setLegacyPattern(self.legacy_pattern)
        return board


def draw_board(board: BoardConfig, square_px: int) -> UInt8[np.ndarray, "H W"]:
    """The board without a margin, each square square_px pixels wide: black 0, white 255."""
    size_wh = (board.columns * square_px, board.rows * square_px)
    return np.asarray(board.build().generateImage(size_wh, marginSize=0, borderBits=1), dtype=np.uint8)


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
    """Detects one kind of board; build it once, its marker tables are expensive."""

    def __init__(self, board: BoardConfig) -> None:
        self.board = board
        self._points = board.corners_board()
        self._detector: Any = cv2.aruco.CharucoDetector(board.build())
        self._unexplained: _Unexplained | None = None

    def __call__(self, image_rgb: UInt8[np.ndarray, "H W 3"], name: str = "image") -> BoardView | None:
        """The corners that are seen; None for fewer than MIN_CORNERS, or if all lie on one line of the board."""
        grey = cv2.cvtColor(image_rgb, cv2.COLOR_RGB2GRAY)
        pixels, ids, _, marker_ids = self._detector.detectBoard(grey)
        if ids is None or len(ids) < MIN_CORNERS:
            markers = 0 if marker_ids is None else len(marker_ids)
            if markers >= MIN_MARKERS and (self._unexplained is None or markers > self._unexplained.markers):
                self._unexplained = _Unexplained(name, grey, markers)
            return None
        corner_ids = np.asarray(ids).reshape(-1)
        rows, columns = np.divmod(corner_ids, self.board.columns - 1)
        if len(set(rows.tolist())) < 2 or len(set(columns.tolist())) < 2:
            return None
        pixels_uv = np.asarray(pixels, dtype=np.float64).reshape(-1, 2)
        return BoardView(name, corner_ids, pixels_uv, self._points[corner_ids])

    def explain(self) -> str | None:
        """What is wrong with the board where an image showed its markers without corners between them, else None."""
        if self._unexplained is None:
            return None
        seen, best, told = self._unexplained, MIN_CORNERS - 1, ""
        for change in self._variants():
            found = BoardDetector(self.board.model_copy(update=change))._detector.detectBoard(seen.grey)[1]
            if found is not None and len(found) > best:
                best = len(found)
                told = ", ".join(f"{key}: {str(value).lower()}" for key, value in change.items())
        what = f"{seen.name} shows {seen.markers} markers of the board, but hardly a corner between them"
        if told:
            return f"{what}; with {told} it shows {best} of {self.board.num_corners} corners"
        return f"{what}: are columns, rows, square_m and marker_m those of the print?"

    def _variants(self) -> list[dict[str, Any]]:
        """Boards with the same markers: of the other pattern, and with columns and rows exchanged."""
        other = {"legacy_pattern": not self.board.legacy_pattern}
        turned = {"columns": self.board.rows, "rows": self.board.columns}
        return [other, turned, turned | other]


@dataclass(frozen=True, slots=True, eq=False)
class _Unexplained:
    """The image with most markers among those without a view of the board."""

    name: str
    grey: UInt8[np.ndarray, "H W"]
    markers: int


@dataclass(frozen=True, slots=True, eq=False)
class BoardPose:
    """Where the board is (m), and how far its corners land from where they were seen (root mean square, px)."""

    T_camera_board: Float[np.ndarray, "4 4"]
    rms_px: float


def board_pose(view: BoardView, intrinsics: Intrinsics) -> BoardPose:
    """The pose with the smallest reprojection error. A distant plane has two that nearly fit; the better one is taken.

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
