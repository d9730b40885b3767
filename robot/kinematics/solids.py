"""The solids of arm, hand, held object, bin and table as arrays, each fixed to a frame of `forward.link_frames`.

They are the shapes of `collision_geometry`, `hand_geometry` and `fixtures`, which the simulator builds its bodies from.
Each is a box swept over a disc (a box without width: a cylinder) or over a ball (a capsule). All are symmetric about
their middles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from handeye.robot.config import WorkCellConfig
from handeye.robot.kinematics.collision_geometry import COUPLING, UR10E_PARTS, LinkPart
from handeye.robot.kinematics.fixtures import fixtures_of_cell
from handeye.robot.kinematics.forward import joint_transforms
from handeye.robot.kinematics.hand_geometry import HAND_BOXES, hand_boxes, hand_mounting
from handeye.robot.transforms import inverse, make_transform
from handeye.robot.types import NUM_JOINTS

LINK_NAMES = ("base", "shoulder", "upper arm", "forearm", "wrist 1", "wrist 2", "wrist 3")
FIXTURE_LINK, HAND_LINK = -1, NUM_JOINTS + 1
HELD, TABLE = "held object", "table"
UNDER_TABLE_M = 1.0
"""What stands below the table's top is not known: it counts as solid so far down."""
_CLOSED_M, _OPEN_M = 0.0, 1.0


@dataclass(frozen=True, slots=True)
class Solid:
    """A solid in its frame, m: half sizes of the box along its axes, radii of the disc across z and of the ball.

    link is the number of its link: -1 bin and table, 0 the base, 7 the hand. frame is the one that it is fixed to.
    """

    name: str
    link: int
    frame: int
    T_frame_solid: Float[np.ndarray, "4 4"]
    half_m: Sequence[float]
    disc_m: float = 0.0
    ball_m: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Solids:
    """N solids as arrays; slope is how far the middle moves in the frame for each metre that the fingers open."""

    names: tuple[str, ...]
    links: Int[np.ndarray, " N"]
    frames: Int[np.ndarray, " N"]
    T_frame_solid: Float[np.ndarray, "N 4 4"]
    half_m: Float[np.ndarray, "N 3"]
    disc_m: Float[np.ndarray, " N"]
    ball_m: Float[np.ndarray, " N"]
    slope: Float[np.ndarray, "N 3"]

    @property
    def reach_m(self) -> Float[np.ndarray, " N"]:
        """Radii of balls around the middles that hold the solids."""
        return np.hypot(np.hypot(*self.half_m[:, :2].T) + self.disc_m, self.half_m[:, 2]) + self.ball_m

    def opened(self, opening_m: float) -> Solids:
        """The same with the fingers, which are closed in this one, so far apart."""
        T_frame_solid = self.T_frame_solid.copy()
        T_frame_solid[:, :3, 3] += self.slope * opening_m
        return replace(self, T_frame_solid=T_frame_solid)


def solids_of_cell(cell: WorkCellConfig) -> Solids:
    """Arm, hand with closed fingers, the largest object between them, bin and table, in this order."""
    solids = [*_links(cell), *_hand(cell, _CLOSED_M), *_fixtures(cell)]
    slope = np.zeros((len(solids), 3))
    for opened in _hand(cell, _OPEN_M):
        number = next(n for n, solid in enumerate(solids) if solid.name == opened.name)
        slope[number] = (opened.T_frame_solid - solids[number].T_frame_solid)[:3, 3] / (_OPEN_M - _CLOSED_M)
    return Solids(
        tuple(solid.name for solid in solids),
        np.array([solid.link for solid in solids]),
        np.array([solid.frame for solid in solids]),
        np.array([solid.T_frame_solid for solid in solids]),
        np.array([solid.half_m for solid in solids], dtype=np.float64),
        np.array([solid.disc_m for solid in solids]),
        np.array([solid.ball_m for solid in solids]),
        slope,
    )


def _links(cell: WorkCellConfig) -> list[Solid]:
    """The arm's cylinders and capsules. Link i is fixed to frame i, a row of the DH table behind its joint."""
    behind_joint = inverse(joint_transforms(np.zeros(NUM_JOINTS)))
    T_frame_link = [np.eye(4), *behind_joint, hand_mounting(cell).T_tool_hand]
    solids: list[Solid] = []
    for part in (*UR10E_PARTS, COUPLING):
        T_link_solid, half_length_m = _along(part)
        name = "coupling" if part is COUPLING else LINK_NAMES[part.link]
        pose, half_m = T_frame_link[part.link] @ T_link_solid, (0.0, 0.0, half_length_m)
        disc_m, ball_m = (0.0, part.radius_m) if part.has_round_ends else (part.radius_m, 0.0)
        solids.append(Solid(name, part.link, min(part.link, NUM_JOINTS), pose, half_m, disc_m, ball_m))
    return solids


def _hand(cell: WorkCellConfig, opening_m: float) -> list[Solid]:
    """The boxes of the hand, and a cube as large as the cell has them at the grasp point."""
    poses, half_m = hand_boxes(cell, opening_m)
    cube = (HELD, cell.T_tool_tcp, (cell.cube_edge_m[1] / 2,) * 3)
    boxes = [*zip(HAND_BOXES, poses, half_m.tolist(), strict=True), cube]
    return [Solid(name, HAND_LINK, NUM_JOINTS, pose, half) for name, pose, half in boxes]


def _fixtures(cell: WorkCellConfig) -> list[Solid]:
    """The bin, and the table with all that is below its top."""
    fixtures, depth_m = fixtures_of_cell(cell), UNDER_TABLE_M / 2
    low, high = np.array(cell.table.low_xy_m), np.array(cell.table.high_xy_m)
    boxes = [
        *zip(fixtures.names, fixtures.middles, fixtures.half_m.tolist(), strict=True),
        (TABLE, np.array([*(low + high) / 2, cell.table.height_m - depth_m]), [*(high - low) / 2, depth_m]),
    ]
    return [Solid(name, FIXTURE_LINK, 0, make_transform(np.eye(3), middle), half) for name, middle, half in boxes]


def _along(part: LinkPart) -> tuple[Float[np.ndarray, "4 4"], float]:
    """The pose of a cylinder in its link, z along its axis, and half its length, m."""
    start, end = np.array(part.start), np.array(part.end)
    length_m = float(np.linalg.norm(end - start))
    z = (end - start) / length_m
    x = np.cross(z, np.eye(3)[np.argmin(np.abs(z))])
    x /= np.linalg.norm(x)
    return make_transform(np.stack([x, np.cross(z, x), z], axis=1), (start + end) / 2), length_m / 2
