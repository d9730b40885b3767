"""A batched linear Kalman filter for position and velocity, and the other attributes of a track.

The state is [p, v] in metres and seconds, with the tracks as leading dimension (Bar-Shalom, Li, Kirubarajan:
Estimation with Applications to Tracking and Navigation, 5.2, 6.2). Attributes are the class by vote, the yaw on a
circle, and running means of size and score.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from handeye.robot.transforms import wrap_angle
from handeye.robot.types import ObjectPosition

_VOTE_MEMORY = 0.95
_SCORE_GAIN = 0.3
_MIN_SIZE_GAIN = 0.1
_YAW_SIGMAS = 4.0
_LONG = 1.1


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


@dataclass(slots=True)
class YawFilter:
    """A random walk on the circle of angles that look the same (period_rad), filtered by Kalman's equations.

    A reading far from the mean is not followed but widens the variance, so that a second one like it is.
    """

    sigma_rad: float
    walk_rad2_s: float
    mean_rad: float | None = None
    variance_rad2: float = 0.0

    def predict(self, dt_s: float) -> None:
        """Let dt_s go by."""
        self.variance_rad2 += self.walk_rad2_s * dt_s

    def update(self, yaw_rad: float, period_rad: float) -> None:
        """Take in one reading of standard deviation sigma_rad."""
        if self.mean_rad is None:
            self.mean_rad, self.variance_rad2 = wrap_angle(yaw_rad, period_rad), self.sigma_rad**2
            return
        innovation = wrap_angle(yaw_rad - self.mean_rad, period_rad)
        expected = self.variance_rad2 + self.sigma_rad**2
        if innovation**2 > _YAW_SIGMAS**2 * expected:
            self.variance_rad2 += innovation**2
            return
        gain = self.variance_rad2 / expected
        self.mean_rad = wrap_angle(self.mean_rad + gain * innovation, period_rad)
        self.variance_rad2 *= 1.0 - gain


@dataclass(slots=True)
class Attributes:
    """The non-moving part of one track. votes holds a weight for each class that was ever seen on it."""

    yaw: YawFilter
    votes: dict[int, float] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    score: float = 0.0
    size_m: Float[np.ndarray, "3"] | None = None
    num_sizes: int = 0

    @property
    def class_id(self) -> int:
        """The class with most weight; the lower id of equals."""
        return max(sorted(self.votes), key=lambda class_id: self.votes[class_id])

    @property
    def class_name(self) -> str:
        """Its name."""
        return self.names[self.class_id]

    def add(self, position: ObjectPosition) -> None:
        """Take in one detection of the object."""
        self.score = position.score if not self.votes else self.score + _SCORE_GAIN * (position.score - self.score)
        self.votes = {class_id: _VOTE_MEMORY * votes for class_id, votes in self.votes.items()}
        self.votes[position.class_id] = self.votes.get(position.class_id, 0.0) + max(position.score, 1e-6)
        self.names[position.class_id] = position.class_name
        if position.size_m is not None:
            self._average_size(position.size_m)
        if position.yaw_rad is not None:
            self.yaw.update(position.yaw_rad, self._yaw_period())

    def _average_size(self, size_m: Float[np.ndarray, "3"]) -> None:
        self.num_sizes += 1
        gain = max(1.0 / self.num_sizes, _MIN_SIZE_GAIN)
        self.size_m = size_m if self.size_m is None else self.size_m + gain * (size_m - self.size_m)

    def _yaw_period(self) -> float:
        """A square looks the same after a quarter turn, anything longer than wide after half a turn."""
        is_long = self.size_m is not None and self.size_m[0] > _LONG * self.size_m[1]
        return math.pi if is_long else math.pi / 2


def _sandwich(factor: np.ndarray, covariances: np.ndarray) -> np.ndarray:
    """factor C factor^T for each track."""
    return factor @ covariances @ np.swapaxes(factor, -1, -2)
