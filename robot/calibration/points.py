"""Where a camera beside the arm sits, from points that the tool's tip touched and the camera saw.

The rotation is Kabsch's (1978), without scale and never a reflection (Umeyama 1991). Points in one plane suffice;
points on a line do not. Covariances are those of least squares with equal noise on every coordinate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from handeye.robot.calibration.diagnosis import Limits, Reading
from handeye.robot.calibration.hand_eye import MAX_PLAUSIBLE_M, transform_errors
from handeye.robot.errors import CalibrationError
from handeye.robot.transforms import apply_transform, cross_matrix, make_transform, nearest_rotation

MIN_PAIRS = 3
MAX_OFF_AXIS_RAD = np.deg2rad(75.0)
"""Depth cameras see up to 65 degrees from their axis, in the corners of the widest."""
MIN_SPREAD_M = 1e-3
"""Root mean square distance from the mean, and from the best line: below it points are touched by the same tip."""
MIN_SPREAD_RATIO = 0.02
"""Spread across the best line by spread along it; with less, errors about the line are magnified fiftyfold."""
SAME_SCALE = 0.05
"""A scale that differs from 1 by more is one of units, not of noise."""


@dataclass(frozen=True, slots=True, eq=False)
class PointPairs:
    """The same points in the camera's frame and in the base frame (m).

    Raises CalibrationError for too few, for lengths that can only be millimetres, for points that no camera sees,
    and for points that leave the rotation undetermined.
    """

    camera: Float[np.ndarray, "N 3"]
    base: Float[np.ndarray, "N 3"]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        for points, what in ((self.camera, "camera"), (self.base, "base")):
            for name, point in zip(self.names, points, strict=True):
                if not np.isfinite(point).all():
                    raise CalibrationError(f"pair {name}, {what}: expected three finite numbers, got {point.tolist()}")
                if np.abs(point).max() > MAX_PLAUSIBLE_M:
                    raise CalibrationError(
                        f"pair {name}, {what}: {np.linalg.norm(point):g} m away: expected metres, are these "
                        "millimetres?"
                    )
        for name, point in zip(self.names, self.camera, strict=True):
            off_axis = float(np.arctan2(np.linalg.norm(point[:2]), point[2]))
            if off_axis > MAX_OFF_AXIS_RAD:
                raise CalibrationError(
                    f"pair {name}, camera: {np.rad2deg(off_axis):.0f} degrees from the camera's z axis (x right, y "
                    "down, z forward): are base and camera exchanged, or the axes in another order?"
                )
        if len(self.names) < MIN_PAIRS:
            raise CalibrationError(f"expected at least {MIN_PAIRS} pairs, better 8, got {len(self.names)}")
        for points, what in ((self.camera, "camera"), (self.base, "base")):
            _check_spread(points, what)

    def __len__(self) -> int:
        return len(self.names)

    def chosen(self, keep: Bool[np.ndarray, " N"]) -> PointPairs:
        """Some of the pairs."""
        names = tuple(name for name, is_kept in zip(self.names, keep, strict=True) if is_kept)
        return PointPairs(self.camera[keep], self.base[keep], names)


def _check_spread(points: Float[np.ndarray, "N 3"], what: str) -> None:
    along, across, _ = _spread(points)
    if along < MIN_SPREAD_M:
        raise CalibrationError(f"the {what} points are all in one place ({1e3 * along:.2f} mm apart): spread them out")
    if across < max(MIN_SPREAD_M, MIN_SPREAD_RATIO * along):
        raise CalibrationError(
            f"the {what} points are on one line ({1e3 * across:.2f} mm off it), about which the rotation is "
            "undetermined: touch points beside it"
        )


def _spread(points: Float[np.ndarray, "N 3"]) -> tuple[float, float, float]:
    """Root mean square distance from the mean along the principal axes, falling."""
    singular = np.linalg.svd(points - points.mean(axis=0), compute_uv=False) / np.sqrt(len(points))
    first, second, third = np.pad(singular, (0, 3 - len(singular))).tolist()
    return first, second, third


@dataclass(frozen=True, slots=True, eq=False)
class PointFit:
    """T_base_camera, its covariance (translation m, rotation rad, in the base frame) and what is left at each pair.

    Leaving out a pair gives its error as predicted from the others, and how far that turns the camera; NaN where the
    others determine nothing.
    """

    T_base_camera: Float[np.ndarray, "4 4"]
    covariance: Float[np.ndarray, "6 6"]
    residuals_m: Float[np.ndarray, " N"]
    leave_one_out_m: Float[np.ndarray, " N"]
    leave_one_out_rad: Float[np.ndarray, " N"]

    @property
    def std_rad(self) -> float:
        """Standard deviation of the orientation about its worst axis."""
        return float(np.sqrt(np.diag(self.covariance)[3:].max()))

    @property
    def errors_m(self) -> Float[np.ndarray, " N"]:
        """The leave-one-out errors, or where no pair can be left out the residuals, scaled by their freedom."""
        known = self.leave_one_out_m[np.isfinite(self.leave_one_out_m)]
        if len(known) > 0:
            return known
        return self.residuals_m * np.sqrt(3 * len(self.residuals_m) / (3 * len(self.residuals_m) - 6))

    @property
    def turns_rad(self) -> Float[np.ndarray, " N"]:
        """How far leaving out a pair turns the camera; where none can be left out, the standard deviation."""
        known = self.leave_one_out_rad[np.isfinite(self.leave_one_out_rad)]
        return known if len(known) > 0 else np.full(len(self.residuals_m), self.std_rad)

    def holds(self, limits: Limits) -> bool:
        """Whether errors and the standard deviation of the orientation, about its worst axis, are within the limits."""
        return limits.hold(self.errors_m, np.maximum(self.turns_rad, self.std_rad))


def fit_points(pairs: PointPairs) -> PointFit:
    """The transform with the smallest sum of squared distances, and how good it is."""
    T = align(pairs.camera, pairs.base)
    moved = apply_transform(T, pairs.camera)
    residuals = np.linalg.norm(moved - pairs.base, axis=1)
    arms = cross_matrix(moved - T[:3, 3])
    J = np.concatenate([np.broadcast_to(np.eye(3), arms.shape), -arms], axis=2).reshape(-1, 6)
    variance = float((residuals**2).sum()) / (3 * len(pairs) - 6)
    left_m, left_rad = np.full(len(pairs), np.nan), np.full(len(pairs), np.nan)
    for index in range(len(pairs)):
        try:
            others = pairs.chosen(np.arange(len(pairs)) != index)
        except CalibrationError:
            continue
        without = align(others.camera, others.base)
        left_m[index] = np.linalg.norm(apply_transform(without, pairs.camera[index]) - pairs.base[index])
        left_rad[index] = transform_errors(without, T)[1]
    return PointFit(T, variance * np.linalg.inv(J.T @ J), residuals, left_m, left_rad)


def align(source: Float[np.ndarray, "N 3"], target: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "4 4"]:
    """T_target_source by least squares."""
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    R = nearest_rotation((target - target_mean).T @ (source - source_mean))
    return make_transform(R, target_mean - R @ source_mean)


def is_flat(pairs: PointPairs) -> bool:
    """Whether the points are so nearly in one plane that a mirrored camera frame would fit them as well."""
    return any(_spread(points)[2] < MIN_SPREAD_RATIO * _spread(points)[0] for points in (pairs.camera, pairs.base))


def explain_points(pairs: PointPairs, limits: Limits) -> list[Reading]:
    """The mistakes without which the pairs fit, the best first."""
    found = []
    for mistake, camera, base in _point_readings(pairs):
        T = align(camera, base)
        errors = np.linalg.norm(apply_transform(T, camera) - base, axis=1)
        # A fit to few points leaves less than their noise.
        errors = errors * np.sqrt(3 * len(errors) / (3 * len(errors) - 6))
        if limits.hold(errors, np.zeros_like(errors)):
            found.append(Reading(mistake, float(np.median(errors)), 0.0))
    return sorted(found, key=lambda reading: reading.error_m)


def _point_readings(pairs: PointPairs) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Each usual mistake, and the points as they are without it."""
    camera, base = pairs.camera, pairs.base
    scale = float(np.linalg.norm(_spread(base)) / np.linalg.norm(_spread(camera)))
    if abs(scale - 1.0) > SAME_SCALE:
        yield f"the camera's points are multiplied by {scale:.3g} (units or depth scale)", scale * camera, base
    if not is_flat(pairs):
        mirrored = camera * np.array([-1.0, 1.0, 1.0])
        yield "one frame is left-handed (an axis negated, or two exchanged)", mirrored, base
    if len(pairs) > MIN_PAIRS:
        yield "each base point belongs to the pair before it", camera[:-1], base[1:]
        yield "each base point belongs to the pair after it", camera[1:], base[:-1]
    yield "the base points are in reverse order", camera, base[::-1]
    if len(pairs) > MIN_PAIRS + 1:
        for index, name in enumerate(pairs.names):
            keep = np.arange(len(pairs)) != index
            yield f"pair {name} is left out (touch it again)", camera[keep], base[keep]
