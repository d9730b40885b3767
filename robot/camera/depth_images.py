"""Depth images as sensors and files have them, and as this program has them: metres, NaN where there is no reading.

REP 118: 32 bit floating point metres with NaN, or 16 bit millimetres with 0. An image in the wrong unit is a
thousand times wrong and still an image, so its typical reading is checked against what a room can hold.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, UInt16

from robot.errors import CameraError

MILLIMETRE_M = 1e-3
PLAUSIBLE_DEPTH_M = (0.02, 50.0)
"""The median reading of any image lies between these: nearer no camera focuses, farther no depth camera reads."""
_SATURATED = 65535


def depth_to_metres(raw: np.ndarray, unit_m: float = MILLIMETRE_M, origin: str = "depth image") -> np.ndarray:
    """(H, W) float32 metres, NaN where there is no reading: 0, 65535, negative or infinite.

    16 bit images count `unit_m` (RealSense D405: 1e-4); floating point ones are metres already. Raises CameraError,
    beginning with `origin`, for other types and shapes and where the typical reading can be no depth in metres.
    """
    if raw.ndim != 2:
        raise CameraError(f"{origin}: expected depth as one value a pixel, got shape {raw.shape}")
    if raw.dtype == np.uint16:
        depth_m = np.where((raw == 0) | (raw == _SATURATED), np.nan, raw * np.float32(unit_m)).astype(np.float32)
    elif raw.dtype in (np.float32, np.float64):
        depth_m = np.where(np.isfinite(raw) & (raw > 0.0), raw, np.nan).astype(np.float32)
    else:
        raise CameraError(
            f"{origin}: expected 16 bit unsigned (millimetres) or floating point (metres) depth, got {raw.dtype}"
        )
    check_depth_unit(depth_m, origin)
    return depth_m


def metres_to_millimetres(depth_m: Float32[np.ndarray, "H W"]) -> UInt16[np.ndarray, "H W"]:
    """Rounded to millimetres, 0 where there is no reading or one beyond 65.534 m."""
    depth_mm = np.round(depth_m.astype(np.float64) / MILLIMETRE_M)
    is_reading = (depth_mm > 0) & (depth_mm < _SATURATED)  # NaN is neither
    return np.where(is_reading, depth_mm, 0).astype(np.uint16)


def check_depth_unit(depth_m: Float32[np.ndarray, "H W"], origin: str = "depth image") -> None:
    """Raise CameraError when the median reading can be no depth in metres; an image without readings passes."""
    readings = depth_m[np.isfinite(depth_m)]
    if not readings.size:
        return
    median, (low, high) = float(np.median(readings)), PLAUSIBLE_DEPTH_M
    if median > high:
        raise CameraError(f"{origin}: the median depth is {median:g} m: are these millimetres taken for metres?")
    if median < low:
        raise CameraError(f"{origin}: the median depth is {median:g} m: are these metres taken for millimetres?")
