"""Target selection: which track is the object to pick, and whether it has been detected since a given moment."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from pydantic import Field

from handeye.robot.config import WorkCellConfig
from handeye.robot.interfaces import PickTask
from handeye.robot.types import Track, TrackStatus
from handeye.vision.config import Config

IN_PLACE_MARGIN_M = 0.03
"""An object whose centre is measured this far outside of the place's walls is not in it."""


class LookConfig(Config):
    """Where the skill looks from, and which detections it acts on."""

    min_hits: int = Field(default=2, ge=1)
    """New detections that an object needs before the skill acts on it."""
    wait_s: float = Field(default=0.6, gt=0)
    """How long one view may take to show the object."""
    search_height_m: float = Field(default=0.45, gt=0)
    """Camera height over the table in the closer views that follow when the wide view shows nothing."""
    size_tolerance_m: float = Field(default=0.012, gt=0)
    """How far a measured length may lie outside the sizes that the cell knows for its cubes."""
    height_tolerance_m: float = Field(default=0.008, gt=0)
    """How far a centre may lie below that of the smallest cube on the table; what is flatter is no cube."""


class RecentHits:
    """Counts the detections that each track has gained since this was made.

    A track that only coasts gains none, so an old estimate is never taken for a new detection.
    """

    def __init__(self, tracks: Sequence[Track]) -> None:
        self._hits_before = {track.track_id: track.num_hits for track in tracks}

    def fresh_hits(self, track: Track) -> int:
        """Detections of `track` since this was made."""
        return track.num_hits - self._hits_before.get(track.track_id, 0)

    def best(
        self,
        tracks: Sequence[Track],
        is_candidate: Callable[[Track], bool],
        min_hits: int,
        prefer: Callable[[Track], float] = lambda track: 0.0,
    ) -> Track | None:
        """The most preferred candidate with at least `min_hits` new detections that is not lost; None without one.

        Of equally preferred candidates the one with the highest score.
        """
        seen = [track for track in tracks if self.fresh_hits(track) >= min_hits and is_candidate(track)]
        alive = [track for track in seen if track.status is not TrackStatus.LOST]
        return max(alive, key=lambda track: (prefer(track), track.score, -track.track_id), default=None)


def looks_like_target(track: Track, task: PickTask, cell: WorkCellConfig, look: LookConfig) -> bool:
    """Whether a track has the task's class, and is as high and as long as a cube on the table can be."""
    if track.class_name != task.class_name:
        return False
    smallest, largest = cell.cube_edge_m
    height_m = float(track.p_base[2]) - cell.table.height_m
    if not smallest / 2 - look.height_tolerance_m < height_m < 2 * largest:
        return False
    lengths = [] if track.size_m is None else track.size_m[:2]
    return all(abs(length - np.clip(length, smallest, largest)) < look.size_tolerance_m for length in lengths)


def is_in_place(task: PickTask, p_base: Float[np.ndarray, " 3"]) -> bool:
    """Whether a centre at `p_base` lies between the walls of the task's place and below their top."""
    offset = np.abs(p_base[:2] - task.place_p_base[:2])
    below_top = p_base[2] < task.place_p_base[2] + task.place_wall_m
    return bool(np.all(offset < task.place_size_m / 2 + IN_PLACE_MARGIN_M) and below_top)
