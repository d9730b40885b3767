"""The filter against identities of textbooks, and against a plain loop written out for one track."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.linalg import expm, solve_discrete_are
from scipy.stats import chi2

from handeye.robot.perception.track_filter import (
    constant_velocity,
    mahalanobis_squared,
    position_measurement,
    predict,
    update,
)

H = position_measurement(3)
memories = st.sampled_from([np.inf, 0.3, 2.0])


def random_covariances(rng: np.random.Generator, num: int, dim: int) -> np.ndarray:
    factors = rng.standard_normal((num, dim, dim))
    return factors @ np.swapaxes(factors, -1, -2) + 0.1 * np.eye(dim)


def test_constant_velocity_is_the_matrix_of_the_books():
    F, Q = constant_velocity(0.5, 2.0, num_dims=1)
    np.testing.assert_allclose(F, [[1.0, 0.5], [0.0, 1.0]])
    np.testing.assert_allclose(Q, 2.0 * np.array([[0.5**3 / 3, 0.5**2 / 2], [0.5**2 / 2, 0.5]]))


@settings(max_examples=25, deadline=None)
@given(dt_s=st.floats(0.0, 3.0), memory_s=memories)
def test_transition_solves_the_differential_equation(dt_s: float, memory_s: float):
    rate = 0.0 if np.isinf(memory_s) else 1.0 / memory_s
    drift = np.array([[0.0, 1.0], [0.0, -rate]])
    F, Q = constant_velocity(dt_s, 0.7, num_dims=1, velocity_memory_s=memory_s)
    np.testing.assert_allclose(F, expm(drift * dt_s), atol=1e-12)
    noise = np.array([[0.0, 0.0], [0.0, 0.7]])
    for i in range(2):
        for j in range(2):
            expected, _ = quad(lambda t, i=i, j=j: (expm(drift * t) @ noise @ expm(drift * t).T)[i, j], 0.0, dt_s)
            assert Q[i, j] == pytest.approx(expected, abs=1e-9)


@given(a_s=st.floats(0.0, 1.0), b_s=st.floats(0.0, 1.0), memory_s=memories)
def test_two_steps_are_one_long_step(a_s: float, b_s: float, memory_s: float):
    first, second, both = (constant_velocity(dt_s, 0.2, velocity_memory_s=memory_s) for dt_s in (a_s, b_s, a_s + b_s))
    np.testing.assert_allclose(second[0] @ first[0], both[0], atol=1e-12)
    np.testing.assert_allclose(second[0] @ first[1] @ second[0].T + second[1], both[1], atol=1e-12)


def test_a_long_memory_tends_to_constant_velocity():
    for slow, exact in zip(
        constant_velocity(0.1, 1.0, velocity_memory_s=1e4), constant_velocity(0.1, 1.0), strict=True
    ):
        np.testing.assert_allclose(slow, exact, rtol=1e-4)


def test_many_tracks_at_once_equal_one_after_the_other():
    rng = np.random.default_rng(0)
    means, covariances = rng.standard_normal((20, 6)), random_covariances(rng, 20, 6)
    measured, noise = rng.standard_normal((20, 3)), random_covariances(rng, 20, 3)
    F, Q = constant_velocity(0.13, 0.5)
    predicted = predict(means, covariances, F, Q)
    updated = update(*predicted, measured, noise, H)
    for i in range(20):
        x, P = F @ means[i], F @ covariances[i] @ F.T + Q
        K = P @ H.T @ np.linalg.inv(H @ P @ H.T + noise[i])
        np.testing.assert_allclose(updated[0][i], x + K @ (measured[i] - H @ x), atol=1e-10)
        np.testing.assert_allclose(updated[1][i], (np.eye(6) - K @ H) @ P, atol=1e-10)


def test_update_equals_the_information_form():
    rng = np.random.default_rng(1)
    means, covariances = rng.standard_normal((5, 6)), random_covariances(rng, 5, 6)
    measured, noise = rng.standard_normal((5, 3)), random_covariances(rng, 5, 3)
    mean, covariance = update(means, covariances, measured, noise, H)
    for i in range(5):
        information = np.linalg.inv(covariances[i]) + H.T @ np.linalg.inv(noise[i]) @ H
        np.testing.assert_allclose(np.linalg.inv(covariance[i]), information, rtol=1e-8)
        weighted = np.linalg.inv(covariances[i]) @ means[i] + H.T @ np.linalg.inv(noise[i]) @ measured[i]
        np.testing.assert_allclose(mean[i], np.linalg.solve(information, weighted), rtol=1e-8)


def test_the_covariance_settles_where_the_riccati_equation_says():
    F, Q = constant_velocity(0.1, 0.3)
    R = 1e-4 * np.eye(3)
    mean, covariance = np.zeros((1, 6)), np.eye(6)[None]
    for _ in range(400):
        mean, covariance = predict(mean, covariance, F, Q)
        settled = covariance[0]
        mean, covariance = update(mean, covariance, np.zeros((1, 3)), R[None], H)
    np.testing.assert_allclose(settled, solve_discrete_are(F.T, H.T, Q, R), rtol=1e-6)


def test_joseph_form_stays_positive_with_extreme_scales():
    covariance = np.diag([1e8, 1e8, 1e8, 1.0, 1.0, 1.0])[None]
    mean = np.zeros((1, 6))
    for _ in range(50):
        mean, covariance = update(mean, covariance, np.ones((1, 3)), 1e-12 * np.eye(3)[None], H)
        assert np.linalg.eigvalsh(covariance[0]).min() >= -1e-20
        np.testing.assert_allclose(covariance[0], covariance[0].T, rtol=1e-12)


def test_innovations_of_a_matched_filter_are_chi_square():
    rng = np.random.default_rng(2)
    num, q, R = 400, 0.05, 4e-6 * np.eye(3)
    truth = np.concatenate([rng.normal(0, 0.5, (num, 3)), rng.normal(0, 0.1, (num, 3))], axis=1)
    mean = np.pad(truth[:, :3] + rng.normal(0, 2e-3, (num, 3)), ((0, 0), (0, 3)))
    covariance = np.tile(np.diag([4e-6] * 3 + [0.01] * 3), (num, 1, 1))
    for dt_s in (0.1, 0.05, 0.2, 0.1, 0.4, 0.1):
        F, Q = constant_velocity(dt_s, q)
        truth = truth @ F.T + rng.multivariate_normal(np.zeros(6), Q, num)
        mean, covariance = predict(mean, covariance, F, Q)
        measured = truth[:, :3] + rng.multivariate_normal(np.zeros(3), R, num)
        nis = mahalanobis_squared(measured - mean[:, :3], covariance[:, :3, :3] + R)
        low, high = chi2.ppf([0.0005, 0.9995], 3 * num) / num
        assert low < nis.mean() < high
        mean, covariance = update(mean, covariance, measured, np.tile(R, (num, 1, 1)), H)
    error = truth - mean
    low, high = chi2.ppf([0.0005, 0.9995], 6 * num) / num
    assert low < mahalanobis_squared(error, covariance).mean() < high


def test_no_tracks_are_no_trouble():
    F, Q = constant_velocity(0.1, 1.0)
    mean, covariance = predict(np.zeros((0, 6)), np.zeros((0, 6, 6)), F, Q)
    mean, covariance = update(mean, covariance, np.zeros((0, 3)), np.zeros((0, 3, 3)), H)
    assert mean.shape == (0, 6)
    assert covariance.shape == (0, 6, 6)
