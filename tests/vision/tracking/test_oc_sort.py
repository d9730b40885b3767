"""OC-SORT's three ideas, each where it changes the outcome: re-update, momentum, recovery."""

from __future__ import annotations

import numpy as np
import pytest

from handeye.vision.tracking.box_kalman import AreaModel
from handeye.vision.tracking.sort import OcSortConfig, OcSortTracker
from tests.vision.tracking.box_scenes import Scene, square


def tracker_of(scene: Scene) -> OcSortTracker:
    assert isinstance(scene.tracker, OcSortTracker)
    return scene.tracker


def test_a_track_that_is_found_again_has_lived_through_a_straight_line():
    """ORU: the filter stands as if the boxes on the line had been seen, the last of them twice as in the program."""
    path = [square(100 + 4 * frame) for frame in range(8)]
    gap, back = 5, square(100 + 4 * 7 + 30, side=46.0)
    scene = Scene(OcSortConfig())
    for box in path:
        scene.step(box)
    for _ in range(gap):
        scene.step()
    assert scene.step(back).track_ids.tolist() == [], "a new row of detections begins"
    model = AreaModel()
    motion = model.start(np.array([path[0]]))
    line = [np.array(path[-1]) + (np.array(back) - path[-1]) * part / (gap + 1) for part in range(1, gap + 2)]
    for box in [*path[1:], *line]:
        motion = model.update(model.predict(motion, 1.0), np.array([box]))
    motion = model.update(motion, np.array([back]))
    np.testing.assert_allclose(tracker_of(scene)._table.motion.layers, motion.layers, rtol=1e-6, atol=1e-6)


def test_the_line_is_walked_at_any_frame_time():
    """A gap of one long step has a line of one piece."""
    scene = Scene(OcSortConfig())
    for frame in range(6):
        scene.step(square(100 + 4 * frame), frames=1.0)
    scene.step(frames=4.0)
    scene.step(square(150))
    rate = tracker_of(scene)._table.motion.rates[0, 0]
    assert rate == pytest.approx(30 / 5, abs=1.0), "30 px in the 5 frames since the last box"


@pytest.mark.parametrize(("momentum_weight", "chosen"), [(0.2, 1), (0.0, 0)])
def test_momentum_prefers_the_box_straight_ahead(momentum_weight: float, chosen: int):
    """Of two boxes about as far from where the track is expected, the one to the side overlaps a little more."""
    scene = Scene(OcSortConfig(momentum_weight=momentum_weight))
    for frame in range(20):
        scene.step(square(100 + 6 * frame))
    expected = 100 + 6 * 20
    tracks = scene.step(square(expected, y=112), square(expected + 12.5))
    assert tracks.detection_index.tolist() == [chosen]
    assert np.linalg.norm(tracker_of(scene)._past.directions[0]) == pytest.approx(1.0, abs=1e-6)


def test_what_stopped_behind_an_occluder_is_recovered_where_it_was_last_seen():
    """OCR: the prediction runs on, the thing stood still."""
    scene = Scene(OcSortConfig())
    for frame in range(10):
        scene.step(square(100 + 12 * frame))
    for _ in range(8):
        scene.step()
    predicted = scene.tracker.lost().boxes_xyxy[0, 0]
    assert predicted > 190 + 60, "far from where it is"
    for _ in range(4):
        tracks = scene.step(square(100 + 12 * 9 + 3))
    assert tracks.track_ids.tolist() == [1]


def test_the_reported_box_is_the_detection_and_not_the_filter():
    scene = Scene(OcSortConfig())
    rng = np.random.default_rng(0)
    for _ in range(8):
        box = np.float32(square(100)) + rng.normal(0, 2, 4).astype(np.float32)
        tracks = scene.step(box)
    np.testing.assert_array_equal(tracks.boxes_xyxy[0], box.astype(np.float64))


def test_detections_of_a_low_score_do_not_count():
    scene = Scene(OcSortConfig())
    for _ in range(6):
        tracks = scene.step(square(100), square(300), scores=[0.61, 0.59])
    assert tracks.detection_index.tolist() == [0]


def test_a_track_lives_for_thirty_frames_without_detections():
    scene = Scene(OcSortConfig())
    for _ in range(5):
        scene.step(square(100))
    for missed in range(1, 33):
        scene.step()
        assert len(scene.tracker.lost()) == (missed <= 30), missed


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("score_threshold", 0.6), ("max_age", 30.0), ("min_hits", 3), ("iou_threshold", 0.3)),
        *(("momentum_weight", 0.2), ("momentum_steps", 3)),
    ],
)
def test_the_defaults_are_those_of_the_authors(key: str, value: float):
    assert getattr(OcSortConfig(), key) == value
