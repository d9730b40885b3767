"""Boxes with identity: crossing, gaps, birth by confidence, front and back confused, and refusal of nonsense."""

from __future__ import annotations

import numpy as np
import pytest

from handeye.robot.errors import RobotError
from handeye.robot.perception.upright_box_tracker import VolumeTracker, VolumeTrackerConfig, VolumeTracks
from handeye.robot.perception.upright_boxes import Volumes

SIZE = (4.0, 1.7, 1.5)


def cars(*places: tuple[float, float], yaw: float = 0.0) -> Volumes:
    num = len(places)
    centres = np.array([[x, y, 0.75] for x, y in places]).reshape(-1, 3)
    return Volumes(centres, np.tile(SIZE, (num, 1)), np.full(num, yaw))


def sure(num: int) -> np.ndarray:
    return np.full(num, 9.0)


def test_cars_that_pass_each_other_keep_their_ids_and_show_their_speed():
    tracker, rng = VolumeTracker(VolumeTrackerConfig()), np.random.default_rng(0)
    for k in range(40):
        x = 10.0 * 0.1 * k - 20.0
        places = np.array([(x, 1.5), (-x, -1.5)]) + rng.normal(0, 0.1, (2, 2))
        tracks = tracker.update(cars(*places.tolist()), sure(2), 0.1 * k)
    np.testing.assert_array_equal(tracks.track_ids, [1, 2])
    np.testing.assert_allclose(tracks.velocities[:, 0], [10.0, -10.0], atol=1.5)


def test_a_gap_is_coasted_and_the_id_kept_then_a_longer_one_ends_the_track():
    tracker = VolumeTracker(VolumeTrackerConfig(coast_s=0.25))
    place = 0.0
    for k in range(10):
        place = 0.8 * k
        tracker.update(cars((place, 0.0)), sure(1), 0.1 * k)
    gone = [tracker.update(Volumes.empty(), np.zeros(0), 0.1 * k) for k in (10, 11, 12)]
    assert [len(tracks.track_ids) for tracks in gone] == [1, 1, 0]
    assert gone[1].volumes.centres[0, 0] == pytest.approx(place + 1.6, abs=0.2)
    assert tracker.update(cars((place + 3.2, 0.0)), sure(1), 1.3).track_ids.tolist() == [1]
    assert tracker.update(Volumes.empty(), np.zeros(0), 2.5).track_ids.tolist() == []
    assert tracker.update(cars((place + 13.0, 0.0)), sure(1), 2.6).track_ids.tolist() == [2]


def test_what_is_hidden_is_awaited_where_it_should_be_and_what_is_not_is_dropped():
    tracker = VolumeTracker(VolumeTrackerConfig())
    for k in range(10):
        tracker.update(cars((0.8 * k, 0.0), (0.0, 20.0)), sure(2), 0.1 * k)
    for k in range(10, 30):
        tracks = tracker.update(Volumes.empty(), np.zeros(0), 0.1 * k, visible=lambda centre: bool(centre[1] > 10.0))
    assert tracks.track_ids.tolist() == [1]
    assert tracks.volumes.centres[0, 0] == pytest.approx(0.8 * 29, abs=2.0)


def test_doubtful_boxes_begin_nothing_and_weak_ones_must_be_seen_again():
    tracker = VolumeTracker(VolumeTrackerConfig(birth_score=1.0, confirm_score=4.0))
    assert len(tracker.update(cars((0, 0)), np.array([0.5]), 0.0).track_ids) == 0
    counts = [len(tracker.update(cars((0, 0)), np.array([3.0]), 0.1 * k).track_ids) for k in (1, 2, 3)]
    assert counts == [0, 1, 1]
    assert len(tracker.update(cars((0, 0)), np.array([0.5]), 0.4).track_ids) == 1  # continues what is there


def test_front_and_back_confused_is_no_turn():
    tracker = VolumeTracker(VolumeTrackerConfig())
    for k in range(8):
        tracks = tracker.update(cars((0, 0), yaw=0.1 + np.pi * (k % 2)), sure(1), 0.1 * k)
    assert np.sin(tracks.volumes.yaws_rad[0] - 0.1) == pytest.approx(0.0, abs=1e-6)


def update_times(tracker: VolumeTracker, stamps: list[float]) -> VolumeTracks:
    for stamp_s in stamps:
        tracks = tracker.update(cars((0, 0)), sure(1), stamp_s)
    return tracks


def test_frame_times_may_vary_and_must_not_run_backwards():
    tracker = VolumeTracker(VolumeTrackerConfig())
    assert update_times(tracker, [0.0, 0.03, 0.3, 0.3, 0.7]).track_ids.tolist() == [1]
    for stamp_s in (0.6, np.nan, np.inf):
        with pytest.raises(RobotError, match="time stamps in order"):
            tracker.update(cars((0, 0)), sure(1), stamp_s)
    with pytest.raises(RobotError, match="one score"):
        tracker.update(cars((0, 0)), sure(2), 0.8)
    assert update_times(tracker, [0.8]).track_ids.tolist() == [1]


def test_none_and_five_thousand_boxes_are_survived():
    tracker = VolumeTracker(VolumeTrackerConfig())
    assert len(tracker.update(Volumes.empty(), np.zeros(0), 0.0).track_ids) == 0
    grid = [(6.0 * i, 6.0 * j) for i in range(50) for j in range(100)]
    first = tracker.update(cars(*grid), sure(5000), 0.1)
    second = tracker.update(cars(*grid), sure(5000), 0.2)
    assert len(first.track_ids) == 5000
    np.testing.assert_array_equal(second.track_ids, first.track_ids)
