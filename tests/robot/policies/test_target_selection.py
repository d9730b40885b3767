"""What counts as seen, which of several is taken, and what lies in the place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from handeye.robot.policies.target_selection import IN_PLACE_MARGIN_M, RecentHits, is_in_place
from handeye.robot.types import Track, TrackStatus
from tests.robot.policies.paper_world import PaperWorld
from tests.robot.policies.test_scripted_policy import TASK


def track(track_id: int, hits: int, score: float = 0.9, status: TrackStatus = TrackStatus.CONFIRMED) -> Track:
    base = PaperWorld(np.array([0.6, 0.0, 0.02])).track()
    return replace(base, track_id=track_id, num_hits=hits, score=score, status=status)


def every(track: Track) -> bool:
    return True


def test_only_detections_since_the_look_began_count() -> None:
    look = RecentHits([track(1, hits=50)])
    assert look.best([track(1, hits=51)], every, min_hits=2) is None
    seen = look.best([track(1, hits=52)], every, min_hits=2)
    assert seen is not None
    assert look.fresh_hits(seen) == 2


def test_a_track_that_appears_during_the_look_counts_from_its_birth() -> None:
    assert RecentHits([]).best([track(7, hits=2, status=TrackStatus.TENTATIVE)], every, min_hits=2) is not None


def test_the_highest_score_wins_and_the_older_track_among_equals() -> None:
    tracks = [track(1, 5, score=0.6), track(3, 5, score=0.8), track(2, 5, score=0.8)]
    best = RecentHits([]).best(tracks, every, min_hits=1)
    assert best is not None
    assert best.track_id == 2


def test_a_preferred_track_wins_over_a_higher_score_but_its_absence_is_no_hindrance() -> None:
    tracks = [track(1, 5, score=0.9), track(2, 5, score=0.5)]
    for preferred_id, expected_id in ((2, 2), (3, 1)):
        best = RecentHits([]).best(
            tracks, every, min_hits=1, prefer=lambda track, it=preferred_id: track.track_id == it
        )
        assert best is not None
        assert best.track_id == expected_id


def test_what_is_lost_or_not_wanted_is_not_taken() -> None:
    tracks = [track(1, 5, status=TrackStatus.LOST), track(2, 5)]
    assert RecentHits([]).best(tracks, lambda track: track.track_id != 2, min_hits=1) is None


@pytest.mark.parametrize(
    ("offset", "expected"),
    [
        ((0.0, 0.0, 0.02), True),
        ((0.12, 0.10, 0.02), True),
        ((0.13 + IN_PLACE_MARGIN_M + 0.001, 0.0, 0.02), False),
        ((0.0, -0.11 - IN_PLACE_MARGIN_M - 0.001, 0.02), False),
        ((0.0, 0.0, 0.125), False),
    ],
)
def test_in_place_is_between_the_walls_and_below_their_top(offset: tuple[float, float, float], expected: bool) -> None:
    assert is_in_place(TASK, TASK.place_p_base + np.array(offset)) is expected
