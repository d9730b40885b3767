"""Rectify images: remove lens distortion, align depth to colour, convert depth to metres.

Depth images are float32 metres, NaN for no reading; files and sensors also have 16 bit millimetres, 0 (REP 118).
"""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8, UInt16

from handeye.robot.camera.intrinsics import Intrinsics
from handeye.robot.errors import CameraError
from handeye.robot.transforms import require_transform, rotate_vectors

MAX_TILE_PX = 8
"""A reading so near that it covers more colour pixels a side than this is noise, and is left out."""

MILLIMETRE_M = 1e-3
PLAUSIBLE_DEPTH_M = (0.02, 50.0)
"""The median reading of any image lies between these: nearer no camera focuses, farther no depth camera reads."""
_SATURATED = 65535


class Undistortion:
    """Remaps images of one camera to those of `target`, a camera at the same place; both may have any lens.

    Without a target it is the pinhole camera with the same K and size. What the lens did not see is black in colour
    and NaN in depth.
    """

    def __init__(self, source: Intrinsics, target: Intrinsics | None = None) -> None:
        self.source = source
        self.target = source.without_distortion() if target is None else target
        pixels = pixel_map(source, self.target).astype(np.float32)
        # OpenCV's border handling takes care of what lies outside; NaN it would cast to anything.
        pixels = np.where(np.isfinite(pixels), pixels, np.float32(-1e6))
        self._map_u, self._map_v = (np.ascontiguousarray(pixels[..., axis]) for axis in (0, 1))

    def color(self, image_rgb: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
        """Bilinear. Raises CameraError for an image of another size."""
        self.source.check_image(image_rgb)
        straight = cv2.remap(
            image_rgb, self._map_u, self._map_v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0
        )
        return np.asarray(straight, dtype=np.uint8)

    def depth(self, depth_m: Float32[np.ndarray, "H W"]) -> Float32[np.ndarray, "h w"]:
        """The nearest reading, never a mean of two surfaces. Raises CameraError for an image of another size."""
        self.source.check_image(depth_m)
        straight = cv2.remap(
            depth_m,
            self._map_u,
            self._map_v,
            cv2.INTER_NEAREST,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=float("nan"),
        )
        return np.asarray(straight, dtype=np.float32)


def pixel_map(source: Intrinsics, target: Intrinsics) -> np.ndarray:
    """(h, w, 2): for each pixel of `target`, where in the image of `source` (u, v) the same direction is; else NaN."""
    rows, columns = np.indices(target.size_hw, dtype=np.float64)
    return source.project(target.directions(np.stack([columns, rows], axis=-1)))


class DepthAlignment:
    """Reprojects depth images (m, NaN = no reading) of one camera into another; rays are computed once.

    Each depth pixel is a tile; the nearest one wins (z-buffer). On slopes neighbouring tiles may part and leave pixels
    without depth.

    T_color_depth maps points of the depth camera into the colour camera's frame (m). Raises TransformError for what
    is no rigid transform.
    """

    def __init__(self, depth: Intrinsics, color: Intrinsics, T_color_depth: Float[np.ndarray, "4 4"]) -> None:
        require_transform(T_color_depth, "T_color_depth")
        self.depth, self.color, self.T_color_depth = depth, color, T_color_depth
        rows, columns = np.indices(depth.size_hw, dtype=np.float64)
        centres = np.stack([columns, rows], axis=-1).reshape(-1, 2)
        self._centre_z = rotate_vectors(T_color_depth, depth.directions(centres))[:, 2]
        corners = [centres + (right, down) for right in (-0.5, 0.5) for down in (-0.5, 0.5)]
        self._corner_rays = [rotate_vectors(T_color_depth, depth.directions(corner)) for corner in corners]

    def align(self, depth_m: Float32[np.ndarray, "H W"]) -> Float32[np.ndarray, "h w"]:
        """Depth along the colour camera's z axis in each colour pixel; NaN where no reading falls."""
        self.depth.check_image(depth_m)
        readings = depth_m.reshape(-1).astype(np.float64)
        has_reading = np.flatnonzero(np.isfinite(readings) & (readings > 0.0))
        readings = readings[has_reading]
        z = self._centre_z[has_reading] * readings + self.T_color_depth[2, 3]
        corners = [
            self.color.project(rays[has_reading] * readings[:, None] + self.T_color_depth[:3, 3])
            for rays in self._corner_rays
        ]
        low, high = np.minimum.reduce(corners), np.maximum.reduce(corners)  # NaN where any corner has no pixel
        is_seen = np.isfinite(high).all(axis=1) & (z > 0.0)
        return self._draw(low[is_seen], high[is_seen], z[is_seen])

    def _draw(
        self, low_uv: Float[np.ndarray, "N 2"], high_uv: Float[np.ndarray, "N 2"], z: Float[np.ndarray, " N"]
    ) -> Float32[np.ndarray, "h w"]:
        """Tiles from low_uv to high_uv, half open, cover the pixels whose centres lie in them: no gaps between them."""
        low, high = np.ceil(low_uv).astype(np.int64), np.ceil(high_uv).astype(np.int64)
        height, width = self.color.size_hw
        is_drawn = (high > 0).all(axis=1) & (low < (width, height)).all(axis=1)
        is_drawn &= (high - low <= MAX_TILE_PX).all(axis=1)
        low, high, z = low[is_drawn], high[is_drawn], z[is_drawn]
        num_columns, num_rows = (high - low).max(axis=0, initial=0)
        nearest = np.full(height * width, np.inf)
        for row in range(num_rows):
            for column in range(num_columns):
                u, v = low[:, 0] + column, low[:, 1] + row
                is_covered = (u < high[:, 0]) & (v < high[:, 1]) & (u >= 0) & (v >= 0) & (u < width) & (v < height)
                np.minimum.at(nearest, v[is_covered] * width + u[is_covered], z[is_covered])
        return np.where(np.isfinite(nearest), nearest, np.nan).reshape(height, width).astype(np.float32)


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
