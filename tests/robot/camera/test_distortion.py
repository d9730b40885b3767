"""Distortion and its inverse: the first direction on the way out from the axis, or none."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.polynomial import polynomial

from handeye.robot.camera.distortion import Lens, distort, undistort
from handeye.robot.camera.intrinsics import Intrinsics

RATIONAL = [
    np.array([0.48, -2.68, 5e-4, -2e-4, 1.52, 0.36, -2.49, 1.44]),
    np.array([7.2, 4.4, 8e-5, -1.1e-4, 0.2, 7.6, 6.5, 1.2]),
    np.array([-0.31, 0.12, -1e-3, 6e-4, -0.02, 0.01, 0.02, -0.003]),
]


def determinants_to(straight: np.ndarray, distortion: np.ndarray) -> np.ndarray:
    """(steps, N) Jacobian's determinant of OpenCV's own projection on the way from the axis to each direction."""
    parts = np.linspace(1e-3, 1.0, 60)[:, None, None]
    points = np.concatenate([parts * straight, np.ones((60, len(straight), 1))], axis=2).reshape(-1, 1, 3)
    if len(straight) == 0:
        return np.ones((60, 0))
    shifts = 1e-6 * np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]])
    bent = [
        cv2.projectPoints(points + shift, np.zeros(3), np.zeros(3), np.eye(3), distortion)[0][:, 0] for shift in shifts
    ]
    dx, dy = (bent[0] - bent[1]) / 2e-6, (bent[2] - bent[3]) / 2e-6
    return (dx[:, 0] * dy[:, 1] - dx[:, 1] * dy[:, 0]).reshape(60, -1)


coefficients = st.tuples(
    *(st.floats(-1.0, 1.0) for _ in range(2)),
    *(st.floats(-5e-3, 5e-3) for _ in range(2)),
    *(st.floats(-1.0, 1.0) for _ in range(4)),
)


@settings(max_examples=25, deadline=None)
@given(coefficients, st.integers(0, 1000))
def test_the_first_root_on_the_way_out_is_found_and_no_other(numbers: tuple[float, ...], seed: int):
    distortion = np.array(numbers)
    zeros, poles = (np.roots([*row[::-1], 1.0]) for row in (distortion[[0, 1, 4]], distortion[5:]))
    assume(not (np.abs(zeros[:, None] - poles) < 0.01 * np.abs(poles)).any())  # of these is the test after the next
    bent = np.random.default_rng(seed).uniform(-1.2, 1.2, (50, 2))
    straight = undistort(bent, distortion)
    is_found = np.isfinite(straight).all(axis=1)
    np.testing.assert_allclose(distort(straight[is_found], distortion), bent[is_found], atol=1e-9)
    assert (determinants_to(straight[is_found], distortion) > 0.0).all()
    # What the lens bends without a fold on the way, it gives back; a margin stays to where it stops to.
    directions = np.random.default_rng(seed).uniform(-1.2, 1.2, (50, 2))
    farthest = 1.1 * np.linalg.norm(directions, axis=1)
    bottom = polynomial.polyval((np.linspace(0.0, 1.0, 100)[:, None] * farthest) ** 2, [1.0, *distortion[5:]])
    is_seen = (determinants_to(1.1 * directions, distortion) > 0.1).all(axis=0) & (bottom > 0.05).all(axis=0)
    seen = directions[is_seen]
    np.testing.assert_allclose(undistort(distort(seen, distortion), distortion), seen, atol=1e-7)


@pytest.mark.parametrize("distortion", RATIONAL)
def test_rational_lenses_equal_opencvs(distortion: np.ndarray):
    K = np.array([[600.0, 0.0, 319.5], [0.0, 602.0, 239.5], [0.0, 0.0, 1.0]])
    v, u = np.mgrid[0:480:3, 0:640:3]
    pixels = np.stack([u, v], axis=-1).reshape(-1, 2).astype(float)
    found = Intrinsics(K, (480, 640), distortion).directions(pixels)[:, :2]
    criteria = (cv2.TERM_CRITERIA_COUNT + cv2.TERM_CRITERIA_EPS, 1000, 1e-15)
    expected = cv2.undistortPointsIter(pixels[:, None], K, distortion, np.eye(3), np.eye(3), criteria)[:, 0]
    np.testing.assert_allclose(found, expected, atol=1e-13)


@pytest.mark.parametrize("shift", [2e-4, -2e-4])
def test_a_pole_and_a_zero_that_nearly_cancel_do_not_end_the_lens(shift: float):
    # A fit with too many coefficients: (1 - r^2 / 4) (1 - r^2 / z) / (1 - r^2 / p), z and p nearly equal.
    pole = 0.45
    k = polynomial.polymul([1.0, 0.1], [1.0, -1.0 / (pole + shift)])
    distortion = np.array([k[1], k[2], 0.0, 0.0, 0.0, -1.0 / pole, 0.0, 0.0])
    radius = np.concatenate([np.linspace(0.01, 0.62, 60), np.linspace(0.72, 1.1, 60)])
    straight = np.stack([0.8 * radius, -0.6 * radius], axis=1)
    bent = distort(straight, distortion)
    np.testing.assert_allclose(np.linalg.norm(bent, axis=1), radius * (1 + 0.1 * radius**2), atol=5e-3)
    np.testing.assert_allclose(undistort(bent, distortion), straight, atol=1e-9)
    # In the ring about the pole every point has a direction in the ring, or none: never one from far away.
    ring = np.linspace(0.62, 0.80, 500)[:, None] * [0.8, -0.6]
    found = undistort(ring, distortion)
    is_found = np.isfinite(found).all(axis=1)
    assert is_found.mean() > 0.75
    smooth = undistort(ring, np.array([0.1, 0.0, 0.0, 0.0]))
    assert np.linalg.norm(found - smooth, axis=1)[is_found].max() < 0.02
    # Where the near branch has a direction on its side of the pole, it is that one.
    before = np.linalg.norm(smooth, axis=1) < np.sqrt(pole)
    assert (np.linalg.norm(found, axis=1)[before & is_found] < np.sqrt(pole)).all()


def test_a_pole_alone_ends_the_lens():
    distortion = np.array([0.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0])  # r / (1 - r^2)
    bent = np.array([[0.5, 0.0], [3.0, 0.0], [0.0, -200.0]])
    found = undistort(bent, distortion)
    expected = (np.sqrt(1.0 + 4.0 * bent**2) - 1.0) / (2.0 * np.where(bent == 0.0, 1.0, bent))
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert np.isnan(distort(np.array([[1.5, 0.0]]), distortion)).all()


def test_a_second_rise_of_the_polynomial_is_no_direction():
    # r (1 - 0.8 r^2 + 0.3 r^4) rises to 0.61 at r = 1, falls, and rises again from r = 1.27 on.
    distortion = np.array([-0.8, 0.26, 0.0, 0.0])
    fold = np.sqrt((2.4 - np.sqrt(2.4**2 - 4 * 1.3)) / 2.6)
    highest = fold * (1 - 0.8 * fold**2 + 0.26 * fold**4)
    bent = np.array([[highest + 1e-3, 0.0], [highest - 1e-3, 0.0], [0.9, 0.0]])
    found = undistort(bent, distortion)
    np.testing.assert_array_equal(np.isnan(found).all(axis=1), [True, False, True])
    assert 0.0 < found[1, 0] < fold
    # And a point out there is not projected back into the image.
    camera = Intrinsics(np.diag([300.0, 300.0, 1.0]), (480, 640), distortion, is_crop=True)
    assert np.isnan(camera.project(np.array([1.2 * fold, 0.0, 1.0]))).all()


def test_a_fisheye_polynomial_that_rises_twice_ends_at_its_first_fold():
    distortion = np.array([-0.8, 0.28, 0.0, 0.0])
    fold = np.sqrt((2.4 - np.sqrt(2.4**2 - 4 * 1.4)) / 2.8)
    highest = fold * (1 - 0.8 * fold**2 + 0.28 * fold**4)
    found = undistort(np.array([[highest - 1e-3, 0.0], [highest + 1e-4, 0.0]]), distortion, Lens.FISHEYE)
    assert 0.0 < np.arctan(found[0, 0]) < fold
    assert np.isnan(found[1]).all()
    beyond = np.tan(np.array([[fold + 0.05, 0.0]]))
    assert np.isnan(distort(beyond, distortion, Lens.FISHEYE)).all()


@settings(max_examples=25, deadline=None)
@given(st.tuples(*(st.floats(-0.3, 0.3) for _ in range(4))), st.integers(0, 1000))
def test_a_fisheye_gives_back_what_it_bends_before_the_fold(numbers: tuple[float, ...], seed: int):
    distortion = np.array(numbers)
    angles = np.linspace(0.0, np.deg2rad(89.0), 2000)
    slope = 1 + polynomial.polyval(angles**2, np.concatenate([[0.0], distortion * [3, 5, 7, 9]]))
    limit = angles[np.argmax(slope <= 0.05)] if (slope <= 0.05).any() else angles[-1]
    rng = np.random.default_rng(seed)
    angle, azimuth = rng.uniform(0.0, limit, 50), rng.uniform(0.0, 2 * np.pi, 50)
    straight = np.tan(angle)[:, None] * np.stack([np.cos(azimuth), np.sin(azimuth)], axis=1)
    found = undistort(distort(straight, distortion, Lens.FISHEYE), distortion, Lens.FISHEYE)
    np.testing.assert_allclose(np.arctan(np.linalg.norm(found, axis=1)), angle, atol=1e-9)
