"""Images as a lens without distortion would have made them: the map is built once, each image is then one lookup."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from robot.camera.intrinsics import Intrinsics


class Undistortion:
    """Turns images of one camera into those of `target`, a camera at the same place; both may have any lens.

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
