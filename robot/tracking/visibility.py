"""What the arm hides: whether an object lies behind the arm, known from the joints alone.

Lines of sight run from the camera to a disc as large as the object; the arm's solids cut them. Depth images show what
is in front as well (`robot.perception.occlusion`), but not where they have holes, which is where the arm is near, nor
for cameras without depth. What the hand holds is no part of the arm's shape.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from robot.kinematics.collision_geometry import PlacedArm

_HIDDEN_PART = 0.5
"""An object counts as hidden when at least this part of its lines of sight is cut."""
_RING = 12
_TINY = 1e-12


def occluded_by_arm(
    p_base: Float[np.ndarray, " 3"], T_base_camera: Float[np.ndarray, "4 4"], arm: PlacedArm, *, radius_m: float
) -> bool:
    """Whether the arm hides most of an object at p_base (m), of about this radius, from the camera."""
    eye = T_base_camera[:3, 3]
    return bool(lines_cut(eye, _disc(eye, p_base, radius_m), arm).mean() >= _HIDDEN_PART)


def points_on_arm(
    points: Float[np.ndarray, "N 3"], arm: PlacedArm, margin_m: Float[np.ndarray, " N"]
) -> Bool[np.ndarray, " N"]:
    """Whether each point (base frame, m) lies within the arm, or no farther from it than its margin."""
    is_on_arm = np.zeros(len(points), dtype=bool)
    middles, reaches = _balls_around(arm)
    reaches = reaches + margin_m.max(initial=0.0)
    # Few solids are near what is looked at, and to those few of the points.
    low, high = points.min(axis=0, initial=np.inf), points.max(axis=0, initial=-np.inf)
    for index in np.flatnonzero(np.maximum(low - middles, middles - high).max(axis=1) <= reaches):
        near = np.flatnonzero((np.abs(points - middles[index]) <= reaches[index]).all(axis=1))
        is_on_arm[near] |= _on_solid(points[near], arm, int(index), margin_m[near])
    return is_on_arm


def _balls_around(arm: PlacedArm) -> tuple[Float[np.ndarray, "S 3"], Float[np.ndarray, " S"]]:
    """Middles and radii of balls around all solids, cylinders first."""
    half_length = 0.5 * np.linalg.norm(arm.ends - arm.starts, axis=1)
    middles = np.concatenate([0.5 * (arm.starts + arm.ends), arm.T_base_box[:, :3, 3]])
    return middles, np.concatenate([half_length + arm.radii_m, np.linalg.norm(arm.half_m, axis=1)])


def _on_solid(
    points: Float[np.ndarray, "N 3"], arm: PlacedArm, index: int, margin_m: Float[np.ndarray, " N"]
) -> Bool[np.ndarray, " N"]:
    """Whether points lie in one solid widened by their margins; a round end counts as a flat one so much longer."""
    if index >= len(arm.starts):
        T = arm.T_base_box[index - len(arm.starts)]
        from_middle = np.abs((points - T[:3, 3]) @ T[:3, :3])
        return (from_middle <= arm.half_m[index - len(arm.starts)] + margin_m[:, None]).all(axis=1)
    start, radius_m = arm.starts[index], arm.radii_m[index]
    length = float(np.linalg.norm(arm.ends[index] - start))
    axis = (arm.ends[index] - start) / length
    along = (points - start) @ axis
    across = np.linalg.norm(points - start - along[:, None] * axis, axis=1)
    beyond = margin_m + (radius_m if arm.has_round_ends[index] else 0.0)
    return (across <= radius_m + margin_m) & (along >= -beyond) & (along <= length + beyond)


def lines_cut(eye: Float[np.ndarray, " 3"], points: Float[np.ndarray, "N 3"], arm: PlacedArm) -> Bool[np.ndarray, " N"]:
    """Whether the straight way from eye to each point (base frame, m) leads through the arm."""
    return _cut_by_cylinders(eye, points - eye, arm) | _cut_by_boxes(eye, points, arm)


def _disc(eye: Float[np.ndarray, " 3"], middle: Float[np.ndarray, " 3"], radius_m: float) -> Float[np.ndarray, "N 3"]:
    """The middle and two rings of a disc that faces the eye, each point standing for about as much of its area."""
    forward = (middle - eye) / max(float(np.linalg.norm(middle - eye)), _TINY)
    right = np.cross(forward, np.eye(3)[np.argmin(np.abs(forward))])
    right /= np.linalg.norm(right)
    angles = 2.0 * np.pi * np.arange(_RING) / _RING
    circle = np.cos(angles)[:, None] * right + np.sin(angles)[:, None] * np.cross(forward, right)
    return middle + radius_m * np.concatenate([np.zeros((1, 3)), 0.5 * circle[::2], 0.85 * circle])


def _cut_by_cylinders(
    eye: Float[np.ndarray, " 3"], ways: Float[np.ndarray, "N 3"], arm: PlacedArm
) -> Bool[np.ndarray, " N"]:
    """A way is cut where, between the planes of a cylinder's ends, it comes nearer to the axis than the radius."""
    length = np.linalg.norm(arm.ends - arm.starts, axis=1)
    axis = (arm.ends - arm.starts) / length[:, None]
    along, step = ((eye - arm.starts) * axis).sum(axis=1), ways @ axis.T
    enter, leave = _between(along, step, np.zeros_like(length), length)
    across = (eye - arm.starts) - along[:, None] * axis
    drift = ways[:, None] - step[..., None] * axis
    nearest = -(drift * across).sum(axis=-1) / np.maximum((drift**2).sum(axis=-1), _TINY)
    at = np.clip(nearest, enter, np.maximum(enter, leave))
    distance = np.linalg.norm(across + at[..., None] * drift, axis=-1)
    is_cut = (enter <= leave) & (distance <= arm.radii_m)
    balls = np.concatenate([arm.starts[arm.has_round_ends], arm.ends[arm.has_round_ends]])
    return is_cut.any(axis=1) | _cut_by_balls(eye, ways, balls, np.tile(arm.radii_m[arm.has_round_ends], 2))


def _cut_by_balls(
    eye: Float[np.ndarray, " 3"],
    ways: Float[np.ndarray, "N 3"],
    middles: Float[np.ndarray, "S 3"],
    radii_m: Float[np.ndarray, " S"],
) -> Bool[np.ndarray, " N"]:
    nearest = ways @ (middles - eye).T / np.maximum((ways**2).sum(axis=1), _TINY)[:, None]
    points = eye + np.clip(nearest, 0.0, 1.0)[..., None] * ways[:, None]
    return (np.linalg.norm(points - middles, axis=-1) <= radii_m).any(axis=1)


def _cut_by_boxes(
    eye: Float[np.ndarray, " 3"], points: Float[np.ndarray, "N 3"], arm: PlacedArm
) -> Bool[np.ndarray, " N"]:
    """The slab method: a way is cut when it is between all three pairs of faces at once."""
    R, middle = arm.T_base_box[:, :3, :3], arm.T_base_box[:, :3, 3]
    start = np.einsum("bij,bi->bj", R, eye - middle)
    step = np.einsum("bij,ni->nbj", R, points - eye)
    enter, leave = _between(start, step, -arm.half_m, arm.half_m)
    return (enter.max(axis=-1) <= leave.min(axis=-1)).any(axis=1)


def _between(
    start: Float[np.ndarray, "*#s"],
    step: Float[np.ndarray, "*#s"],
    low: Float[np.ndarray, "*#s"],
    high: Float[np.ndarray, "*#s"],
) -> tuple[Float[np.ndarray, "*#s"], Float[np.ndarray, "*#s"]]:
    """Where start + t * step lies within low and high, as t from and to, 0 <= t <= 1; from > to where nowhere."""
    slope = np.where(np.abs(step) < _TINY, _TINY, step)
    first, second = (low - start) / slope, (high - start) / slope
    return np.maximum(np.minimum(first, second), 0.0), np.minimum(np.maximum(first, second), 1.0)
