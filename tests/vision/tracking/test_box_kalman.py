"""The filters of boxes against Kalman's equations with full matrices, and their noise at any frame time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handeye.vision.tracking.box_kalman import AreaModel, BoxModel, BoxMotion, HeightModel, predict
from handeye.vision.tracking.camera_motion import SimilarityMotion

frame_times = st.floats(0.0, 4.0)
MODELS = [AreaModel(), HeightModel()]


def random_boxes(rng: np.random.Generator, num: int) -> np.ndarray:
    corner, size = rng.uniform(0, 500, (num, 2)), rng.uniform(20, 200, (num, 2))
    return np.concatenate([corner, corner + size], axis=1)


def full_covariance(motion: BoxMotion, row: int) -> np.ndarray:
    """The 8x8 covariance of one track, components first and then rates."""
    blocks = [[np.diag(motion.mean_variances[row]), np.diag(motion.mixed_variances[row])]]
    blocks += [[np.diag(motion.mixed_variances[row]), np.diag(motion.rate_variances[row])]]
    return np.block(blocks)


def textbook_sort(boxes: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """SORT's filter of one track with its 7x7 matrices, [u, v, s, r, u', v', s'], one box a frame."""

    def measure(box: np.ndarray) -> np.ndarray:
        w, h = box[2:] - box[:2]
        return np.array([box[0] + w / 2, box[1] + h / 2, w * h, w / h])

    F, H = np.eye(7), np.eye(4, 7)
    F[[0, 1, 2], [4, 5, 6]] = 1.0
    Q, R = np.diag([1, 1, 1, 1, 0.01, 0.01, 0.0001]), np.diag([1.0, 1.0, 10.0, 10.0])
    x, P = np.concatenate([measure(boxes[0]), np.zeros(3)]), np.diag([10.0] * 4 + [1e4] * 3)
    for box in boxes[1:]:
        x, P = F @ x, F @ P @ F.T + Q
        gain = P @ H.T @ np.linalg.inv(H @ P @ H.T + R)
        x, P = x + gain @ (measure(box) - H @ x), (np.eye(7) - gain @ H) @ P
    return x, P


def textbook_bytetrack(boxes: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """ByteTrack's filter of one track with its 8x8 matrices, [x, y, a, h] and their rates, one box a frame."""

    def measure(box: np.ndarray) -> np.ndarray:
        w, h = box[2:] - box[:2]
        return np.array([box[0] + w / 2, box[1] + h / 2, w / h, h])

    def squares(place: float, ratio: float) -> list[float]:
        return [place**2, place**2, ratio**2, place**2]

    F, H = np.eye(8), np.eye(4, 8)
    F[:4, 4:] = np.eye(4)
    x = np.concatenate([measure(boxes[0]), np.zeros(4)])
    P = np.diag(squares(x[3] / 10, 1e-2) + squares(x[3] / 16, 1e-5))
    for box in boxes[1:]:
        Q = np.diag(squares(x[3] / 20, 1e-2) + squares(x[3] / 160, 1e-5))
        x, P = F @ x, F @ P @ F.T + Q
        S = H @ P @ H.T + np.diag(squares(x[3] / 20, 1e-1))
        gain = P @ H.T @ np.linalg.inv(S)
        x, P = x + gain @ (measure(box) - H @ x), P - gain @ S @ gain.T
    return x, P


def follow(model: BoxModel, boxes: list[np.ndarray]) -> BoxMotion:
    motion = model.start(boxes[0])
    for seen in boxes[1:]:
        motion = model.update(model.predict(motion, 1.0), seen)
    return motion


def a_walk(rng: np.random.Generator, num_tracks: int, num_frames: int) -> list[np.ndarray]:
    boxes, speed = random_boxes(rng, num_tracks), rng.uniform(-5, 5, (num_tracks, 2))
    moved = [boxes + frame * np.tile(speed, 2) for frame in range(num_frames)]
    return [frame + rng.normal(0, 1, boxes.shape) for frame in moved]


@pytest.mark.parametrize(("model", "textbook"), [(AreaModel(), textbook_sort), (HeightModel(), textbook_bytetrack)])
def test_many_tracks_at_once_equal_the_published_matrices_track_by_track(model: BoxModel, textbook):
    frames = a_walk(np.random.default_rng(0), num_tracks=7, num_frames=12)
    motion = follow(model, frames)
    for row in range(7):
        x, P = textbook([frame[row] for frame in frames])
        mine = np.concatenate([motion.means[row], motion.rates[row]])
        np.testing.assert_allclose(mine[: len(x)], x, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(full_covariance(motion, row)[: len(x), : len(x)], P, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("model", MODELS)
def test_a_new_track_is_where_its_box_is(model: BoxModel):
    boxes = random_boxes(np.random.default_rng(1), 5)
    np.testing.assert_allclose(model.boxes(model.start(boxes)), boxes)
    assert len(model.start(boxes[:0])) == len(model.boxes(model.start(boxes[:0]))) == 0


@given(a=frame_times, b=frame_times)
def test_two_predictions_are_one_of_their_sum(a: float, b: float):
    motion = follow(AreaModel(), a_walk(np.random.default_rng(2), 3, 5))
    noise = (np.array([1.0, 2.0, 0.5, 0.1]), np.array([0.01, 12.0, 0.0, 1.2]))
    halfway = predict(motion, motion.rates, *noise, a)
    twice = predict(halfway, halfway.rates, *noise, b)
    once = predict(motion, motion.rates, *noise, a + b)
    np.testing.assert_allclose(twice.layers, once.layers, rtol=1e-9, atol=1e-7)


@given(dt=st.floats(0.0, 20.0))
def test_covariances_stay_covariances(dt: float):
    for model in MODELS:
        motion = model.predict(follow(model, a_walk(np.random.default_rng(3), 4, 6)), dt)
        for row in range(4):
            assert np.linalg.eigvalsh(full_covariance(motion, row)).min() > -1e-9
        assert (motion.mean_variances > 0).all()


def test_no_time_changes_nothing():
    motion = follow(HeightModel(), a_walk(np.random.default_rng(4), 4, 6))
    np.testing.assert_array_equal(HeightModel().predict(motion, 0.0).layers, motion.layers)


def test_an_area_never_shrinks_to_nothing():
    boxes = [np.array([[0.0, 0.0, 100.0 - 12 * k, 100.0 - 12 * k]]) for k in range(8)]
    motion = follow(AreaModel(), boxes)
    assert motion.rates[0, 2] < 0
    after = AreaModel().predict(motion, 9.0)
    assert after.rates[0, 2] == 0
    assert np.isfinite(AreaModel().boxes(after)).all()


def test_a_state_that_is_no_box_has_no_corners():
    motion = HeightModel().start(np.array([[0.0, 0.0, 10.0, 20.0]]))
    motion.means[0, 3] = -1.0
    assert np.isnan(HeightModel().boxes(motion)).all()


@pytest.mark.parametrize("model", MODELS)
@given(scale=st.floats(0.5, 2.0), angle=st.floats(-3.0, 3.0))
def test_moving_the_image_before_or_after_filtering_is_the_same(model: BoxModel, scale: float, angle: float):
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    camera = SimilarityMotion(turn, np.array([30.0, -7.0]))
    frames = a_walk(np.random.default_rng(5), 3, 4)
    carried = model.carried(follow(model, frames), camera)
    expected = camera.of_boxes(model.boxes(follow(model, frames)))
    np.testing.assert_allclose(model.boxes(carried), expected, rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(carried.mean_variances[:, 0], carried.mean_variances[:, 1])
    back = SimilarityMotion(np.linalg.inv(turn), -np.linalg.inv(turn) @ camera.shift)
    np.testing.assert_allclose(model.carried(carried, back).layers, follow(model, frames).layers, rtol=1e-7, atol=1e-5)
