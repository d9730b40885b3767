"""The tracker along a camera: whose rate counts, and identity under a camera that jumps."""

from __future__ import annotations

import numpy as np
import pytest

from handeye.vision.errors import TrackingError
from handeye.vision.tracking.box_tracker import NOMINAL_RATE
from handeye.vision.tracking.camera_motion import CameraMotionConfig
from handeye.vision.tracking.image_tracker import BoxTrackingConfig, ImageTracker
from tests.vision.tracking.box_scenes import detections, square
from tests.vision.tracking.test_camera_motion import moved, similarity, textured


@pytest.mark.parametrize(
    ("asked", "source", "used"), [(10.0, 25.0, 10.0), (None, 25.0, 25.0), (None, None, NOMINAL_RATE)]
)
def test_the_rate_is_the_configured_one_then_that_of_the_source(asked, source, used: float) -> None:
    assert ImageTracker(BoxTrackingConfig(frame_rate=asked), source).frame_rate == used


def jumping_camera(config: BoxTrackingConfig) -> set[int]:
    """Ids of a thing at rest of 20 px, whose image jumps by 25 px to and fro: no box overlaps the one before."""
    tracker, background, ids = ImageTracker(config, 30.0), textured(), set()
    for number in range(12):
        shift = 25.0 * (number // 3 % 2)
        image = moved(background, similarity(1.0, 0.0, (shift, 0.0)))
        tracks = tracker(image, detections(square(200.0 + shift, side=20.0)), number / 30.0)
        ids |= set(tracks.track_ids.tolist())
    return ids


def test_a_jump_of_the_camera_costs_the_identity_only_where_nobody_follows_it() -> None:
    assert jumping_camera(BoxTrackingConfig(camera_motion=CameraMotionConfig())) == {1}
    assert len(jumping_camera(BoxTrackingConfig())) > 1


def test_lost_tracks_are_reported_and_time_that_runs_backwards_is_rejected() -> None:
    tracker, image = ImageTracker(BoxTrackingConfig(), None), textured()
    for number in range(3):
        assert len(tracker.lost()) == 0
        tracker(image, detections(square(100.0)), number / 30.0)
    assert len(tracker(image, detections(), 0.1)) == 0
    assert tracker.lost().track_ids.tolist() == [1]
    with pytest.raises(TrackingError, match="time runs backwards"):
        tracker(image, detections(square(100.0)), 0.05)
    np.testing.assert_array_equal(tracker.lost().track_ids, [1])
