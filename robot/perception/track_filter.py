"""The linear Kalman filter over many tracks at once: arrays carry the tracks in front, no loop over them.

The state is position and velocity, [p, v], in metres and seconds for objects in space; the same functions serve
trackers in the image. Bar-Shalom, Li, Kirubarajan: Estimation with Applications to Tracking and Navigation, 5.2, 6.2.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def constant_velocity(
    dt_s: float, noise_density: float, num_dims: int = 3, *, velocity_memory_s: float = np.inf
) -> tuple[Float[np.ndarray, "S S"], Float[np.ndarray, "S S"]]:
    """Transition F and process noise Q over dt_s >= 0 for [p, v] with S = 2 num_dims.

    Velocity is driven by continuous white-noise acceleration of noise_density (m^2 / s^3) in each axis. With
    velocity_memory_s finite it also decays, dv = -v dt / memory + noise (integrated Ornstein-Uhlenbeck), which says
    that things come to rest; at infinity this is the constant velocity model, Q = q [[dt^3/3, dt^2/2], [dt^2/2, dt]].
    """
    if np.isinf(velocity_memory_s):
        travel, kept = dt_s, 1.0
        pp, pv, vv = dt_s**3 / 3.0, dt_s**2 / 2.0, dt_s
    else:
        tau = velocity_memory_s
        travel, kept = -tau * np.expm1(-dt_s / tau), np.exp(-dt_s / tau)
        pv, vv = 0.5 * travel**2, -0.5 * tau * np.expm1(-2.0 * dt_s / tau)
        pp = tau**2 * (dt_s - 2.0 * travel + vv)
    eye = np.eye(num_dims)
    F = np.block([[eye, travel * eye], [0.0 * eye, kept * eye]])
    Q = noise_density * np.block([[pp * eye, pv * eye], [pv * eye, vv * eye]])
    return F, Q


def position_measurement(num_dims: int = 3) -> Float[np.ndarray, "D S"]:
    """H of a measurement of the position alone."""
    return np.eye(num_dims, 2 * num_dims)


def predict(
    means: Float[np.ndarray, "N S"],
    covariances: Float[np.ndarray, "N S S"],
    F: Float[np.ndarray, "S S"],
    Q: Float[np.ndarray, "S S"],
) -> tuple[Float[np.ndarray, "N S"], Float[np.ndarray, "N S S"]]:
    """The states after one transition: F x and F P F^T + Q."""
    return means @ F.T, F @ covariances @ F.T + Q


def update(
    means: Float[np.ndarray, "N S"],
    covariances: Float[np.ndarray, "N S S"],
    measured: Float[np.ndarray, "N D"],
    measured_covariances: Float[np.ndarray, "N D D"],
    H: Float[np.ndarray, "D S"],
) -> tuple[Float[np.ndarray, "N S"], Float[np.ndarray, "N S S"]]:
    """Each state after its own measurement.

    Joseph form, (1 - K H) P (1 - K H)^T + K R K^T, which stays symmetric and positive whatever the rounding of K.
    """
    innovation = measured - means @ H.T
    S = H @ covariances @ H.T + measured_covariances
    gain = np.swapaxes(np.linalg.solve(S, H @ covariances), -1, -2)
    kept = np.eye(means.shape[1]) - gain @ H
    updated = _sandwich(kept, covariances) + _sandwich(gain, measured_covariances)
    return means + (gain @ innovation[..., None])[..., 0], updated


def mahalanobis_squared(
    offsets: Float[np.ndarray, "*pairs D"], covariances: Float[np.ndarray, "*pairs D D"]
) -> Float[np.ndarray, "*pairs"]:
    """d^T S^-1 d for each pair: chi-square distributed with D degrees of freedom when S is right."""
    return (offsets * np.linalg.solve(covariances, offsets[..., None])[..., 0]).sum(axis=-1)


def _sandwich(factor: np.ndarray, covariances: np.ndarray) -> np.ndarray:
    """factor C factor^T for each track."""
    return factor @ covariances @ np.swapaxes(factor, -1, -2)
