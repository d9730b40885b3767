"""From light to grey levels: gain and white balance, gamma, blur and noise of the colour sensor."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from scipy.stats import norm

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
    # Adding, rounding and clipping in one pass.
    return cv2.add(lit, gaussian_noise(lit.shape, effects.noise, rng), dtype=cv2.CV_8U)


def gaussian_noise(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> Float32[np.ndarray, "..."]:
    """Independent normal numbers in 256 steps, cut off at 2.9 sigma: ten times as fast as exact ones, and as good here.

    Each is the normal distribution's quantile of a random byte; the steps' variance is made exact.
    """
    quantiles = norm.ppf((np.arange(256) + 0.5) / 256)
    table = (sigma / quantiles.std() * quantiles).astype(np.float32)
    return table[np.frombuffer(rng.bytes(int(np.prod(shape))), np.uint8)].reshape(shape)
