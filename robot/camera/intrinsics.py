"""Camera intrinsics with lens distortion: project and unproject points, rescale, crop.

The centre of the top left pixel is (0, 0), so an image of width W spans -0.5 to W - 0.5; camera axes are x right,
y down, z forward (Hartley and Zisserman, Multiple View Geometry, 6.1).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float

from handeye.robot.camera.distortion import Lens, distort, undistort
from handeye.robot.errors import CameraError


@dataclass(frozen=True, slots=True, eq=False)
class Intrinsics:
    """K (px) and distortion of images of size_hw (height, width in px).

    A crop may have its principal point anywhere (is_crop); in a whole image it lies within a fifth of the size from
    the middle, otherwise K belongs to another resolution. Raises CameraError for what is no pinhole matrix or does
    not fit the size.
    """

    K: Float[np.ndarray, "3 3"]
    size_hw: tuple[int, int]
    distortion: Float[np.ndarray, " D"] = field(default_factory=lambda: np.zeros(5))
    is_crop: bool = False
    lens: Lens = Lens.PINHOLE

    def __post_init__(self) -> None:
        check_pinhole(self.K)
        height, width = self.size_hw
        if height < 1 or width < 1:
            raise CameraError(f"expected an image of at least 1 x 1 pixels, got {height} high and {width} wide")
        if not self.is_crop:
            check_fits_image(self.K, self.size_hw)
        if self.distortion.shape not in [(length,) for length in self.lens.num_coefficients]:
            expected = " or ".join(map(str, self.lens.num_coefficients))
            raise CameraError(
                f"expected {expected} distortion coefficients in OpenCV's order for a {self.lens.value} lens, "
                f"got {self.distortion.shape}"
            )
        if not np.isfinite(self.distortion).all():
            raise CameraError(f"expected finite distortion coefficients, got {self.distortion.tolist()}")

    def project(self, points_camera: Float[np.ndarray, "*points 3"]) -> Float[np.ndarray, "*points 2"]:
        """Pixels (u, v) of points in m; NaN behind the camera (z <= 0) and beyond the range of the lens's model."""
        z = points_camera[..., 2:]
        in_front = np.where(z > 0.0, z, np.nan)
        bent = distort(points_camera[..., :2] / in_front, self.distortion, self.lens)
        u = self.K[0, 0] * bent[..., 0] + self.K[0, 1] * bent[..., 1] + self.K[0, 2]
        return np.stack([u, self.K[1, 1] * bent[..., 1] + self.K[1, 2]], axis=-1)

    def unproject(
        self, pixels_uv: Float[np.ndarray, "*points 2"], depth_m: Float[np.ndarray, "*points"]
    ) -> Float[np.ndarray, "*points 3"]:
        """Points in the camera frame (m) at this depth along z.

        NaN where the depth is NaN, or where no direction bends into the pixel (a fold of the distortion).
        """
        return self.directions(pixels_uv) * depth_m[..., None]

    def directions(self, pixels_uv: Float[np.ndarray, "*points 2"]) -> Float[np.ndarray, "*points 3"]:
        """Viewing directions (x, y, 1) in the camera frame: a point at depth z lies at z times its direction."""
        y = (pixels_uv[..., 1] - self.K[1, 2]) / self.K[1, 1]
        x = (pixels_uv[..., 0] - self.K[0, 2] - self.K[0, 1] * y) / self.K[0, 0]
        straight = undistort(np.stack([x, y], axis=-1), self.distortion, self.lens)
        return np.concatenate([straight, np.ones_like(straight[..., :1])], axis=-1)

    def rescale(self, size_hw: tuple[int, int]) -> Intrinsics:
        """Intrinsics of the same image resized to size_hw, each axis by its own factor."""
        scale = np.array([size_hw[1] / self.size_hw[1], size_hw[0] / self.size_hw[0]])
        K = self.K.copy()
        K[:2] *= scale[:, None]
        # The corner of the image, not the centre of its first pixel, stays where it is.
        K[:2, 2] += 0.5 * (scale - 1.0)
        return replace(self, K=K, size_hw=size_hw)

    def without_distortion(self) -> Intrinsics:
        """The pinhole camera with the same K, as rectification.Undistortion makes its images."""
        return Intrinsics(self.K, self.size_hw, is_crop=self.is_crop)

    def check_image(self, image: np.ndarray) -> None:
        """Raise CameraError unless the image (H, W, ...) has the size that these intrinsics were made for."""
        if image.shape[:2] != self.size_hw:
            raise CameraError(
                f"the intrinsics belong to images of {self.size_hw[1]} x {self.size_hw[0]} pixels, this one has "
                f"{image.shape[1]} x {image.shape[0]}: calibrate at this size, or rescale or crop them to it"
            )

    def crop(self, left_px: int, top_px: int, size_hw: tuple[int, int]) -> Intrinsics:
        """Intrinsics of the part of size_hw whose first pixel is (left_px, top_px), which must lie in the image."""
        bottom, right = top_px + size_hw[0], left_px + size_hw[1]
        if min(left_px, top_px) < 0 or bottom > self.size_hw[0] or right > self.size_hw[1]:
            raise CameraError(
                f"the crop from ({left_px}, {top_px}) to ({right}, {bottom}) leaves the image of "
                f"{self.size_hw[1]} x {self.size_hw[0]} pixels"
            )
        K = self.K.copy()
        K[:2, 2] -= (left_px, top_px)
        return replace(self, K=K, size_hw=size_hw, is_crop=True)


def check_pinhole(K: Float[np.ndarray, "..."]) -> None:
    """Raise CameraError unless K is [[fx, s, cx], [0, fy, cy], [0, 0, 1]] with finite numbers and fx, fy > 0."""
    if K.shape != (3, 3):
        raise CameraError(f"expected a 3 x 3 matrix K, got shape {K.shape}")
    if not np.isfinite(K).all():
        raise CameraError(f"expected finite numbers in K, got {K.tolist()}")
    if not np.array_equal(K[2], [0.0, 0.0, 1.0]) or K[1, 0] != 0.0:
        raise CameraError(f"expected K with zeros below the diagonal and last row 0 0 1, got {K.tolist()}")
    if K[0, 0] <= 0.0 or K[1, 1] <= 0.0:
        raise CameraError(f"expected positive focal lengths in K, got fx = {K[0, 0]:g} and fy = {K[1, 1]:g} px")


def check_fits_image(K: Float[np.ndarray, "3 3"], size_hw: tuple[int, int]) -> None:
    """Raise CameraError when the principal point is a fifth of the image's size or more from its middle.

    A K for twice or half the resolution is caught by this; lenses put the principal point within a few per cent of
    the middle.
    """
    centre_xy = np.array([size_hw[1] - 1, size_hw[0] - 1]) / 2.0
    offset = np.abs(K[:2, 2] - centre_xy) / (size_hw[1], size_hw[0])
    if (offset >= 0.2).any():
        raise CameraError(
            f"K has its principal point at ({K[0, 2]:g}, {K[1, 2]:g}) px, far from the middle ({centre_xy[0]:g}, "
            f"{centre_xy[1]:g}) of the {size_hw[1]} x {size_hw[0]} image: is it of another resolution?"
        )
