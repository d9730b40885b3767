"""The life of tracks: birth, identity through occlusion and crossing, loss, death, and refusal of nonsense."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2

from handeye.robot.errors import RobotError
from handeye.robot.perception.object_tracker import ObjectTracker, TrackerConfig
from handeye.robot.types import ObjectPosition, Track, TrackStatus

NAMES = ("red_cube", "green_cube", "blue_cube", "yellow_cube")
SIGMA_M = 0.0015
DT_S = 0.1


def seen(p_base: np.ndarray, *, class_id: int = 0, stamp_s: float = 0.0, sigma_m: float = SIGMA_M) -> ObjectPosition:
    return ObjectPosition(
        np.asarray(p_base, dtype=np.float64), sigma_m**2 * np.eye(3), 0.2, np.full(3, 0.05),
        class_id, NAMES[class_id], 0.9, stamp_s,
    )  # fmt: skip


def only(tracks: tuple[Track, ...]) -> Track:
    (track,) = tracks
    return track


class Scene:
    """Feeds a tracker with noisy detections at 10 Hz."""

    def __init__(self, seed: int = 0, **config) -> None:
        self.rng = np.random.default_rng(seed)
        self.tracker = ObjectTracker(TrackerConfig(**config))
        self.stamp_s = 0.0

    def step(self, *places, classes=None, dt_s: float = DT_S, visible=None) -> tuple[Track, ...]:
        self.stamp_s += dt_s
        classes = classes or [0] * len(places)
        positions = [
            seen(place + self.rng.normal(0, SIGMA_M, 3), class_id=class_id, stamp_s=self.stamp_s)
            for place, class_id in zip(places, classes, strict=True)
        ]
        return self.tracker.update(positions, self.stamp_s, visible=visible)


A = np.array([0.5, 0.0, 0.025])
B = np.array([0.6, 0.1, 0.025])


def test_a_track_is_tentative_until_confirmed():
    scene = Scene()
    statuses = [only(scene.step(A)).status for _ in range(4)]
    assert statuses == [TrackStatus.TENTATIVE, TrackStatus.TENTATIVE, TrackStatus.CONFIRMED, TrackStatus.CONFIRMED]


def test_a_false_alarm_dies_and_its_id_is_not_used_again():
    scene = Scene()
    ghost = only(scene.step(B)).track_id
    for _ in range(3):
        tracks = scene.step(A)
    assert ghost not in [track.track_id for track in tracks]
    again = {track.track_id for track in scene.step(A, B)}
    assert ghost not in again
    assert len(again) == 2


def test_a_still_object_is_averaged_and_the_stated_covariance_is_honest():
    errors, normalised = [], []
    for seed in range(40):
        scene = Scene(seed, systematic_m=0.0)
        for _ in range(15):
            track = only(scene.step(A))
        error = track.p_base - A
        errors.append(np.linalg.norm(error))
        normalised.append(error @ np.linalg.solve(track.covariance_base, error))
    # Process noise allows for motion that this object does not make: errors are smaller than stated, not larger.
    assert np.mean(normalised) < chi2.ppf(0.999, 3 * 40) / 40
    assert np.mean(normalised) > 0.3
    assert np.median(errors) < 0.7 * SIGMA_M * np.sqrt(3)


def test_a_miss_does_not_move_a_still_object():
    scene = Scene()
    for _ in range(10):
        before = only(scene.step(A))
    for _ in range(5):
        after = only(scene.step())
    assert np.linalg.norm(after.p_base - before.p_base) < 0.003
    assert np.trace(after.covariance_base) > np.trace(before.covariance_base)


def test_unseen_though_in_view_it_is_lost_then_forgotten():
    scene = Scene(coast_s=0.5, forget_s=1.5)
    for _ in range(5):
        scene.step(A)
    statuses = []
    while tracks := scene.step():
        statuses.append(only(tracks).status)
    assert statuses.count(TrackStatus.CONFIRMED) == pytest.approx(5, abs=1)
    assert statuses.count(TrackStatus.LOST) == pytest.approx(10, abs=1)
    assert statuses == sorted(statuses, key=[TrackStatus.CONFIRMED, TrackStatus.LOST].index)


def test_a_lost_object_that_comes_back_keeps_its_id():
    scene = Scene(coast_s=0.5)
    for _ in range(5):
        first = only(scene.step(A))
    for _ in range(10):
        scene.step()
    back = only(scene.step(A))
    assert (back.track_id, back.status) == (first.track_id, TrackStatus.CONFIRMED)


def test_out_of_view_nothing_ages():
    scene = Scene(coast_s=0.5, forget_s=1.5)
    for _ in range(10):
        first = only(scene.step(A))
    for _ in range(60):
        hidden = only(scene.step(dt_s=0.5, visible=lambda p_base: False))
    assert hidden.status is TrackStatus.CONFIRMED
    np.testing.assert_allclose(hidden.p_base, first.p_base)
    assert np.linalg.norm(hidden.v_base) == 0.0
    assert hidden.last_seen_s == first.last_seen_s
    # Half a minute of hiding leaves room for a little drift, no more.
    assert 0.005 < np.sqrt(hidden.covariance_base[0, 0]) < 0.02
    assert only(scene.step(A)).track_id == first.track_id


def test_the_place_decides_what_is_visible():
    scene = Scene(coast_s=0.3, forget_s=60.0)
    for _ in range(4):
        scene.step(A, B)
    for _ in range(10):
        tracks = scene.step(visible=lambda p_base: p_base[0] < 0.55)
    assert [track.status for track in tracks] == [TrackStatus.LOST, TrackStatus.CONFIRMED]


def test_identity_survives_the_arm_passing_over_a_crowd():
    switches = 0
    for seed in range(15):
        scene = Scene(seed)
        places = [A + 0.06 * np.array([i, j, 0]) for i in range(3) for j in range(2)]
        for _ in range(4):
            ids = [track.track_id for track in scene.step(*places)]
        for step in range(24):
            arm_x = 0.4 + 0.01 * step

            def visible(p_base: np.ndarray, arm_x: float = arm_x) -> bool:
                return abs(p_base[0] - arm_x) > 0.05

            tracks = scene.step(*[place for place in places if visible(place)], visible=visible)
        ends = [min(tracks, key=lambda track, p=place: np.linalg.norm(track.p_base - p)).track_id for place in places]
        switches += sum(end != start for end, start in zip(ends, ids, strict=True))
        assert len(tracks) == len(places)
    assert switches == 0


def test_a_pushed_object_is_followed_with_its_velocity():
    scene = Scene()
    place, velocity = A.copy(), np.array([0.05, 0.02, 0.0])
    for _ in range(5):
        track = only(scene.step(place))
    for _ in range(25):
        place = place + velocity * DT_S
        track = only(scene.step(place))
    assert np.linalg.norm(track.p_base - place) < 0.005
    np.testing.assert_allclose(track.v_base, velocity, atol=0.03)
    assert track.num_hits == 30


def test_a_cube_that_was_put_elsewhere_is_found_again_at_once():
    scene = Scene()
    for _ in range(6):
        first = only(scene.step(A))
    moved = only(scene.step(A + [0.09, -0.05, 0.0]))
    assert moved.track_id == first.track_id
    assert np.linalg.norm(moved.p_base - (A + [0.09, -0.05, 0.0])) < 0.006


def test_beyond_reach_it_is_another_object():
    scene = Scene()
    for _ in range(6):
        first = only(scene.step(A))
    tracks = scene.step(A + [0.3, 0.0, 0.0])
    assert [track.track_id for track in tracks] == [first.track_id, first.track_id + 1]


def test_a_hidden_track_that_the_arm_has_pushed_a_little_keeps_its_id():
    scene = Scene()
    for _ in range(6):
        first = only(scene.step(A))
    pushed = only(scene.step(A + [0.05, 0.0, 0.0], visible=lambda p_base: p_base[0] > A[0] + 0.03))
    assert pushed.track_id == first.track_id
    np.testing.assert_allclose(pushed.p_base, A + [0.05, 0.0, 0.0], atol=4 * SIGMA_M)


def test_a_hidden_track_does_not_take_over_a_look_alike():
    scene = Scene()
    for _ in range(6):
        first = only(scene.step(A))
    tracks = scene.step(A + [0.08, 0.0, 0.0], visible=lambda p_base: p_base[0] > 0.55)
    assert len(tracks) == 2
    np.testing.assert_allclose(tracks[0].p_base, first.p_base)


def test_look_alikes_that_cross_keep_their_identity():
    scene = Scene()
    for step in range(40):
        x = 0.004 * (step - 20)
        left, right = A + [x, 0.03, 0.0], A + [-x, -0.03, 0.0]
        tracks = scene.step(left, right)
        if step == 3:
            ids = [min(tracks, key=lambda t, p=p: np.linalg.norm(t.p_base - p)).track_id for p in (left, right)]
    ends = [min(tracks, key=lambda t, p=p: np.linalg.norm(t.p_base - p)).track_id for p in (left, right)]
    assert ends == ids
    assert len(tracks) == 2


def test_a_flickering_class_keeps_one_track_and_a_neighbour_of_another_class_gets_its_own():
    scene = Scene()
    for step in range(12):
        track = only(scene.step(A, classes=[3 if step % 4 == 3 else 0]))
    assert track.class_name == "red_cube"
    tracks = scene.step(A, A + [0.06, 0.0, 0.0], classes=[0, 1])
    assert [track.class_name for track in tracks] == ["red_cube", "green_cube"]


def test_two_boxes_on_one_object_make_one_track():
    scene = Scene()
    for _ in range(5):
        tracks = scene.step(A, A + [0.004, 0.0, 0.0], classes=[0, 3])
    assert only(tracks).class_name == "red_cube"


def test_frame_times_may_vary():
    scene = Scene()
    for dt_s in [0.03, 0.5, 0.1, 0.0, 2.0, 0.07] * 3:
        track = only(scene.step(A, dt_s=dt_s))
    assert track.track_id == 1
    assert np.linalg.norm(track.p_base - A) < 4 * SIGMA_M


def test_time_must_not_run_backwards_and_a_refusal_changes_nothing():
    scene = Scene()
    scene.step(A)
    before = only(scene.tracker.tracks())
    with pytest.raises(RobotError, match="backwards"):
        scene.tracker.update([], scene.stamp_s - 0.01)
    with pytest.raises(RobotError, match="finite"):
        scene.tracker.update([], float("nan"))
    with pytest.raises(RobotError, match="finite"):
        scene.tracker.update([seen(np.array([np.nan, 0.0, 0.0]))], scene.stamp_s + 1.0)
    after = only(scene.tracker.tracks())
    np.testing.assert_array_equal(after.p_base, before.p_base)
    np.testing.assert_array_equal(after.covariance_base, before.covariance_base)


def test_no_detections_at_all():
    tracker = ObjectTracker(TrackerConfig())
    assert tracker.update([], 0.0) == ()
    assert tracker.update([], 1.0) == ()


def test_thousands_of_objects_keep_their_identity():
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(72), np.arange(70), [0.0]), axis=-1).reshape(-1, 3)[:5000] * 0.06
    tracker = ObjectTracker(TrackerConfig())
    for step in range(2):
        order = rng.permutation(5000)
        noisy = grid[order] + rng.normal(0, SIGMA_M, (5000, 3))
        tracks = tracker.update([seen(p, stamp_s=0.1 * step) for p in noisy], 0.1 * step)
        if step == 0:
            ids = {tuple(np.round(track.p_base / 0.06).astype(int)): track.track_id for track in tracks}
    assert len(tracks) == 5000
    assert all(ids[tuple(np.round(track.p_base / 0.06).astype(int))] == track.track_id for track in tracks)


def test_more_certain_detections_weigh_more():
    tracker = ObjectTracker(TrackerConfig())
    tracker.update([seen(A, sigma_m=0.01)], 0.0)
    track = only(tracker.update([seen(A + [0.01, 0.0, 0.0], sigma_m=0.001)], 0.1))
    assert track.p_base[0] - A[0] > 0.009
    assert np.sqrt(track.covariance_base[0, 0]) < 0.002
