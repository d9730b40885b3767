"""ByteTrack's rules one by one: what weak detections may do, when a track is believed, lost, forgotten or a double."""

from __future__ import annotations

import numpy as np
import pytest

from handeye.vision.runtime.detections import Detections
from handeye.vision.tracking.bytetrack import ByteTrackConfig, ByteTracker
from tests.vision.tracking.box_scenes import Scene, square


def settled(num_frames: int = 5, frame_rate: float = 30.0, **config) -> Scene:
    """A scene in which one thing at 100 has been seen for some frames."""
    scene = Scene(ByteTrackConfig(**config), frame_rate)
    for _ in range(num_frames):
        scene.step(square(100))
    return scene


def test_what_is_there_from_the_start_is_believed_at_once_and_later_things_at_the_second_sight():
    scene = Scene(ByteTrackConfig())
    assert scene.step(square(100)).track_ids.tolist() == [1]
    assert scene.step(square(100), square(400)).track_ids.tolist() == [1]
    assert scene.step(square(100), square(400)).track_ids.tolist() == [1, 2]


def test_a_thing_that_is_seen_once_is_forgotten_and_takes_no_id():
    scene = settled()
    scene.step(square(100), square(400))
    scene.step(square(100))
    scene.step(square(100), square(400))
    assert scene.step(square(100), square(400)).track_ids.tolist() == [1, 2]


def test_weak_detections_keep_a_track_but_begin_none():
    scene = settled()
    for frame in range(10):
        tracks = scene.step(square(100), square(400), scores=[0.2, 0.5])
        assert tracks.track_ids.tolist() == [1], frame
        assert tracks.scores.tolist() == pytest.approx([0.2])
    assert not len(scene.step(square(100), scores=0.05)), "and noise not even that"
    assert scene.tracker.lost().track_ids.tolist() == [1]


def test_a_new_track_needs_a_better_score_than_an_old_one():
    scene = settled()
    for _ in range(4):
        tracks = scene.step(square(100), square(400), scores=[0.65, 0.65])
    assert tracks.track_ids.tolist() == [1]
    for _ in range(2):
        tracks = scene.step(square(100), square(400), scores=[0.65, 0.71])
    assert tracks.track_ids.tolist() == [1, 2]


def test_weak_detections_do_not_find_lost_tracks_again_but_good_ones_do():
    scene = settled()
    scene.step()
    assert not len(scene.step(square(100), scores=0.5))
    assert scene.step(square(100), scores=0.65).track_ids.tolist() == [1]


@pytest.mark.parametrize(("frame_rate", "track_buffer", "lives"), [(30.0, 30.0, 31), (15.0, 30.0, 16), (30.0, 5.0, 6)])
def test_a_lost_track_lives_as_long_as_the_buffer_says(frame_rate: float, track_buffer: float, lives: int):
    """And a frame more. A tracker of 15 frames a second sees every other frame of a scene of 30."""
    scene = settled(frame_rate=frame_rate, track_buffer=track_buffer)
    step = 30.0 / frame_rate
    scene.stamp_s += (step - 1.0) / 30.0
    for missed in range(1, lives + 3):
        scene.step(frames=step)
        assert len(scene.tracker.lost()) == (missed <= lives), missed


def test_the_fused_score_can_part_what_iou_alone_would_join():
    shifted = square(100 + 40 * 0.6)  # IoU 0.25
    for fuse_scores, expected in ((True, []), (False, [1])):
        scene = settled(fuse_scores=fuse_scores)
        assert scene.step(shifted, scores=0.7).track_ids.tolist() == expected


@pytest.mark.parametrize(("num_frames", "seen", "lost"), [(40, [], [1]), (3, [2], [])])
def test_of_two_tracks_at_one_place_the_one_that_was_followed_longer_stays(num_frames: int, seen, lost):
    """A second thing, followed for 26 frames, comes to within 2 px of where the first was lost."""
    scene = settled(num_frames)
    for frame in range(26):
        tracks = scene.step(square(102 + 8 * (26 - frame)))
    assert tracks.track_ids.tolist() == [2]
    assert scene.tracker.lost().track_ids.tolist() == [1]
    assert scene.step(square(102)).track_ids.tolist() == seen
    assert scene.tracker.lost().track_ids.tolist() == lost


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("track_threshold", 0.6), ("low_threshold", 0.1), ("birth_margin", 0.1), ("match_threshold", 0.8)),
        *(("low_match_threshold", 0.5), ("tentative_match_threshold", 0.7), ("track_buffer", 30.0)),
    ],
)
def test_the_defaults_are_those_of_the_paper(key: str, value: float):
    assert getattr(ByteTrackConfig(), key) == value


def test_the_tracks_are_those_of_the_authors_program(sample):
    """150 frames of a drawn crowd of small boxes, with scores of two digits and people hidden for 27 to 35 frames."""
    recorded = np.load(sample("reference/bytetrack.npz"))
    tracker = ByteTracker(ByteTrackConfig(), frame_rate=30.0)
    ids: dict[int, int] = {}
    for frame in range(150):
        now = recorded["detection_frame"] == frame
        boxes, scores = recorded["detection_tenth_px"][now] / 10, recorded["detection_score"][now] / 100
        detections = Detections(
            boxes.astype(np.float32), scores.astype(np.float32), np.zeros(len(boxes), np.int64), ("person",)
        )
        tracks = tracker.update(detections, frame / 30.0)
        now = recorded["track_frame"] == frame
        assert len(tracks) == now.sum(), frame
        for track_id, box in zip(recorded["track_id"][now], recorded["track_tenth_px"][now] / 10, strict=True):
            differences = np.abs(tracks.boxes_xyxy - box).max(axis=1)
            assert differences.min() < 0.1, frame
            ours = int(tracks.track_ids[differences.argmin()])
            assert ids.setdefault(int(track_id), ours) == ours, frame
    assert len(set(ids.values())) == len(ids) > 20


@pytest.mark.parametrize(("missed", "track_id"), [(31, 1), (32, 2)])
def test_a_lost_track_is_found_one_frame_after_the_buffer_at_the_latest_and_not_kept_again(missed: int, track_id: int):
    scene = settled()
    for _ in range(missed):
        scene.step()
    scene.step(square(100))
    tracks = scene.step(square(100))
    assert tracks.track_ids.tolist() == [track_id]
    scene.step()
    scene.step(square(100))
    assert scene.step(square(100)).track_ids.tolist() == [2]


def test_boxes_overlap_as_whole_pixels_unless_told_otherwise():
    """Squares of 3 px, shifted by 2: 4 of 28 pixels are common, 8 of 24 when the last pixels count."""
    for whole_pixels, followed in ((True, True), (False, False)):
        scene = Scene(ByteTrackConfig(whole_pixels=whole_pixels), 30.0)
        scene.step(square(100, side=3.0))
        tracks = scene.step(square(102, side=3.0))
        assert (tracks.track_ids.tolist() == [1]) is followed


@pytest.mark.parametrize(("score", "seen"), [(0.59, True), (0.6, False), (0.61, True)])
def test_a_score_at_the_threshold_is_neither_good_nor_weak(score: float, seen: bool):
    assert (len(settled().step(square(100), scores=score)) == 1) is seen
