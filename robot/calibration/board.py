"""The ChArUco board: a chessboard whose white squares carry markers, so that a part of it is enough and never turned.

Frame: origin at the outer corner of the first square, x along the columns, y along the rows, z into the board, as
OpenCV has it. Inner corners are numbered along the rows.
"""

from __future__ import annotations

from enum import Enum

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from pydantic import Field, model_validator

from vision.config import Config


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
    DICT_6X6_250 = "DICT_6X6_250"
    DICT_6X6_1000 = "DICT_6X6_1000"
    DICT_APRILTAG_36H11 = "DICT_APRILTAG_36H11"

    @property
    def markers(self) -> cv2.aruco.Dictionary:
        """OpenCV's set of markers."""
        return cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, self.value))

    @property
    def num_markers(self) -> int:
        """How many markers the set has."""
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
