"""What all box trackers promise: identity, ids that are never used again, varying time, and refusal of nonsense."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handeye.vision.errors import TrackingError
from handeye.vision.runtime.detections import Detections
from handeye.vision.tracking.camera_motion import SimilarityMotion
from handeye.vision.tracking.image_tracker import build_box_tracker
from tests.benchmarks.moving_boxes import moving_boxes
from tests.vision.tracking.box_scenes import CONFIGS, FRAME_S, NAMES, Scene, detections, square

each_tracker = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)


@each_tracker
def test_two_things_keep_their_ids_while_they_move(config):
    scene = Scene(config)
    owners = set()
    for frame in range(30):
        tracks = scene.step(square(100 + 3 * frame), square(400 - 3 * frame, y=300))
        owners |= set(zip(tracks.detection_index.tolist(), tracks.track_ids.tolist(), strict=True))
    assert len(tracks) == 2
    assert sorted(owners) in ([(0, 1), (1, 2)], [(0, 2), (1, 1)])


@each_tracker
def test_crossing_things_do_not_swap(config):
    """They pass at 25 px in y, overlapping all the while they pass."""
    scene = Scene(config)
    for frame in range(60):
        left, right = square(100 + 5 * frame, y=100), square(400 - 5 * frame, y=125)
        tracks = scene.step(left, right)
        if frame == 10:
            ids = dict(zip(tracks.detection_index.tolist(), tracks.track_ids.tolist(), strict=True))
    assert dict(zip(tracks.detection_index.tolist(), tracks.track_ids.tolist(), strict=True)) == ids


@each_tracker
def test_ids_count_without_gaps_and_are_never_used_again(config):
    frames, boxes, scores = moving_boxes(30, 80)
    tracker = build_box_tracker(config)
    alive: set[int] = set()
    ended: set[int] = set()
    seen: set[int] = set()
    for frame in range(80):
        rows = (frames == frame) & (np.arange(len(frames)) % 13 > 2)  # much is missing, so that much ends
        found = Detections(
            boxes[rows].astype(np.float32), scores[rows].astype(np.float32), np.zeros(rows.sum(), np.int64), NAMES
        )
        tracks, lost = tracker.update(found, frame * FRAME_S), tracker.lost()
        now = set(tracks.track_ids.tolist()) | set(lost.track_ids.tolist())
        assert len(now) == len(tracks) + len(lost) or config.kind != "bytetrack"
        ended |= alive - now if config.kind == "bytetrack" else set()
        assert not now & ended
        alive = now
        seen |= now
    assert seen == set(range(1, len(seen) + 1))


@each_tracker
@settings(max_examples=10)
@given(seed=st.integers(0, 1000))
def test_the_order_of_detections_is_of_no_account(config, seed: int):
    rng = np.random.default_rng(seed)
    frames, boxes, scores = moving_boxes(12, 12, seed)
    scores = np.round(scores, 1)  # equal scores too
    plain, shuffled = build_box_tracker(config), build_box_tracker(config)
    for frame in range(12):
        rows = np.flatnonzero(frames == frame)
        results = []
        for tracker, order in ((plain, rows), (shuffled, rng.permutation(rows))):
            found = Detections(
                boxes[order].astype(np.float32),
                scores[order].astype(np.float32),
                np.zeros(len(order), np.int64),
                NAMES,
            )
            tracks = tracker.update(found, frame * FRAME_S)
            results.append((tracks.track_ids, tracks.boxes_xyxy, order[tracks.detection_index]))
        for mine, other in zip(*results, strict=True):
            np.testing.assert_array_equal(mine, other)


@each_tracker
def test_the_detection_of_each_track_is_named(config):
    scene = Scene(config)
    for frame in range(8):
        tracks = scene.step(square(300 + frame), square(100 + frame, side=10), square(500, side=80))
    rows = tracks.detection_index
    assert sorted(rows.tolist()) == [0, 1, 2]
    expected = np.array([square(307), square(107, side=10), square(500, side=80)])[rows]
    np.testing.assert_allclose(tracks.boxes_xyxy, expected, atol=1.0)


@each_tracker
def test_nothing_at_all_and_five_thousand_at_once(config):
    tracker = build_box_tracker(config)
    assert not len(tracker.update(detections(), 0.0))
    corner = np.random.default_rng(0).uniform(0, 4000, (5000, 2))
    boxes = np.concatenate([corner, corner + 30.0], axis=1)
    for frame in range(4):
        tracks = tracker.update(detections(*(boxes + frame)), (1 + frame) * FRAME_S)
    assert len(set(tracks.track_ids.tolist())) == len(tracks) > 4000
    assert np.isfinite(tracks.boxes_xyxy).all()
    assert not len(tracker.update(detections(), 5 * FRAME_S))


@each_tracker
@pytest.mark.parametrize(
    ("box", "told"),
    [
        ([np.nan, 0, 10, 10], "NaN"),
        ([0, 0, np.inf, 10], "infinity"),
        ([10, 0, 0, 10], "inside out"),
    ],
)
def test_boxes_that_are_none_are_rejected_and_change_nothing(config, box, told: str):
    scene, other = Scene(config), Scene(config)
    for frame in range(3):
        scene.step(square(100 + frame))
        other.step(square(100 + frame))
    with pytest.raises(TrackingError, match=told):
        scene.tracker.update(detections(square(103), box), scene.stamp_s)
    np.testing.assert_array_equal(scene.step(square(103)).boxes_xyxy, other.step(square(103)).boxes_xyxy)


@each_tracker
def test_a_score_that_is_none_is_rejected(config):
    with pytest.raises(TrackingError, match="finite"):
        Scene(config).step(square(1), scores=np.nan)


@each_tracker
def test_boxes_without_area_are_left_out(config):
    scene = Scene(config)
    for _ in range(5):
        tracks = scene.step(square(100), [5, 5, 5, 50], [7, 7, 7, 7])
    assert tracks.detection_index.tolist() == [0]


@each_tracker
def test_time_never_runs_backwards(config):
    scene = Scene(config)
    scene.step(square(100))
    with pytest.raises(TrackingError, match="backwards"):
        scene.tracker.update(detections(square(100)), -0.1)
    with pytest.raises(TrackingError, match="finite"):
        scene.tracker.update(detections(square(100)), np.nan)
    assert scene.tracker.update(detections(square(100)), 0.0).track_ids.tolist() == [1]


@each_tracker
def test_a_frame_that_is_left_out_is_a_longer_step(config):
    """A thing at steady speed is followed just the same at half the rate, and at rates that change."""
    for pattern in ([2.0], [1.0, 3.0, 0.5]):
        scene, at = Scene(config), 0.0
        for number in range(24):
            tracks = scene.step(square(100 + 4 * at), frames=pattern[number % len(pattern)])
            at += pattern[number % len(pattern)]
        assert tracks.track_ids.tolist() == [1]
        rate = scene.tracker._table.motion.rates[0, 0]
        assert rate == pytest.approx(4.0, abs=0.3), "px a frame, whatever the frame times"


@each_tracker
def test_the_class_is_what_most_detections_say(config):
    tracker = build_box_tracker(config)
    for frame, class_id in enumerate([1, 1, 0, 1, 1, 2, 1]):
        found = Detections(
            np.array([square(100 + frame)], np.float32), np.array([0.9], np.float32), np.array([class_id]), NAMES
        )
        tracks = tracker.update(found, frame * FRAME_S)
    assert tracks.names == ["ball"]


@each_tracker
def test_a_moving_camera_is_followed(config):
    """The image jumps by 60 px and zooms: without its motion every track would be lost."""
    camera = SimilarityMotion(1.2 * np.eye(2), np.array([60.0, 25.0]))
    boxes = np.array([square(100), square(250, y=200), square(400, side=60)])
    results = {}
    for told in (None, camera):
        tracker = build_box_tracker(config)
        for frame in range(6):
            tracks = tracker.update(detections(*boxes), frame * FRAME_S)
        ids = dict(zip(tracks.detection_index.tolist(), tracks.track_ids.tolist(), strict=True))
        moved = tracker.update(detections(*camera.of_boxes(boxes)), 6 * FRAME_S, camera_motion=told)
        now = dict(zip(moved.detection_index.tolist(), moved.track_ids.tolist(), strict=True))
        results[told is None] = now == ids
    assert results == {True: False, False: True}


def test_the_blame_for_a_wrong_kind_is_clear():
    from handeye.vision.config import validate_config
    from handeye.vision.errors import ConfigError
    from handeye.vision.tracking.image_tracker import BoxTrackingConfig

    with pytest.raises(ConfigError, match=r"tracker.kind: expected one of .*bytetrack.*got 'magic'"):
        validate_config(BoxTrackingConfig, {"tracker": {"kind": "magic"}}, origin="test")
