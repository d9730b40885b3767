"""Exact images of a board through any lens: each pixel's ray meets the board's plane, and a sensor adds its faults.

This is the ground truth that calibration is measured against.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from handeye.robot.calibration.board import BoardConfig, draw_board
from handeye.robot.camera.intrinsics import Intrinsics
from handeye.robot.transforms import inverse

_BACKGROUND = 140.0


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
