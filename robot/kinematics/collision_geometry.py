"""The shape of arm, hand and camera: cylinders and boxes fixed to their frames, as drawn.

The simulator builds its bodies from these numbers, and tracking asks them what the arm hides. Universal Robots
publishes lengths but no shapes; radii are of about the right size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from robot.config import Vector3, WorkCellConfig
from robot.kinematics.forward import link_frames
from robot.types import NUM_JOINTS
from robot.transforms import make_transform, rotvec_to_rotation

PALM_START_M, PALM_END_M = 0.03, 0.095
PALM_HALF_XY_M = (0.050, 0.030)
COUPLING_RADIUS_M = 0.0375
PAD_LENGTH_M, PAD_WIDTH_M, PAD_THICKNESS_M = 0.046, 0.022, 0.008
FINGER_HALF_XY_M = (0.006, 0.010)
FINGER_SHORT_OF_TIP_M = 0.004
HOUSING_HALF_M = (0.062, 0.0145, 0.013)
HOUSING_BEHIND_LENS_M = 0.020
BRACKET_HALF_X_M, BRACKET_HALF_Z_M, BRACKET_Z_M = 0.02, 0.004, 0.006


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
_COUPLING = LinkPart(_TOOL, (0.0, 0.0, 0.0), (0.0, 0.0, PALM_START_M), COUPLING_RADIUS_M)


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
        parts = (*UR10E_PARTS, _COUPLING)
        self._links = np.array([part.link for part in parts])
        self._starts = np.array([part.start for part in parts])
        self._ends = np.array([part.end for part in parts])
        self._radii_m = np.array([part.radius_m for part in parts])
        self._has_round_ends = np.array([part.has_round_ends for part in parts])

    def place(self, qpos: Float[np.ndarray, " 6"], opening_m: float) -> PlacedArm:
        """The solids with the joints at qpos (rad) and the fingers opening_m apart."""
        frames = _link_poses(qpos)
        own = frames[self._links]
        T_tool_box, half_m = hand_boxes(self._cell, opening_m)
        starts, ends = _move(own, self._starts), _move(own, self._ends)
        return PlacedArm(starts, ends, self._radii_m, self._has_round_ends, frames[_TOOL] @ T_tool_box, half_m)


def hand_boxes(cell: WorkCellConfig, opening_m: float) -> tuple[Float[np.ndarray, "7 4 4"], Float[np.ndarray, "7 3"]]:
    """Palm, fingers, pads, camera housing and bracket: their middles in the tool frame and half sizes, m."""
    tip_m = cell.tool_tcp.translation_m[2] + cell.gripper.fingertip_beyond_tcp_m
    finger_end_m = tip_m - FINGER_SHORT_OF_TIP_M
    T_tool_camera = cell.T_tool_camera
    T_camera_housing = make_transform(np.eye(3), np.array([0.0, 0.0, -HOUSING_BEHIND_LENS_M]))
    lens_y = float(T_tool_camera[1, 3])
    rows = [
        ((0.0, 0.0, 0.5 * (PALM_START_M + PALM_END_M)), (*PALM_HALF_XY_M, 0.5 * (PALM_END_M - PALM_START_M))),
        ((0.0, 0.5 * lens_y, BRACKET_Z_M), (BRACKET_HALF_X_M, 0.5 * abs(lens_y), BRACKET_HALF_Z_M)),
    ]
    for sign in (1.0, -1.0):
        pad_x = sign * 0.5 * (opening_m + PAD_THICKNESS_M)
        back_x = sign * (0.5 * opening_m + PAD_THICKNESS_M + FINGER_HALF_XY_M[0])
        back = (*FINGER_HALF_XY_M, 0.5 * (finger_end_m - PALM_END_M))
        rows.append(((back_x, 0.0, 0.5 * (PALM_END_M + finger_end_m)), back))
        pad = (0.5 * PAD_THICKNESS_M, 0.5 * PAD_WIDTH_M, 0.5 * PAD_LENGTH_M)
        rows.append(((pad_x, 0.0, tip_m - 0.5 * PAD_LENGTH_M), pad))
    middles, halves = zip(*rows, strict=True)
    level = make_transform(np.broadcast_to(np.eye(3), (len(rows), 3, 3)), np.array(middles))
    housing = (T_tool_camera @ T_camera_housing)[None]
    return np.concatenate([level, housing]), np.array([*halves, HOUSING_HALF_M])


def _link_poses(qpos: Float[np.ndarray, " 6"]) -> Float[np.ndarray, "8 4 4"]:
    """Poses in the base frame of the links that parts are fixed to."""
    frames = link_frames(qpos)
    turns = np.zeros((NUM_JOINTS, 3))
    turns[:, 2] = qpos
    turned = frames[:NUM_JOINTS] @ make_transform(rotvec_to_rotation(turns), np.zeros(3))
    return np.concatenate([frames[:1], turned, frames[NUM_JOINTS:]])


def _move(T: Float[np.ndarray, "C 4 4"], points: Float[np.ndarray, "C 3"]) -> Float[np.ndarray, "C 3"]:
    return (T[:, :3, :3] @ points[:, :, None])[:, :, 0] + T[:, :3, 3]
