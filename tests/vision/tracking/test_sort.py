"""SORT's life cycle, its association, and its published figures on its own detections."""

from __future__ import annotations

import numpy as np
import pytest

from handeye.vision.tracking.sort import SortConfig, match_by_iou
from tests.vision.tracking.box_scenes import Scene, square


def test_a_late_track_is_reported_after_three_more_detections():
    scene = Scene(SortConfig())
    for _ in range(5):
        scene.step(square(100))
    reported = [len(scene.step(square(100), square(400))) for _ in range(4)]
    assert reported == [1, 1, 1, 2]


def test_a_missed_detection_breaks_the_row_and_two_end_the_track():
    scene = Scene(SortConfig())
    for _ in range(6):
        scene.step(square(100))
    scene.step()
    assert scene.tracker.lost().track_ids.tolist() == [1]
    again = [scene.step(square(100)).track_ids.tolist() for _ in range(4)]
    assert again == [[], [], [1], [1]], "a new row of three, the same id"
    scene.step()
    scene.step()
    assert not len(scene.tracker.lost())
    for _ in range(6):
        tracks = scene.step(square(100))
    assert tracks.track_ids.tolist() == [2]


def test_pairs_below_the_threshold_are_parted_after_the_assignment():
    """The pair of most overlap is given up for two pairs that overlap more together, of which one is then too poor."""
    tracks = np.array([[0.0, 0.0, 10.0, 10.0], [6.0, 0.0, 16.0, 10.0]])
    found = np.array([[3.0, 0.0, 13.0, 10.0], [9.0, 0.0, 19.0, 10.0]])
    matches = match_by_iou(tracks, found, iou_threshold=0.3)
    assert sorted(zip(matches.tracks.tolist(), matches.detections.tolist(), strict=True)) == [(0, 0), (1, 1)]
    strict = match_by_iou(tracks[:, :], found + [0.0, 0.0, 0.0, 30.0], iou_threshold=0.3)
    assert not len(strict.tracks)
    assert strict.unmatched_tracks.tolist() == strict.unmatched_detections.tolist() == [0, 1]


@pytest.mark.parametrize(("key", "value"), [("max_age", 1.0), ("min_hits", 3), ("iou_threshold", 0.3)])
def test_the_defaults_are_those_of_the_paper(key: str, value: float):
    assert getattr(SortConfig(), key) == value
