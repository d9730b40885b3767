"""Whether arm, hand and what it holds keep clear of each other, of the bin and of the table.

Every solid of `solids` is checked against every other that it can come near to. Left out are solids of one link and of
neighbouring links: those turn about a common axis, and their housings touch there by construction. Base and shoulder
stand on the table.

The gates ask for a command and the whole stop after it, 125 times a second. So one pose of every few is judged first:
what is farther apart there than the joints can close on the way to its neighbours is clear in all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from jaxtyping import Bool, Float, Int

from handeye.robot.config import WorkCellConfig
from handeye.robot.kinematics.convex_distance import Placed, least_distances
from handeye.robot.kinematics.forward import UR10E, joint_transforms
from handeye.robot.kinematics.solids import FIXTURE_LINK, HELD, TABLE, Solids, solids_of_cell
from handeye.robot.types import NUM_JOINTS

_STEPS = joint_transforms(np.zeros(NUM_JOINTS))
ROUNDING_M = 1e-9
"""By which a distance may miss its clearance: sums of rounded steps do."""
BLOCK = 12
"""Poses that are judged by one of them."""


class Obstacle(Enum):
    """What a part of arm, hand or held object can come too near to."""

    SELF = "self"
    FIXTURE = "fixture"
    TABLE = "table"


@dataclass(frozen=True, slots=True)
class Clearances:
    """Least distances in m: between parts of arm and hand, of these from bin and table, of a held object from all."""

    self_m: float
    fixture_m: float
    table_m: float
    held_m: float


@dataclass(frozen=True, slots=True)
class NearPair:
    """Two solids by name that are too near: what the second is, a lower bound of their distance, and the least, m."""

    names: str
    obstacle: Obstacle
    distance_m: float
    clearance_m: float


@dataclass(frozen=True, slots=True, eq=False)
class _Pairs:
    """P pairs of solids by number; levers_m is how much nearer they come at most for each rad of each joint."""

    first: Int[np.ndarray, " P"]
    second: Int[np.ndarray, " P"]
    clearance_m: Float[np.ndarray, " P"]
    levers_m: Float[np.ndarray, "P 6"]

    def take(self, rows: np.ndarray) -> _Pairs:
        return _Pairs(self.first[rows], self.second[rows], self.clearance_m[rows], self.levers_m[rows])


class CellClearance:
    """The solids of a cell against each other, and against the table. What is held is a cube as large as the cell has.

    A held object stands on the table when it is grasped, and falls on the bin's floor when it is let go: it is checked
    against the arm and the bin's walls only.
    """

    def __init__(self, cell: WorkCellConfig, clearances: Clearances) -> None:
        self._opening_m, self._solids = 0.0, solids_of_cell(cell)
        self._closed, self._reach_m = self._solids, self._solids.reach_m
        solids = self._closed
        self._all_pairs = _pairs_of(solids, clearances)
        held = solids.names.index(HELD)
        self._bare_pairs = self._all_pairs.take(
            np.flatnonzero((self._all_pairs.first != held) & (self._all_pairs.second != held))
        )
        is_fixture, top_m = solids.links == FIXTURE_LINK, solids.T_frame_solid[:, 2, 3] + solids.half_m[:, 2]
        self._top_m = np.where(is_fixture, top_m, np.inf)

    def too_near(
        self, qpos: Float[np.ndarray, "T 6"], links: Float[np.ndarray, "T 7 4 4"], opening_m: float, *, holds: bool
    ) -> Bool[np.ndarray, " T"]:
        """Whether any two solids are nearer than their clearance, for each of T poses in a row.

        links are the frames of forward kinematics for qpos (rad), holds says whether something is between the fingers.
        """
        solids, pairs = self._opened(opening_m), self._all_pairs if holds else self._bare_pairs
        lowest_m = _lowest_m(solids, links).min(axis=0)
        is_above = _keeps(lowest_m[pairs.first] - self._top_m[pairs.second], pairs.clearance_m)
        pairs = pairs.take(np.flatnonzero(~is_above))
        block, middles, turn_rad = _blocks_of(qpos)
        within_m = pairs.clearance_m + turn_rad @ pairs.levers_m.T
        is_near = ~(self._distances_m(solids, links[middles], pairs, within_m) > within_m)
        found = np.zeros(len(links), dtype=bool)
        if is_near.any():
            block_is_near = np.asarray(is_near.any(axis=1))
            poses, left = np.flatnonzero(block_is_near[block]), pairs.take(np.flatnonzero(is_near.any(axis=0)))
            within_m = np.tile(left.clearance_m, (len(poses), 1))
            found[poses] = ~_keeps(self._distances_m(solids, links[poses], left, within_m), within_m).all(axis=1)
        return found

    def near_pairs(self, links: Float[np.ndarray, "7 4 4"], opening_m: float, *, holds: bool) -> list[NearPair]:
        """The pairs that are nearer than their clearance in one pose, such as "forearm at palm", the nearest first."""
        solids, pairs = self._opened(opening_m), self._all_pairs if holds else self._bare_pairs
        distance_m = self._distances_m(solids, links[None], pairs, pairs.clearance_m[None])[0]
        is_near = ~_keeps(distance_m, pairs.clearance_m)
        found: dict[str, NearPair] = {}
        for row in [row for row in np.argsort(distance_m).tolist() if is_near[row]]:
            first, second = int(pairs.first[row]), int(pairs.second[row])
            names = f"{solids.names[first]} at {solids.names[second]}"
            pair = NearPair(names, _obstacle(solids, second), float(distance_m[row]), float(pairs.clearance_m[row]))
            found.setdefault(names, pair)
        return list(found.values())

    def _opened(self, opening_m: float) -> Solids:
        if opening_m != self._opening_m:  # the gates ask every control period, and fingers seldom move
            self._opening_m, self._solids = opening_m, self._closed.opened(opening_m)
        return self._solids

    def _distances_m(
        self, solids: Solids, links: Float[np.ndarray, "T 7 4 4"], pairs: _Pairs, enough_m: Float[np.ndarray, "T P"]
    ) -> Float[np.ndarray, "T P"]:
        """Lower bounds of the distances of P pairs, m; those above enough_m may be coarse."""
        used = np.zeros(len(solids.names), dtype=bool)
        used[pairs.first] = used[pairs.second] = True
        place = np.cumsum(used) - 1
        T_base_solid = links[:, solids.frames[used]] @ solids.T_frame_solid[used]
        first, second = place[pairs.first], place[pairs.second]
        middles = T_base_solid[..., :3, 3]
        between = middles[:, first] - middles[:, second]
        reach_m = self._reach_m[pairs.first] + self._reach_m[pairs.second]
        bound_m = np.sqrt((between * between).sum(axis=-1)) - reach_m
        pose, pair = np.nonzero(~(bound_m > enough_m))
        if len(pose):
            a = _placed(T_base_solid[pose, first[pair]], solids, pairs.first[pair])
            b = _placed(T_base_solid[pose, second[pair]], solids, pairs.second[pair])
            bound_m[pose, pair] = least_distances(a, b, enough_m[pose, pair])
        return bound_m


def _keeps(
    distance_m: Float[np.ndarray, "*#d"], clearance_m: Float[np.ndarray, "*#d"] | float
) -> Bool[np.ndarray, "*#d"]:
    """Whether distances keep their clearance but for rounding; NaN does not."""
    return np.asarray(distance_m >= clearance_m - ROUNDING_M)


def _obstacle(solids: Solids, number: int) -> Obstacle:
    if solids.links[number] != FIXTURE_LINK:
        return Obstacle.SELF
    return Obstacle.TABLE if solids.names[number] == TABLE else Obstacle.FIXTURE


def _lowest_m(solids: Solids, links: Float[np.ndarray, "T 7 4 4"]) -> Float[np.ndarray, "T N"]:
    """The lowest point of each solid over base z = 0, m."""
    up = (links[:, solids.frames, 2:3] @ solids.T_frame_solid)[:, :, 0]
    own = np.abs(up[..., :3])
    round_m = solids.disc_m * np.sqrt(own[..., 0] ** 2 + own[..., 1] ** 2) + solids.ball_m
    return up[..., 3] - (own * solids.half_m).sum(axis=-1) - round_m


def _placed(T_base_solid: Float[np.ndarray, "M 4 4"], solids: Solids, numbers: Int[np.ndarray, " M"]) -> Placed:
    sizes = solids.half_m[numbers], solids.disc_m[numbers], solids.ball_m[numbers]
    return Placed(T_base_solid[:, :3, 3], T_base_solid[:, :3, :3], *sizes)


def _blocks_of(
    qpos: Float[np.ndarray, "T 6"],
) -> tuple[Int[np.ndarray, " T"], Int[np.ndarray, " B"], Float[np.ndarray, "B 6"]]:
    """Blocks of poses in a row: the block of each, its pose from the middle, and how far joints turn from that, rad."""
    starts = np.arange(0, len(qpos), BLOCK)
    block = np.arange(len(qpos)) // BLOCK
    centres = 0.5 * (np.minimum.reduceat(qpos, starts) + np.maximum.reduceat(qpos, starts))
    off_rad = np.abs(qpos - centres[block]).max(axis=1)
    middles = np.array([start + int(np.argmin(off_rad[start : start + BLOCK])) for start in starts.tolist()])
    return block, middles, np.maximum.reduceat(np.abs(qpos - qpos[middles][block]), starts)


def _pairs_of(solids: Solids, clearances: Clearances) -> _Pairs:
    """The pairs to be checked: those that have a clearance, and that a joint moves against each other."""
    levers_m = _levers_m(solids)
    rows: list[tuple[int, int, float, Float[np.ndarray, " 6"]]] = []
    for second in range(len(solids.names)):
        for first in range(second):
            clearance_m = _clearance_m(solids, first, second, clearances)
            lever_m = _lever_m(solids, first, second, levers_m)
            if clearance_m is not None and lever_m.any():
                rows.append((first, second, clearance_m, lever_m))
    first, second, clearance_m, lever_m = (np.array(values) for values in zip(*rows, strict=True))
    return _Pairs(first, second, clearance_m, lever_m)


def _clearance_m(solids: Solids, first: int, second: int, clearances: Clearances) -> float | None:
    """The least distance of two solids, None where it is not checked."""
    held, link = HELD in (solids.names[first], solids.names[second]), int(solids.links[first])
    match _obstacle(solids, second):
        case Obstacle.TABLE:
            return clearances.table_m if link > 1 and not held else None
        case Obstacle.FIXTURE if held:
            return clearances.held_m if solids.names[second] != "bin_floor" else None
        case Obstacle.FIXTURE:
            return clearances.fixture_m if link > 0 else None
        case _:
            return None if solids.links[second] - link < 2 else clearances.held_m if held else clearances.self_m


def _lever_m(solids: Solids, first: int, second: int, levers_m: Float[np.ndarray, "N 6"]) -> Float[np.ndarray, " 6"]:
    """How much nearer two solids come at most for each rad of each joint, m.

    Joint j + 1 moves every frame beyond j, but turns a housing that is round about it into itself.
    """
    low, high = sorted((first, second), key=lambda number: int(solids.frames[number]))
    start, end = int(solids.frames[low]), int(solids.frames[high])
    joints = np.arange(NUM_JOINTS)
    moving = (joints >= start) & (joints < end)
    if start < end:
        moving[start] &= not _is_round(solids, low, solids.T_frame_solid[low])
        moving[end - 1] &= not _is_round(solids, high, _STEPS[end - 1] @ solids.T_frame_solid[high])
    return np.where(moving, levers_m[high], 0.0)


def _is_round(solids: Solids, number: int, T_axis_solid: Float[np.ndarray, "4 4"]) -> bool:
    """Whether a solid is round about the z axis of a frame."""
    is_on_axis = np.abs(T_axis_solid[:2, 2:]).max() < ROUNDING_M
    return bool(is_on_axis and not solids.half_m[number, :2].any())


def _levers_m(solids: Solids) -> Float[np.ndarray, "N 6"]:
    """How far any point of a solid is from each joint's axis at most, whatever the joints between do, m."""
    lengths_m = np.hypot(UR10E.a_m, UR10E.d_m)
    levers_m = np.zeros((len(solids.names), NUM_JOINTS))
    for number, frame in enumerate(solids.frames.tolist()):
        if frame == 0:
            continue
        p_before = (_STEPS[frame - 1] @ solids.T_frame_solid[number])[:3, 3]
        levers_m[number, frame - 1] = np.hypot(*p_before[:2]) + solids.reach_m[number]
        for joint in range(frame - 1):
            # A link's length along the joint's own axis does not count.
            chain_m = abs(UR10E.a_m[joint]) + lengths_m[joint + 1 : frame - 1].sum()
            levers_m[number, joint] = chain_m + np.linalg.norm(p_before) + solids.reach_m[number]
    return levers_m
