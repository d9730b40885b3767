"""Upright 3D boxes and their intersection over union.

A box stands on its bottom face: it may turn about the vertical only, as cars, people and objects on a table do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64

_SIGNS = np.array([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])
_TOUCHING = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Volumes:
    """N boxes in a frame whose z axis points up: centres (m), sizes (length, width, height in m), yaw of the length.

    Raises ValueError when lengths disagree, numbers are not finite or a size is not above zero.
    """

    centres: Float[np.ndarray, "N 3"]
    sizes_m: Float[np.ndarray, "N 3"]
    yaws_rad: Float[np.ndarray, " N"]

    def __post_init__(self) -> None:
        num = len(self.yaws_rad)
        if self.centres.shape != (num, 3) or self.sizes_m.shape != (num, 3) or self.yaws_rad.shape != (num,):
            shapes = (self.centres.shape, self.sizes_m.shape, self.yaws_rad.shape)
            raise ValueError(f"expected centres (N, 3), sizes_m (N, 3) and yaws_rad (N,), got {shapes}")
        if not all(np.isfinite(values).all() for values in (self.centres, self.sizes_m, self.yaws_rad)):
            raise ValueError("expected finite centres, sizes and yaws of boxes, got NaN or infinity")
        if num and self.sizes_m.min() <= 0.0:
            raise ValueError(f"expected box sizes above zero, got {self.sizes_m.min():g} m")

    @classmethod
    def empty(cls) -> Volumes:
        """No box at all."""
        return cls(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0))

    def __len__(self) -> int:
        return len(self.yaws_rad)

    def __getitem__(self, chosen: Bool[np.ndarray, " N"] | Int64[np.ndarray, " M"] | slice) -> Volumes:
        """The chosen boxes: a mask, indices or a slice."""
        return Volumes(self.centres[chosen], self.sizes_m[chosen], self.yaws_rad[chosen])

    def footprints(self) -> Float[np.ndarray, "N 4 2"]:
        """Corners seen from above (m), counter-clockwise."""
        c, s = np.cos(self.yaws_rad), np.sin(self.yaws_rad)
        rotations = np.stack([np.stack([c, -s], -1), np.stack([s, c], -1)], -2)
        corners = 0.5 * self.sizes_m[:, None, :2] * _SIGNS
        return corners @ np.swapaxes(rotations, 1, 2) + self.centres[:, None, :2]

    def corners(self) -> Float[np.ndarray, "N 8 3"]:
        """The four corners of the bottom, then of the top (m)."""
        flat, half = self.footprints(), 0.5 * self.sizes_m[:, None, None, 2]
        middle = self.centres[:, None, None, 2]
        levels = [np.broadcast_to(middle + sign * half, (*flat.shape[:2], 1)) for sign in (-1.0, 1.0)]
        return np.concatenate([np.concatenate([flat, level], axis=-1) for level in levels], axis=1)


def volume_iou(a: Volumes, b: Volumes) -> Float[np.ndarray, "A B"]:
    """Intersection over union of each box of `a` with each of `b`, by volume."""
    rows, columns = _near_pairs(a, b)
    overlap = np.zeros((len(a), len(b)))
    if len(rows):
        shared = _shared_height(a[rows], b[columns]) * convex_overlap(a.footprints()[rows], b.footprints()[columns])
        volumes = a.sizes_m.prod(axis=1)[rows] + b.sizes_m.prod(axis=1)[columns]
        overlap[rows, columns] = shared / (volumes - shared)
    return overlap


def convex_overlap(a: Float[np.ndarray, "P 4 2"], b: Float[np.ndarray, "P 4 2"]) -> Float[np.ndarray, " P"]:
    """Areas that two convex quadrilaterals (counter-clockwise) share, pair by pair.

    The shared polygon's corners are the corners of each that lie in the other, and the crossings of their sides.
    """
    crossings, crosses = _crossings(a, b)
    points = np.concatenate([a, b, crossings], axis=1)
    is_corner = np.concatenate([_inside(a, b), _inside(b, a), crosses], axis=1)
    middle = (points * is_corner[..., None]).sum(axis=1) / np.maximum(is_corner.sum(axis=1), 1)[:, None]
    offsets = np.where(is_corner[..., None], points - middle[:, None], 0.0)
    angles = np.where(is_corner, np.arctan2(offsets[..., 1], offsets[..., 0]), np.inf)
    # Unused places hold the first corner of all once more, which adds no area wherever it stands.
    order = np.argsort(angles, axis=1)
    sorted_points = np.take_along_axis(offsets, order[..., None], axis=1)
    is_used = np.take_along_axis(is_corner, order, axis=1)
    ring = np.where(is_used[..., None], sorted_points, sorted_points[:, :1])
    following = np.roll(ring, -1, axis=1)
    areas = 0.5 * (ring[..., 0] * following[..., 1] - following[..., 0] * ring[..., 1]).sum(axis=1)
    return np.where(is_corner.sum(axis=1) >= 3, np.maximum(areas, 0.0), 0.0)


def _near_pairs(a: Volumes, b: Volumes) -> tuple[Int64[np.ndarray, " P"], Int64[np.ndarray, " P"]]:
    """Pairs whose surrounding circles and heights meet; all others share nothing."""
    reach_a, reach_b = (0.5 * np.linalg.norm(boxes.sizes_m[:, :2], axis=1) for boxes in (a, b))
    offsets = np.linalg.norm(a.centres[:, None, :2] - b.centres[None, :, :2], axis=-1)
    apart = np.abs(a.centres[:, None, 2] - b.centres[None, :, 2])
    is_near = offsets < reach_a[:, None] + reach_b
    rows, columns = np.nonzero(is_near & (apart < 0.5 * (a.sizes_m[:, None, 2] + b.sizes_m[None, :, 2])))
    return rows, columns


def _shared_height(a: Volumes, b: Volumes) -> Float[np.ndarray, " P"]:
    """Height (m) that boxes share, pair by pair."""
    top = np.minimum(a.centres[:, 2] + 0.5 * a.sizes_m[:, 2], b.centres[:, 2] + 0.5 * b.sizes_m[:, 2])
    bottom = np.maximum(a.centres[:, 2] - 0.5 * a.sizes_m[:, 2], b.centres[:, 2] - 0.5 * b.sizes_m[:, 2])
    return np.maximum(top - bottom, 0.0)


def _inside(points: Float[np.ndarray, "P 4 2"], polygon: Float[np.ndarray, "P 4 2"]) -> Bool[np.ndarray, "P 4"]:
    """Whether each point lies to the left of every side of its polygon, or on it."""
    sides = np.roll(polygon, -1, axis=1) - polygon
    to_point = points[:, :, None] - polygon[:, None]
    return np.asarray((_cross(sides[:, None], to_point) >= -_TOUCHING).all(axis=2))


def _crossings(a: np.ndarray, b: np.ndarray) -> tuple[Float[np.ndarray, "P 16 2"], Bool[np.ndarray, "P 16"]]:
    """Where sides of `a` cross sides of `b`, and which of the sixteen pairs of sides do."""
    start_a, along_a = a[:, :, None], (np.roll(a, -1, axis=1) - a)[:, :, None]
    start_b, along_b = b[:, None], (np.roll(b, -1, axis=1) - b)[:, None]
    turn = _cross(along_a, along_b)
    is_parallel = np.abs(turn) < _TOUCHING
    safe = np.where(is_parallel, 1.0, turn)
    part_a, part_b = _cross(start_b - start_a, along_b) / safe, _cross(start_b - start_a, along_a) / safe
    is_crossing = ~is_parallel & (part_a >= 0.0) & (part_a <= 1.0) & (part_b >= 0.0) & (part_b <= 1.0)
    points = start_a + part_a[..., None] * along_a
    return points.reshape(len(a), 16, 2), is_crossing.reshape(len(a), 16)


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The z component of a x b."""
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
