"""Random changes of colour; boxes stay where they are."""

from __future__ import annotations

from typing import Annotated

import cv2
import numpy as np
from jaxtyping import UInt8
from pydantic import Field

from vision.config import Config

Gain = Annotated[float, Field(ge=0, lt=1)]


class HsvConfig(Config):
    """Random gains on hue, saturation and value; 0 leaves a channel as it is."""

    hue: Gain = 0.015
    """Turn the hue by up to this part of the colour circle either way. Keep it small where colour is the class."""
    saturation: Gain = 0.7
    """Multiply the saturation by 1 plus or minus up to this."""
    value: Gain = 0.4
    """Multiply the brightness by 1 plus or minus up to this."""


def jitter_hsv(
    image_rgb: UInt8[np.ndarray, "H W 3"], config: HsvConfig, rng: np.random.Generator
) -> UInt8[np.ndarray, "H W 3"]:
    """Draw the three gains and apply them through lookup tables; the input is left as it is."""
    hue, saturation, value = rng.uniform(-1, 1, size=3) * (config.hue, config.saturation, config.value)
    return shift_hsv(image_rgb, hue_turn=hue, saturation_gain=1 + saturation, value_gain=1 + value)


def shift_hsv(
    image_rgb: UInt8[np.ndarray, "H W 3"], *, hue_turn: float, saturation_gain: float, value_gain: float
) -> UInt8[np.ndarray, "H W 3"]:
    """Turn the hue by `hue_turn` of the colour circle and multiply saturation and value, clipped to 255."""
    levels = np.arange(256, dtype=np.float64)
    # OpenCV's 8-bit hue counts half degrees: 180 steps are the whole circle.
    tables = np.stack(
        [
            (levels + 180 * hue_turn) % 180,
            np.minimum(levels * saturation_gain, 255),
            np.minimum(levels * value_gain, 255),
        ],
        axis=-1,
    )
    hsv = cv2.cvtColor(image_rgb, cv2.COLOR_RGB2HSV)
    hsv = cv2.LUT(hsv, tables.astype(np.uint8).reshape(1, 256, 3))
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
