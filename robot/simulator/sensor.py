"""From light to grey levels: gain and white balance, gamma, blur and noise of the colour sensor."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import UInt8

from robot.simulator.appearance import ImageEffects


def develop(
    image_rgb: UInt8[np.ndarray, "H W 3"], effects: ImageEffects, rng: np.random.Generator
) -> UInt8[np.ndarray, "H W 3"]:
    """The picture that the sensor makes of a perfect one; noise is drawn from `rng`, everything else is fixed."""
    levels = np.arange(256, dtype=np.float64)[:, None] / 255.0
    table = 255.0 * np.clip(levels * np.array(effects.gain_rgb), 0, 1) ** effects.gamma
    lit = cv2.LUT(image_rgb, table.astype(np.float32)[None])
    if effects.blur_px > 0:
        lit = cv2.GaussianBlur(lit, (0, 0), effects.blur_px)
    if effects.noise > 0:
        lit += effects.noise * rng.standard_normal(lit.shape, np.float32)
    return np.clip(np.rint(lit, out=lit), 0, 255).astype(np.uint8)
