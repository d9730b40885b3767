"""The residuals of a lens in one picture: a right lens leaves noise, a wrong one leaves a pattern of arrows."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import UInt8

from robot.calibration.lens import LensCalibration

MAGNIFICATION = 50.0


def draw_residuals(calibration: LensCalibration) -> UInt8[np.ndarray, "H W 3"]:
    """Each corner as an arrow to where the lens puts it, MAGNIFICATION times as long as it is; RGB on white."""
    height, width = calibration.intrinsics.size_hw
    picture = np.full((height, width, 3), 255, dtype=np.uint8)
    lengths = np.linalg.norm(calibration.residuals_px, axis=1)
    for start, residual, length in zip(calibration.pixels_uv, calibration.residuals_px, lengths, strict=True):
        share = min(1.0, float(length))  # red at a whole pixel
        end = start + MAGNIFICATION * residual
        first, last = ((int(round(x)), int(round(y))) for x, y in (start, end))
        colour = (int(255 * share), 60, int(255 * (1.0 - share)))
        cv2.arrowedLine(picture, first, last, colour, 1, cv2.LINE_AA, tipLength=0.25)
    words = f"rms {calibration.rms_px:.3f} px, arrows x{MAGNIFICATION:g}"
    cv2.putText(picture, words, (8, height - 10), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return picture
