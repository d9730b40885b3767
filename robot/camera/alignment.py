"""Depth as the colour camera would have seen it: every depth pixel is a small tile that is moved and drawn again.

The nearest tile wins (a z-buffer), so what the colour camera sees in front hides what is behind it. On slopes tiles of
neighbouring readings may part and leave single pixels without depth: nothing is invented there.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32

from robot.camera.intrinsics import Intrinsics
from robot.transforms import require_transform, rotate_vectors

MAX_TILE_PX = 8
"""A reading so near that it covers more colour pixels a side than this is noise, and is left out."""


class DepthAlignment:
    """Moves depth images (m, NaN = no reading) of one camera into the image of another; rays are computed once.

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
