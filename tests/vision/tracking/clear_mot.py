"""CLEAR MOT: how well tracks follow true objects, counted frame by frame, whatever "the same place" means.

Bernardin and Stiefelhagen, "Evaluating multiple object tracking performance: the CLEAR MOT metrics" (2008): a pair that
was matched before stays matched while it is near enough, the rest is matched anew, as many pairs as possible.
It knows ignored objects, such as KITTI labels; motmetrics, by which vision/tracking/metrics.py judges, knows none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float

from handeye.robot.perception.association import assign


@dataclass(frozen=True, slots=True)
class FrameMatch:
    """What one frame gave: pairs of (truth id, track id), and truths whose track is another one than before."""

    pairs: tuple[tuple[int, int], ...]
    switched: tuple[int, ...]


@dataclass(slots=True)
class ClearMot:
    """Running counts; `add` each frame in order. Distances are in any unit, of which max_distance is the largest match.

    Truths marked as ignored (too small, too hidden) may be matched or not, neither counts; a track marked as ignored is
    no false positive when nothing matches it.
    """

    max_distance: float
    num_truths: int = 0
    num_matches: int = 0
    num_misses: int = 0
    num_false_positives: int = 0
    sum_distance: float = 0.0
    switches: Counter[int] = field(default_factory=Counter)
    """How often the track of each true object changed."""
    _track_of: dict[int, int] = field(default_factory=dict)

    @property
    def num_switches(self) -> int:
        """Changes of identity of all true objects together."""
        return sum(self.switches.values())

    @property
    def mota(self) -> float:
        """1 - (misses + false positives + switches) / truths; NaN without any truth."""
        if not self.num_truths:
            return float("nan")
        return 1.0 - (self.num_misses + self.num_false_positives + self.num_switches) / self.num_truths

    @property
    def mean_distance(self) -> float:
        """Mean distance of matched pairs (MOTP); NaN without a match."""
        return self.sum_distance / self.num_matches if self.num_matches else float("nan")

    def add(
        self,
        truth_ids: Sequence[int],
        track_ids: Sequence[int],
        distances: Float[np.ndarray, "T D"],
        *,
        ignored_truths: Bool[np.ndarray, " T"] | None = None,
        ignored_tracks: Bool[np.ndarray, " D"] | None = None,
    ) -> FrameMatch:
        """Count one frame: distances of each truth (rows) to each track; NaN and infinity forbid a pair."""
        truth_ignored = np.zeros(len(truth_ids), bool) if ignored_truths is None else ignored_truths
        track_ignored = np.zeros(len(track_ids), bool) if ignored_tracks is None else ignored_tracks
        rows, columns = self._match(truth_ids, track_ids, distances)
        counted = ~truth_ignored[rows]
        self.num_truths += int(np.count_nonzero(~truth_ignored))
        self.num_matches += int(np.count_nonzero(counted))
        self.num_misses += int(np.count_nonzero(~truth_ignored)) - int(np.count_nonzero(counted))
        is_alone = ~track_ignored
        is_alone[columns] = False
        self.num_false_positives += int(np.count_nonzero(is_alone))
        self.sum_distance += float(distances[rows[counted], columns[counted]].sum())
        pairs = [(truth_ids[row], track_ids[column]) for row, column in zip(rows, columns, strict=True)]
        switched = [
            truth
            for (truth, track), counts in zip(pairs, counted, strict=True)
            if counts and self._is_new(truth, track)
        ]
        self.switches.update(switched)
        self._track_of.update(pairs)
        return FrameMatch(tuple(pairs), tuple(switched))

    def _is_new(self, truth: int, track: int) -> bool:
        return self._track_of.get(truth, track) != track

    def _match(
        self, truth_ids: Sequence[int], track_ids: Sequence[int], distances: Float[np.ndarray, "T D"]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of the pairs of this frame."""
        place_of = {track: column for column, track in enumerate(track_ids)}
        kept = []
        for row, truth in enumerate(truth_ids):
            column = place_of.get(self._track_of.get(truth, -1))
            if column is not None and distances[row, column] <= self.max_distance:
                kept.append((row, place_of.pop(track_ids[column])))
        joined = np.array(kept, dtype=np.int64).reshape(-1, 2)
        rows, columns = joined[:, 0], joined[:, 1]
        free_rows = np.setdiff1d(np.arange(len(truth_ids)), rows)
        free_columns = np.array(sorted(place_of.values()), int)
        # A price for leaving apart far above any distance makes the number of pairs count before their distances.
        open_distances = distances[np.ix_(free_rows, free_columns)]
        allowed = np.where(open_distances <= self.max_distance, open_distances, np.inf)
        price = 4.0 * self.max_distance * (1 + min(allowed.shape)) + 1.0
        found = assign(allowed - price, 0.0)
        rows = np.concatenate([rows, free_rows[found.track_index]])
        columns = np.concatenate([columns, free_columns[found.detection_index]])
        return rows, columns
