"""How lenses bend normalised image coordinates (x / z, y / z), and back: OpenCV's pinhole and fisheye models.

Pinhole: radial (rational) and tangential terms as cv2.projectPoints has them, after Brown (1966). Fisheye: the angle
to the axis as an odd polynomial, as cv2.fisheye has it, after Kannala and Brandt (2006); up to 90 degrees here.
"""

from __future__ import annotations

from enum import Enum

import numpy as np
from jaxtyping import Float
from typing_extensions import assert_never

_STEPS = 20
_TOLERANCE = 1e-9  # of normalised coordinates: a millionth of a pixel


class Lens(Enum):
    """Which of the two models the coefficients belong to."""

    PINHOLE = "pinhole"
    """k1 k2 p1 p2 [k3 [k4 k5 k6]]."""
    FISHEYE = "fisheye"
    """k1 k2 k3 k4."""

    @property
    def num_coefficients(self) -> tuple[int, ...]:
        """How many coefficients the model may have."""
        match self:
            case Lens.PINHOLE:
                return (4, 5, 8)
            case Lens.FISHEYE:
                return (4,)
            case _:
                assert_never(self)


def distort(
    straight: Float[np.ndarray, "*points 2"], distortion: Float[np.ndarray, " D"], lens: Lens = Lens.PINHOLE
) -> Float[np.ndarray, "*points 2"]:
    """Bend normalised image coordinates as the lens does."""
    match lens:
        case Lens.PINHOLE:
            return _distort_pinhole(straight, distortion)
        case Lens.FISHEYE:
            return _distort_fisheye(straight, distortion)
        case _:
            assert_never(lens)


def undistort(
    bent: Float[np.ndarray, "*points 2"], distortion: Float[np.ndarray, " D"], lens: Lens = Lens.PINHOLE
) -> Float[np.ndarray, "*points 2"]:
    """The inverse of `distort`, by Newton's method; NaN where no direction bends into the point."""
    match lens:
        case Lens.PINHOLE:
            return _undistort_pinhole(bent, distortion)
        case Lens.FISHEYE:
            return _undistort_fisheye(bent, distortion)
        case _:
            assert_never(lens)


def _distort_pinhole(straight: np.ndarray, distortion: np.ndarray) -> np.ndarray:
    if not distortion.any():
        return straight
    k1, k2, p1, p2, k3, k4, k5, k6 = np.pad(distortion, (0, 8 - len(distortion)))
    x, y = straight[..., 0], straight[..., 1]
    r2 = x * x + y * y
    radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
    bent_x = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
    bent_y = y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
    return np.stack([bent_x, bent_y], axis=-1)


def _undistort_pinhole(bent: np.ndarray, distortion: np.ndarray) -> np.ndarray:
    if not distortion.any():
        return bent
    straight = bent.copy()
    for _ in range(_STEPS):
        error = _distort_pinhole(straight, distortion) - bent
        straight = straight - np.linalg.solve(_pinhole_jacobian(straight, distortion), error[..., None])[..., 0]
    residual = np.abs(_distort_pinhole(straight, distortion) - bent).max(axis=-1)
    # Beyond a fold of the polynomials there are solutions that no ray through the lens takes: turned over or mirrored.
    is_before_fold = np.linalg.det(_pinhole_jacobian(straight, distortion)) > 0.0
    is_found = (residual <= _TOLERANCE) & is_before_fold & ((straight * bent).sum(axis=-1) >= 0.0)
    return np.where(is_found[..., None], straight, np.nan)


def _pinhole_jacobian(straight: np.ndarray, distortion: np.ndarray) -> np.ndarray:
    """d bent / d straight by central differences, (..., 2, 2); a tiny diagonal keeps a fold from being singular."""
    step = 1e-6
    columns = [
        (_distort_pinhole(straight + offset, distortion) - _distort_pinhole(straight - offset, distortion)) / (2 * step)
        for offset in step * np.eye(2)
    ]
    return np.stack(columns, axis=-1) + 1e-12 * np.eye(2)


def _distort_fisheye(straight: np.ndarray, distortion: np.ndarray) -> np.ndarray:
    radius = np.linalg.norm(straight, axis=-1, keepdims=True)
    bent_angle = _fisheye_angle(np.arctan(radius), distortion)
    return straight * np.where(radius > 0.0, bent_angle / np.where(radius > 0.0, radius, 1.0), 1.0)


def _undistort_fisheye(bent: np.ndarray, distortion: np.ndarray) -> np.ndarray:
    bent_angle = np.linalg.norm(bent, axis=-1, keepdims=True)
    angle = bent_angle.copy()
    for _ in range(_STEPS):
        slope = _fisheye_slope(angle, distortion)
        angle = angle - (_fisheye_angle(angle, distortion) - bent_angle) / np.where(slope == 0.0, np.inf, slope)
    error = np.abs(_fisheye_angle(angle, distortion) - bent_angle)
    # Behind a fold of the polynomial, or at 90 degrees and more, the angle is not that of a ray through the lens.
    is_found = (error <= _TOLERANCE) & (angle >= 0.0) & (angle < np.pi / 2) & (_fisheye_slope(angle, distortion) > 0.0)
    scale = np.tan(angle) / np.where(bent_angle > 0.0, bent_angle, 1.0)
    return np.where(is_found, bent * np.where(bent_angle > 0.0, scale, 1.0), np.nan)


def _fisheye_angle(angle: np.ndarray, distortion: np.ndarray) -> np.ndarray:
    """angle (1 + k1 angle^2 + k2 angle^4 + k3 angle^6 + k4 angle^8)."""
    square = angle * angle
    return angle * (1.0 + square * np.polynomial.polynomial.polyval(square, distortion))


def _fisheye_slope(angle: np.ndarray, distortion: np.ndarray) -> np.ndarray:
    """The derivative of `_fisheye_angle`."""
    square = angle * angle
    return 1.0 + square * np.polynomial.polynomial.polyval(square, distortion * np.array([3.0, 5.0, 7.0, 9.0]))
