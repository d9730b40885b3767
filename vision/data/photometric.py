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
    """Draw the three gains and apply them; the input is left as it is, and is returned where all gains are 0."""
    hue, saturation, value = rng.uniform(-1, 1, size=3) * (config.hue, config.saturation, config.value)
    if not (hue or saturation or value):
        return image_rgb
    return shift_hsv(image_rgb, hue_turn=hue, saturation_gain=1 + saturation, value_gain=1 + value)


def shift_hsv(
    image_rgb: UInt8[np.ndarray, "H W 3"], *, hue_turn: float, saturation_gain: float, value_gain: float
) -> UInt8[np.ndarray, "H W 3"]:
    """Turn the hue by `hue_turn` of the colour circle and multiply saturation and value, clipped to 255."""
    hsv = cv2.cvtColor(image_rgb, cv2.COLOR_RGB2HSV)
    hue, saturation, value = (cv2.extractChannel(hsv, channel) for channel in range(3))
    # OpenCV's 8-bit hue counts half degrees: 180 steps are the whole circle.
    turned = np.arange(256) + round(180 * hue_turn)
    cv2.LUT(hue, (turned % 180).astype(np.uint8), dst=hue)
    # A product rounded and cut at 255 is quicker than a table, plane by plane quicker than interleaved.
    cv2.convertScaleAbs(saturation, dst=saturation, alpha=saturation_gain)
    cv2.convertScaleAbs(value, dst=value, alpha=value_gain)
    cv2.merge((hue, saturation, value), dst=hsv)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
