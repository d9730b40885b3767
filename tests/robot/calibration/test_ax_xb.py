"""AX = XB: exact motions give X exactly, noisy ones as well as OpenCV does, and degenerate ones are refused."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from handeye.robot.calibration.hand_eye import ClosedForm, relative_motions, solve_ax_xb, transform_errors
from handeye.robot.errors import CalibrationError
from handeye.robot.transforms import inverse, make_transform, rotvec_to_rotation, translation

OPENCV_METHODS = [
    cv2.CALIB_HAND_EYE_TSAI,
    cv2.CALIB_HAND_EYE_PARK,
    cv2.CALIB_HAND_EYE_HORAUD,
    cv2.CALIB_HAND_EYE_ANDREFF,
    cv2.CALIB_HAND_EYE_DANIILIDIS,
]


def random_transforms(rng: np.random.Generator, number: int) -> np.ndarray:
    return make_transform(Rotation.random(number, rng=rng).as_matrix(), rng.normal(size=(number, 3)))


def noise(rng: np.random.Generator, number: int, m: float, rad: float) -> np.ndarray:
    return make_transform(rotvec_to_rotation(rng.normal(0, rad, (number, 3))), rng.normal(0, m, (number, 3)))


def noisy_poses(rng: np.random.Generator, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """X and poses of tool and board with G_i X C_i = Z but for 0.5 mm and 0.1 degree."""
    X, Z = random_transforms(rng, 2)
    turns = rotvec_to_rotation(rng.normal(0, 0.5, (number, 3)))
    G = make_transform(turns, rng.normal(0, 0.3, (number, 3)))
    C = inverse(G @ X) @ Z
    return X, G, C @ noise(rng, number, 0.5e-3, np.deg2rad(0.1))


@pytest.mark.parametrize("method", ClosedForm)
@given(seed=st.integers(0, 2**32 - 1))
def test_exact_motions_give_x_exactly(method: ClosedForm, seed: int):
    rng = np.random.default_rng(seed)
    X, Z = random_transforms(rng, 2)
    G = random_transforms(rng, 6)
    C = inverse(G @ X) @ Z
    found = solve_ax_xb(relative_motions(G), relative_motions(inverse(C)), method)
    np.testing.assert_allclose(found, X, atol=1e-7)


@pytest.mark.parametrize("method", ClosedForm)
def test_two_motions_about_two_axes_are_enough(method: ClosedForm):
    X = make_transform(rotvec_to_rotation(np.array([0.3, -0.2, 0.9])), np.array([0.1, 0.2, -0.3]))
    A = make_transform(rotvec_to_rotation(np.array([[0.5, 0.0, 0.0], [0.0, 0.7, 0.1]])), np.ones((2, 3)))
    np.testing.assert_allclose(solve_ax_xb(A, inverse(X) @ A @ X, method), X, atol=1e-9)


def test_relative_motions_are_those_of_all_pairs():
    poses = random_transforms(np.random.default_rng(0), 4)
    motions = relative_motions(poses)
    assert motions.shape == (6, 4, 4)
    np.testing.assert_allclose(poses[0] @ motions[0], poses[1], atol=1e-12)
    np.testing.assert_allclose(poses[2] @ motions[5], poses[3], atol=1e-12)


def test_noisy_motions_are_solved_as_well_as_by_opencvs_best():
    rng = np.random.default_rng(7)
    ours, theirs = [], []
    for _ in range(40):
        X, G, C = noisy_poses(rng, 12)
        A, B = relative_motions(G), relative_motions(inverse(C))
        ours.append([transform_errors(solve_ax_xb(A, B, method), X) for method in ClosedForm])
        found = []
        for method in OPENCV_METHODS:  # by keyword: as fifth positional argument it would be R_cam2gripper
            R, t = cv2.calibrateHandEye(G[:, :3, :3], G[:, :3, 3], C[:, :3, :3], C[:, :3, 3], method=method)
            found.append(transform_errors(make_transform(R, t[:, 0]), X))
        theirs.append(found)
    ours_median, theirs_median = np.median(ours, axis=0), np.median(theirs, axis=0)  # (methods, [m, rad])
    # Five medians have a lower minimum than three by chance alone.
    assert (ours_median.min(axis=0) <= 1.1 * theirs_median.min(axis=0)).all()
    # None of ours is a bad choice.
    assert (ours_median.max(axis=0) <= 1.5 * theirs_median.min(axis=0)).all()


@pytest.mark.parametrize("method", ClosedForm)
def test_half_turns_with_noise_do_no_harm(method: ClosedForm):
    rng = np.random.default_rng(3)
    X, G, _ = noisy_poses(rng, 8)
    G[1] = G[0] @ make_transform(rotvec_to_rotation(np.array([np.pi, 0.0, 0.0])), np.array([0.1, 0.0, 0.0]))
    G[3] = G[2] @ make_transform(rotvec_to_rotation(np.array([0.0, np.pi - 1e-3, 0.0])), np.array([0.0, 0.1, 0.0]))
    C = inverse(G @ X) @ noise(rng, 8, 1e-4, 1e-3)
    distance, angle = transform_errors(solve_ax_xb(relative_motions(G), relative_motions(inverse(C)), method), X)
    # A flipped axis would be worth decimetres; 0.06 degrees at a metre and more are worth millimetres.
    assert distance < 5e-3
    assert angle < 2e-3


def around(axis: list[float], angles: list[float]) -> np.ndarray:
    turns = rotvec_to_rotation(np.array(angles)[:, None] * np.array(axis))
    return make_transform(turns, np.random.default_rng(0).normal(size=(len(angles), 3)))


@pytest.mark.parametrize(
    ("G", "words"),
    [
        (around([0, 0, 1], [0.0, 0.4]), "1 motion cannot"),
        (around([0, 0, 1], [0.0, 0.3, 0.7, -0.5]), r"about one axis, \(-?0.00, -?0.00, -?1.00\)"),
        (around([0.6, 0.0, 0.8], [0.0, 0.3, 0.7, -0.5]), "also tilt"),
        (around([1, 0, 0], [0.0, 0.01, 0.02, 0.03]), "at most 1.72 degrees"),
        (np.stack([translation(x, 0.0, x * x) for x in (0.0, 0.1, 0.2, 0.3)]), "translations do not"),
    ],
)
def test_motions_that_determine_nothing_are_refused_with_what_to_do(G: np.ndarray, words: str):
    with pytest.raises(CalibrationError, match=words):
        solve_ax_xb(relative_motions(G), relative_motions(G), ClosedForm.PARK_MARTIN)


def test_nearly_parallel_axes_with_noise_are_refused():
    rng = np.random.default_rng(1)
    G = around([0, 0, 1], rng.uniform(-1, 1, 10).tolist()) @ noise(rng, 10, 5e-4, np.deg2rad(0.3))
    with pytest.raises(CalibrationError, match="about one axis"):
        solve_ax_xb(relative_motions(G), relative_motions(G), ClosedForm.PARK_MARTIN)
