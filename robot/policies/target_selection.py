"""Which track is the object to pick, and whether it has really been seen since a given moment."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from handeye.robot.interfaces import PickTask
from handeye.robot.types import Track, TrackStatus

IN_PLACE_MARGIN_M = 0.03
"""An object whose centre is measured this far outside of the place's walls is not in it."""


class RecentHits:
    """One look: counts the detections that each track has gained since the look began.

    A track that only coasts gains none, so an old belief is never taken for a sighting.
    """

    def __init__(self, tracks: Sequence[Track]) -> None:
        self._hits_before = {track.track_id: track.num_hits for track in tracks}

    def fresh_hits(self, track: Track) -> int:
        """Detections of `track` since the look began."""
        return track.num_hits - self._hits_before.get(track.track_id, 0)

    def best(
        self,
        tracks: Sequence[Track],
        wanted: Callable[[Track], bool],
        min_hits: int,
        prefer: Callable[[Track], float] = lambda track: 0.0,
    ) -> Track | None:
        """Of the wanted tracks seen at least `min_hits` times in this look the one most preferred.

        Among equally preferred ones that with the highest score; None when there is no wanted track.
        """
        seen = [track for track in tracks if self.fresh_hits(track) >= min_hits and wanted(track)]
        alive = [track for track in seen if track.status is not TrackStatus.LOST]
        return max(alive, key=lambda track: (prefer(track), track.score, -track.track_id), default=None)


def is_in_place(task: PickTask, p_base: Float[np.ndarray, " 3"]) -> bool:
    """Whether a centre at `p_base` lies between the walls of the task's place and below their top."""
    offset = np.abs(p_base[:2] - task.place_p_base[:2])
    below_top = p_base[2] < task.place_p_base[2] + task.place_wall_m
    return bool(np.all(offset < task.place_size_m / 2 + IN_PLACE_MARGIN_M) and below_top)
