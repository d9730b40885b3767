"""Lens distortion of normalised image coordinates (x / z, y / z), there and back, within the range of its model.

Models are OpenCV's: pinhole with rational radial and tangential terms (Brown 1966), fisheye with a polynomial of the
angle (Kannala and Brandt 2006). Both hold from the axis to the first fold or pole on the way out; what lies beyond has
no ray. Coefficients of a fit may have a pole and a zero that nearly cancel: that ring is noise, and the range goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

import numpy as np
from jaxtyping import Float
from numpy.polynomial import polynomial
from typing_extensions import assert_never

_STEPS = 20
_TOLERANCE = 1e-9  # of normalised coordinates: a millionth of a pixel
_SETTLED = 1e-11  # the error after such a step is of the order of its square: rounding
_TABLE = 4096
_CANCEL = 1e-3
"""A pole and a zero whose radii differ by less than this fraction leave the lens as it is a few such widths away."""
_REAL = 1e-9
_FARTHEST = 1e3
"""Of normalised coordinates: within a sixteenth of a degree of a right angle to the axis."""


class Lens(Enum):
    """Distortion model of the coefficients."""

    PINHOLE = "pinhole"
    """k1 k2 p1 p2 [k3 [k4 k5 k6]]."""
    FISHEYE = "fisheye"
    """k1 k2 k3 k4."""

    @property
    def num_coefficients(self) -> tuple[int, ...]:
        """Numbers of coefficients that the model may have."""
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
    """Distort normalised image coordinates; NaN beyond the range of the model, where it would fold back."""
    if lens is Lens.PINHOLE and not distortion.any():
        return straight
    radius = np.linalg.norm(straight, axis=-1, keepdims=True)
    match lens:
        case Lens.PINHOLE:
            bent = _bend(straight, distortion)
            is_inside = _in_branches(radius, _branches(tuple(distortion.tolist())).ranges)
        case Lens.FISHEYE:
            angle = np.arctan(radius)
            scale = _fisheye_angle(angle, distortion) / np.where(radius > 0.0, radius, 1.0)
            bent = straight * np.where(radius > 0.0, scale, 1.0)
            is_inside = angle < _fisheye_limit(distortion)
        case _:
            assert_never(lens)
    return np.where(is_inside, bent, np.nan)


def undistort(
    bent: Float[np.ndarray, "*points 2"], distortion: Float[np.ndarray, " D"], lens: Lens = Lens.PINHOLE
) -> Float[np.ndarray, "*points 2"]:
    """The inverse of `distort`: the first direction on the way out from the axis; NaN where there is none."""
    match lens:
        case Lens.PINHOLE:
            return _undistort_pinhole(bent.reshape(-1, 2), distortion).reshape(bent.shape) if distortion.any() else bent
        case Lens.FISHEYE:
            return _undistort_fisheye(bent, distortion)
        case _:
            assert_never(lens)


@dataclass(frozen=True, slots=True, eq=False)
class _Radial:
    """r f(r^2) with f = numerator / denominator, polynomials in r^2 by rising powers."""

    numerator: np.ndarray
    denominator: np.ndarray

    def __call__(self, radius: np.ndarray) -> np.ndarray:
        return radius * self.scale(radius * radius)

    def scale(self, square: np.ndarray) -> np.ndarray:
        return polynomial.polyval(square, self.numerator) / polynomial.polyval(square, self.denominator)

    def scale_slope(self, square: np.ndarray) -> np.ndarray:
        """d f / d r^2."""
        value = polynomial.polyval(square, self.denominator)
        slopes = [polynomial.polyval(square, polynomial.polyder(p)) for p in (self.numerator, self.denominator)]
        return (slopes[0] - self.scale(square) * slopes[1]) / value

    def edges(self, tangential: float) -> np.ndarray:
        """Radii, rising, at which a pole or fold may be: between them f and (r f)' exceed 6 r |(p1, p2)| or do not.

        6 r |p| is the largest eigenvalue of the tangential terms' Jacobian. The Jacobian of all is symmetric, so that
        in a disc without edges it is positive definite and no two directions have the same image.
        """
        top, bottom = self.numerator, self.denominator
        turn = polynomial.polysub(
            polynomial.polymul(polynomial.polyder(top), bottom), polynomial.polymul(top, polynomial.polyder(bottom))
        )
        slope = polynomial.polyadd(polynomial.polymul(top, bottom), polynomial.polymul([0.0, 2.0], turn))
        ramp = np.array([0.0, 6.0 * tangential])
        equations = [
            _in_radius(bottom),
            polynomial.polysub(_in_radius(top), polynomial.polymul(ramp, _in_radius(bottom))),
            polynomial.polysub(
                _in_radius(slope), polynomial.polymul(ramp, _in_radius(polynomial.polymul(bottom, bottom)))
            ),
        ]
        return np.sort(np.concatenate([_positive_roots(equation) for equation in equations]))


@dataclass(frozen=True, slots=True, eq=False)
class _Branches:
    """The lens, the same without poles that nearly cancel, and the ranges of radii that count, from the axis out."""

    radial: _Radial
    smooth: _Radial
    ranges: tuple[tuple[float, float], ...]


@lru_cache(maxsize=64)
def _branches(distortion: tuple[float, ...]) -> _Branches:
    k1, k2, p1, p2, k3, k4, k5, k6 = np.pad(np.array(distortion), (0, 8 - len(distortion)))
    radial = _Radial(np.array([1.0, k1, k2, k3]), np.array([1.0, k4, k5, k6]))
    smooth, tangential = _without_cancelling_poles(radial), float(np.hypot(p1, p2))
    limit = float(smooth.edges(tangential).min(initial=_FARTHEST))
    edges = [0.0, limit]
    if smooth is not radial:
        edges[1:1] = [edge for edge in radial.edges(tangential).tolist() if edge < limit]
    ranges = []
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        middle = np.array([0.5 * (low + high)])
        scale, slope = radial.scale(middle**2), radial.scale_slope(middle**2)
        if (np.minimum(scale, scale + 2.0 * middle**2 * slope) > 6.0 * middle * tangential).all():
            ranges.append((low, high))
    return _Branches(radial, smooth, tuple(ranges))


def _without_cancelling_poles(radial: _Radial) -> _Radial:
    numerator, denominator = radial.numerator, radial.denominator
    zeros = _positive_roots(numerator).tolist()
    for pole in _positive_roots(denominator).tolist():
        near = [zero for zero in zeros if abs(np.sqrt(zero) - np.sqrt(pole)) <= _CANCEL * np.sqrt(pole)]
        if near:
            zero = min(near, key=lambda value: abs(value - pole))
            zeros.remove(zero)
            numerator = polynomial.polydiv(numerator, [1.0, -1.0 / zero])[0]
            denominator = polynomial.polydiv(denominator, [1.0, -1.0 / pole])[0]
    return radial if numerator is radial.numerator else _Radial(numerator, denominator)


def _in_radius(in_square: np.ndarray) -> np.ndarray:
    """A polynomial in r^2 as one in r."""
    spread = np.zeros(2 * len(in_square) - 1)
    spread[::2] = in_square
    return spread


def _positive_roots(rising: np.ndarray) -> np.ndarray:
    """Roots up to _FARTHEST; terms that are nothing there would make others of them."""
    counts = np.nonzero(np.abs(rising) * _FARTHEST ** np.arange(len(rising)) > 1e-12)[0]
    roots = np.roots(rising[: counts.max(initial=0) + 1][::-1])
    return roots.real[(np.abs(roots.imag) <= _REAL * np.abs(roots)) & (roots.real > 0.0)]


def _in_branches(radius: np.ndarray, ranges: tuple[tuple[float, float], ...]) -> np.ndarray:
    return np.any([(radius >= low) & (radius < high) for low, high in ranges], axis=0)


def _bend(straight: np.ndarray, distortion: np.ndarray) -> np.ndarray:
    k1, k2, p1, p2, k3, k4, k5, k6 = np.pad(distortion, (0, 8 - len(distortion)))
    x, y = straight[..., 0], straight[..., 1]
    r2 = x * x + y * y
    radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
    bent_x = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
    bent_y = y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
    return np.stack([bent_x, bent_y], axis=-1)


def _undistort_pinhole(bent: np.ndarray, distortion: np.ndarray) -> np.ndarray:
    lens = _branches(tuple(distortion.tolist()))
    bent_radius = np.linalg.norm(bent, axis=-1)
    # Which side of a cancelled pole a point lies on, the lens without that pole says.
    place = _first_root(lens.smooth, bent_radius, 0.0, lens.ranges[-1][1])
    off = np.stack([np.abs(place - np.clip(place, *bounds)) for bounds in lens.ranges])
    nearest = off.argmin(axis=0)
    low, high = (np.array(ends)[nearest] for ends in zip(*lens.ranges, strict=True))
    radius = np.empty_like(bent_radius)
    for number, bounds in enumerate(lens.ranges):
        here = nearest == number
        radius[here] = _first_root(lens.radial, bent_radius[here], *bounds)
    with np.errstate(all="ignore"):
        straight = bent * (radius / np.where(bent_radius > 0.0, bent_radius, 1.0))[..., None]
        moving = np.ones(radius.shape, dtype=bool)
        for _ in range(_STEPS):
            step = _newton_step(straight[moving], bent[moving], lens.radial, distortion)
            moved = straight[moving] - step
            radius = np.linalg.norm(moved, axis=-1)
            inside = np.clip(radius, low[moving], high[moving])
            straight[moving] = moved * (inside / np.where(radius > 0.0, radius, 1.0))[..., None]
            moving[moving] = np.abs(step).max(axis=-1) > _SETTLED
            if not moving.any():
                break
        residual = np.abs(_bend(straight, distortion) - bent).max(axis=-1)
    radius = np.linalg.norm(straight, axis=-1)
    is_found = (residual <= _TOLERANCE) & (radius >= low) & (radius < high)
    return np.where(is_found[..., None], straight, np.nan)


def _newton_step(straight: np.ndarray, bent: np.ndarray, radial: _Radial, distortion: np.ndarray) -> np.ndarray:
    p1, p2 = distortion[2:4]
    x, y = straight[..., 0], straight[..., 1]
    square = x * x + y * y
    f, slope = radial.scale(square), 2.0 * radial.scale_slope(square)
    xx = f + slope * x * x + 2 * p1 * y + 6 * p2 * x
    yy = f + slope * y * y + 6 * p1 * y + 2 * p2 * x
    xy = slope * x * y + 2 * p1 * x + 2 * p2 * y
    error = _bend(straight, distortion) - bent
    determinant = xx * yy - xy * xy
    step_x = (yy * error[..., 0] - xy * error[..., 1]) / determinant
    step_y = (xx * error[..., 1] - xy * error[..., 0]) / determinant
    return np.stack([step_x, step_y], axis=-1)


def _first_root(rising: Callable[[np.ndarray], np.ndarray], values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Where a function that rises from low to high takes these values, to a cell of a table; the ends beyond them."""
    largest = values[np.isfinite(values)].max(initial=0.0)
    reach = low + 1.0
    while reach < high and rising(np.array([reach])).max() < largest:
        reach *= 2.0
    high = min(high, reach)
    width = high - low
    places = np.linspace(low + 1e-9 * width if low > 0.0 else 0.0, high - 1e-9 * width, _TABLE)
    return np.interp(values, rising(places), places)


def _undistort_fisheye(bent: np.ndarray, distortion: np.ndarray) -> np.ndarray:
    bent_angle, limit = np.linalg.norm(bent, axis=-1, keepdims=True), _fisheye_limit(distortion)
    angle = _first_root(lambda angles: _fisheye_angle(angles, distortion), bent_angle, 0.0, limit)
    for _ in range(_STEPS):
        slope = _fisheye_slope(angle, distortion)
        step = (_fisheye_angle(angle, distortion) - bent_angle) / np.where(slope == 0.0, np.inf, slope)
        angle = np.clip(angle - step, 0.0, limit)
        if not (np.abs(step) > _SETTLED).any():
            break
    error = np.abs(_fisheye_angle(angle, distortion) - bent_angle)
    is_found = (error <= _TOLERANCE) & (angle < limit)
    scale = np.tan(angle) / np.where(bent_angle > 0.0, bent_angle, 1.0)
    return np.where(is_found, bent * np.where(bent_angle > 0.0, scale, 1.0), np.nan)


def _fisheye_limit(distortion: np.ndarray) -> float:
    """The angle of the first fold, or 90 degrees: a plane image has no ray beyond."""
    slope = np.concatenate([[1.0], distortion * np.array([3.0, 5.0, 7.0, 9.0])])
    return float(np.sqrt(_positive_roots(slope)).min(initial=np.pi / 2))


def _fisheye_angle(angle: np.ndarray, distortion: np.ndarray) -> np.ndarray:
    """angle (1 + k1 angle^2 + k2 angle^4 + k3 angle^6 + k4 angle^8)."""
    square = angle * angle
    return angle * (1.0 + square * polynomial.polyval(square, distortion))


def _fisheye_slope(angle: np.ndarray, distortion: np.ndarray) -> np.ndarray:
    """The derivative of `_fisheye_angle`."""
    square = angle * angle
    return 1.0 + square * polynomial.polyval(square, distortion * np.array([3.0, 5.0, 7.0, 9.0]))
