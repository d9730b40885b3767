"""Trails: what they remember, that they move with the background, and that they are drawn where tracks went."""

from __future__ import annotations

import numpy as np

from handeye.vision.runtime.draw import class_colour
from handeye.vision.tracking.box_tracker import BoxTracks
from handeye.vision.tracking.camera_motion import SimilarityMotion
from handeye.vision.tracking.image_tracker import Trails, draw_tracks


def tracks_at(**centres: tuple[float, float]) -> BoxTracks:
    """Boxes of 20 x 20 px; the keyword t3 is the track 3."""
    points = np.array(list(centres.values()), np.float64).reshape(-1, 2)
    number = len(points)
    return BoxTracks(
        track_ids=np.array([int(key[1:]) for key in centres], np.int64),
        boxes_xyxy=np.concatenate([points - 10.0, points + 10.0], axis=1),
        scores=np.ones(number),
        class_ids=np.zeros(number, np.int64),
        detection_index=np.arange(number),
        class_names=("cube",),
    )


def test_each_track_has_its_own_path_in_order_of_time_and_old_points_are_forgotten() -> None:
    trails = Trails(length_s=1.25)
    assert trails.paths() == {}
    for number in range(40):
        seen = {"t1": (float(number), 5.0)} | ({"t2": (50.0, 60.0)} if number < 20 else {})
        trails.add(tracks_at(**seen), 0.125 * number, None)
        assert (2 in trails.paths()) == (number < 30), "a track out of sight keeps its trail for its time"
    paths = trails.paths()
    assert list(paths) == [1]
    np.testing.assert_allclose(paths[1], [[float(number), 5.0] for number in range(29, 40)])


def test_points_stay_on_the_background_when_the_camera_moves() -> None:
    """A thing at rest under a camera that turns, comes nearer and shifts has all of its trail where it is now."""
    angle = 0.1
    turn = 1.05 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    motion = SimilarityMotion(turn, np.array([-7.0, 3.0]))
    trails, place = Trails(), np.array([[120.0, 80.0]])
    for number in range(5):
        trails.add(tracks_at(t1=tuple(place[0])), 0.1 * number, motion if number else None)
        np.testing.assert_allclose(trails.paths()[1], np.repeat(place, number + 1, axis=0), atol=1e-9)
        place = motion.of_points(place)


def test_the_way_of_a_track_is_drawn_in_its_colour_and_nothing_else_changes() -> None:
    image = np.full((120, 300, 3), 30, np.uint8)
    trails, way = Trails(), [tracks_at(t7=(x, 60.0)) for x in np.linspace(40.0, 200.0, 9)]
    for number, now in enumerate(way):
        trails.add(now, 0.1 * number, None)
    drawn = draw_tracks(image, way[-1], trails)
    assert (image == 30).all(), "the original must not be drawn on"
    is_coloured = np.abs(drawn.astype(int) - class_colour(7)).max(axis=2) < 30
    assert is_coloured[59:61, 41:185].any(axis=0).all(), "from the first centre to the box"
    assert is_coloured[55:66, 209:211].any(), "the edge of the box"
    assert (drawn[80:] == 30).all()
    assert (drawn[:, :35] == 30).all()


def test_without_tracks_the_image_is_a_copy() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    trails = Trails()
    trails.add(tracks_at(), 0.0, SimilarityMotion.none())
    drawn = draw_tracks(image, tracks_at(), trails)
    np.testing.assert_array_equal(drawn, image)
    assert drawn is not image


def test_a_track_that_leaves_the_image_and_a_single_point_are_drawn() -> None:
    trails = Trails()
    now = tracks_at(t1=(-500.0, 9000.0), t2=(20.0, 20.0))
    trails.add(now, 0.0, None)
    drawn = draw_tracks(np.zeros((40, 50, 3), np.uint8), now, trails)
    assert drawn.any()
