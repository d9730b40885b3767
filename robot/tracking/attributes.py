"""What a track knows besides its motion: class by vote, yaw on a circle, running means of size and score."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from robot.types import ObjectPosition

_VOTE_MEMORY = 0.95
_SCORE_GAIN = 0.3
_MIN_SIZE_GAIN = 0.1
_YAW_SIGMAS = 4.0
_LONG = 1.1


def wrap_angle(angle_rad: float, period_rad: float) -> float:
    """The equal angle in [-period / 2, period / 2)."""
    return (angle_rad + 0.5 * period_rad) % period_rad - 0.5 * period_rad


@dataclass(slots=True)
class YawFilter:
    """A random walk on the circle of angles that look the same (period_rad), filtered by Kalman's equations.

    A reading far from the mean is not followed but widens the variance, so a second one like it is believed.
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
