"""Collision geometry of arm, hand and camera: shapes, and what they hide from a camera.

Cylinders and boxes are fixed to the link frames. The simulator builds its bodies from them, tracking asks what the arm
hides, and the safety gates keep them apart (`clearance`). Universal Robots publishes lengths but no shapes: radii are
approximate.

Occlusion comes from the joints alone: lines of sight run from the camera to a disc as large as the object, and the
arm's solids cut them. Depth images show it too (`robot.perception.occlusion`), but not in their holes, which are where
the arm is near. What the hand holds is not part of the arm's shape.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from handeye.robot.config import Vector3, WorkCellConfig
from handeye.robot.kinematics.forward import link_frames
from handeye.robot.kinematics.hand_geometry import COUPLING_RADIUS_M, PALM_START_M, hand_boxes, hand_mounting
from handeye.robot.transforms import apply_transform, make_transform, rotvec_to_rotation
from handeye.robot.types import NUM_JOINTS

_HIDDEN_PART = 0.5  # an object counts as hidden when at least this part of its lines of sight is cut
_RING = 12
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class LinkPart:
    """A cylinder of a link, from one point to another in the link's frame, m.

    Link 0 is the base, link i = 1..6 is frame i - 1 of the DH table turned by joint i, link 7 the tool.
    """

    link: int
    start: Vector3
    end: Vector3
    radius_m: float
    has_round_ends: bool = False


_TOOL = NUM_JOINTS + 1

UR10E_PARTS = (
    LinkPart(0, (0.0, 0.0, 0.0), (0.0, 0.0, 0.10), 0.095),
    LinkPart(1, (0.0, 0.0, 0.10), (0.0, 0.0, 0.26), 0.088),
    LinkPart(1, (0.0, 0.06, 0.1807), (0.0, -0.10, 0.1807), 0.085),
    # The upper arm runs 176 mm beside the shoulder's axis, the forearm 39 mm, the wrist 174 mm.
    LinkPart(2, (0.0, 0.0, 0.10), (0.0, 0.0, 0.25), 0.085),
    LinkPart(2, (-0.05, 0.0, 0.176), (-0.57, 0.0, 0.176), 0.062, has_round_ends=True),
    LinkPart(2, (-0.6127, 0.0, 0.235), (-0.6127, 0.0, 0.09), 0.068),
    LinkPart(3, (0.0, 0.0, 0.09), (0.0, 0.0, -0.025), 0.066),
    LinkPart(3, (-0.04, 0.0, 0.039), (-0.54, 0.0, 0.039), 0.048, has_round_ends=True),
    LinkPart(3, (-0.57155, 0.0, -0.01), (-0.57155, 0.0, 0.10), 0.049),
    LinkPart(4, (0.0, 0.0, 0.10), (0.0, 0.0, 0.22), 0.047),
    LinkPart(4, (0.0, 0.05, 0.17415), (0.0, -0.07, 0.17415), 0.046),
    LinkPart(5, (0.0, 0.0, 0.07), (0.0, 0.0, 0.165), 0.046),
    LinkPart(5, (0.0, -0.05, 0.11985), (0.0, 0.06, 0.11985), 0.045),
    LinkPart(6, (0.0, 0.0, 0.058), (0.0, 0.0, 0.11655), 0.0375),
)
COUPLING = LinkPart(_TOOL, (0.0, 0.0, 0.0), (0.0, 0.0, PALM_START_M), COUPLING_RADIUS_M)


@dataclass(frozen=True, slots=True, eq=False)
class PlacedArm:
    """The arm's solids in the base frame (m): C cylinders and B boxes, each box given by its middle and half sizes."""

    starts: Float[np.ndarray, "C 3"]
    ends: Float[np.ndarray, "C 3"]
    radii_m: Float[np.ndarray, " C"]
    has_round_ends: Bool[np.ndarray, " C"]
    T_base_box: Float[np.ndarray, "B 4 4"]
    half_m: Float[np.ndarray, "B 3"]

    def without_tool(self) -> PlacedArm:
        """The arm up to its fifth link: not what turns with the tool, whatever is mounted there."""
        kept = slice(0, sum(part.link < NUM_JOINTS for part in UR10E_PARTS))
        nothing = slice(0, 0)
        return PlacedArm(
            self.starts[kept],
            self.ends[kept],
            self.radii_m[kept],
            self.has_round_ends[kept],
            self.T_base_box[nothing],
            self.half_m[nothing],
        )


class ArmShape:
    """The arm of a cell with its hand and camera, to be placed by its joints."""

    def __init__(self, cell: WorkCellConfig) -> None:
        self._cell = cell
        parts = (*UR10E_PARTS, COUPLING)
        T_tool_hand = hand_mounting(cell).T_tool_hand
        self._links = np.array([part.link for part in parts])
        self._starts = np.array([part.start for part in parts])
        self._ends = np.array([part.end for part in parts])
        self._starts[-1], self._ends[-1] = apply_transform(T_tool_hand, np.array([COUPLING.start, COUPLING.end]))
        self._radii_m = np.array([part.radius_m for part in parts])
        self._has_round_ends = np.array([part.has_round_ends for part in parts])

    def place(self, qpos: Float[np.ndarray, " 6"], opening_m: float) -> PlacedArm:
        """The solids with the joints at qpos (rad) and the fingers opening_m apart."""
        frames = _link_poses(qpos)
        own = frames[self._links]
        T_tool_box, half_m = hand_boxes(self._cell, opening_m)
        starts, ends = _move(own, self._starts), _move(own, self._ends)
        return PlacedArm(starts, ends, self._radii_m, self._has_round_ends, frames[_TOOL] @ T_tool_box, half_m)


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


def lines_cut(eye: Float[np.ndarray, " 3"], points: Float[np.ndarray, "N 3"], arm: PlacedArm) -> Bool[np.ndarray, " N"]:
    """Whether the straight way from eye to each point (base frame, m) leads through the arm."""
    return _cut_by_cylinders(eye, points - eye, arm) | _cut_by_boxes(eye, points, arm)


def _link_poses(qpos: Float[np.ndarray, " 6"]) -> Float[np.ndarray, "8 4 4"]:
    """Poses in the base frame of the links that parts are fixed to."""
    frames = link_frames(qpos)
    turns = np.zeros((NUM_JOINTS, 3))
    turns[:, 2] = qpos
    turned = frames[:NUM_JOINTS] @ make_transform(rotvec_to_rotation(turns), np.zeros(3))
    return np.concatenate([frames[:1], turned, frames[NUM_JOINTS:]])


def _move(T: Float[np.ndarray, "C 4 4"], points: Float[np.ndarray, "C 3"]) -> Float[np.ndarray, "C 3"]:
    return (T[:, :3, :3] @ points[:, :, None])[:, :, 0] + T[:, :3, 3]


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
