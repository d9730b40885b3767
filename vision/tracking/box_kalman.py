"""Kalman filters of boxes in the image, vectorised over tracks: the motion models of SORT and ByteTrack.

Both filters have diagonal noise and observe every component alone, so their 7x7 and 8x8 covariances stay block
diagonal for ever: each component is a separate filter with position and rate. That is exact, not an approximation.
Noise is published for each frame; here it is carried to any frame time, so that n steps of 1 equal one step of n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int64

from handeye.vision.tracking.camera_motion import SimilarityMotion

Rows = Int64[np.ndarray, " _"] | Bool[np.ndarray, " _"]
FrameTime = float | Float[np.ndarray, " N"]
"""Frames between two states, the same for all tracks or one for each."""


@dataclass(frozen=True, slots=True, eq=False)
class BoxMotion:
    """States of N tracks: four components with a rate for each frame, and of each the 2x2 covariance.

    One array holds them, in the order of the properties below, which are views of it.
    """

    layers: Float[np.ndarray, "5 N 4"]

    def __len__(self) -> int:
        return self.layers.shape[1]

    def __getitem__(self, rows: Rows | slice) -> BoxMotion:
        """The chosen tracks."""
        return BoxMotion(self.layers[:, rows])

    def replaced(self, rows: Rows, states: BoxMotion) -> BoxMotion:
        """A copy in which the chosen tracks have these states."""
        layers = self.layers.copy()
        layers[:, rows] = states.layers
        return BoxMotion(layers)

    def followed_by(self, newer: BoxMotion) -> BoxMotion:
        """These tracks and then the newer ones."""
        return BoxMotion(np.concatenate([self.layers, newer.layers], axis=1))

    @property
    def means(self) -> Float[np.ndarray, "N 4"]:
        """The components."""
        return self.layers[0]

    @property
    def rates(self) -> Float[np.ndarray, "N 4"]:
        """Their growth in one frame."""
        return self.layers[1]

    @property
    def mean_variances(self) -> Float[np.ndarray, "N 4"]:
        """Variances of the components."""
        return self.layers[2]

    @property
    def mixed_variances(self) -> Float[np.ndarray, "N 4"]:
        """Covariances of each component with its rate."""
        return self.layers[3]

    @property
    def rate_variances(self) -> Float[np.ndarray, "N 4"]:
        """Variances of the rates."""
        return self.layers[4]


@runtime_checkable
class BoxModel(Protocol):
    """What a box is measured as, and how much each component wanders."""

    def start(self, boxes_xyxy: Float[np.ndarray, "N 4"]) -> BoxMotion:
        """New tracks at these boxes (px, with area), at rest, with a large variance of the rates."""
        ...

    def predict(self, motion: BoxMotion, dt_frames: FrameTime) -> BoxMotion:
        """The states dt_frames >= 0 frames later."""
        ...

    def update(self, motion: BoxMotion, boxes_xyxy: Float[np.ndarray, "N 4"]) -> BoxMotion:
        """The states after each track was seen at its box."""
        ...

    def boxes(self, motion: BoxMotion) -> Float[np.ndarray, "N 4"]:
        """Where the tracks are, x1 y1 x2 y2 in px; NaN where a state is no longer a box."""
        ...

    def carried(self, motion: BoxMotion, camera_motion: SimilarityMotion) -> BoxMotion:
        """The same tracks in the image of a camera that has moved."""
        ...


class AreaModel:
    """Centre, area and aspect ratio w / h, the ratio without a rate (SORT, arXiv:1602.00763, equation 1).

    The paper leaves the noise open; these are the values of the authors' program, which OC-SORT uses too.
    """

    _mean_noise = np.array([1.0, 1.0, 1.0, 1.0])
    _rate_noise = np.array([1e-2, 1e-2, 1e-4, 0.0])
    _measured_noise = np.array([1.0, 1.0, 10.0, 10.0])
    _start_mean_variance = np.array([10.0, 10.0, 10.0, 10.0])
    _start_rate_variance = np.array([1e4, 1e4, 1e4, 0.0])

    def start(self, boxes_xyxy: Float[np.ndarray, "N 4"]) -> BoxMotion:
        """New tracks at these boxes."""
        return _at_rest(_centre_area_ratio(boxes_xyxy), self._start_mean_variance, self._start_rate_variance)

    def predict(self, motion: BoxMotion, dt_frames: FrameTime) -> BoxMotion:
        """An area that would shrink to nothing stops shrinking."""
        rates = motion.rates.copy()
        rates[motion.means[:, 2] + dt_frames * rates[:, 2] <= 0.0, 2] = 0.0
        return predict(motion, rates, self._mean_noise, self._rate_noise, dt_frames)

    def update(self, motion: BoxMotion, boxes_xyxy: Float[np.ndarray, "N 4"]) -> BoxMotion:
        """The states after each track was seen."""
        return update(motion, _centre_area_ratio(boxes_xyxy), self._measured_noise)

    def boxes(self, motion: BoxMotion) -> Float[np.ndarray, "N 4"]:
        """NaN where area or ratio is not positive."""
        area, ratio = motion.means[:, 2], motion.means[:, 3]
        width = np.sqrt(np.where((area > 0.0) & (ratio > 0.0), area * ratio, np.nan))
        return _from_centre(motion.means[:, :2], width, area / width)

    def carried(self, motion: BoxMotion, camera_motion: SimilarityMotion) -> BoxMotion:
        """Areas grow with the square of the scale."""
        scale = camera_motion.scale
        return _carried(motion, camera_motion, np.array([scale, scale, scale**2, 1.0]))


class HeightModel:
    """Centre, aspect ratio w / h and height, all with rates; noise grows with the height (DeepSORT, arXiv:1703.07402).

    ByteTrack's filter. The standard deviations are those of the authors' program: a twentieth of the height for places
    (doubled at birth) and a 160th of it for rates (ten times at birth); for the ratio 0.01, its rate 0.00001, measured
    0.1.
    """

    _place, _rate = 1.0 / 20.0, 1.0 / 160.0
    _ratio, _ratio_rate, _measured_ratio = 1e-2, 1e-5, 1e-1

    def start(self, boxes_xyxy: Float[np.ndarray, "N 4"]) -> BoxMotion:
        """New tracks at these boxes."""
        measured = _centre_ratio_height(boxes_xyxy)
        mean_variances = _by_height(measured, 2.0 * self._place, self._ratio)
        return _at_rest(measured, mean_variances, _by_height(measured, 10.0 * self._rate, self._ratio_rate))

    def predict(self, motion: BoxMotion, dt_frames: FrameTime) -> BoxMotion:
        """The noise is that of the height before the step."""
        mean_noise = _by_height(motion.means, self._place, self._ratio)
        rate_noise = _by_height(motion.means, self._rate, self._ratio_rate)
        return predict(motion, motion.rates, mean_noise, rate_noise, dt_frames)

    def update(self, motion: BoxMotion, boxes_xyxy: Float[np.ndarray, "N 4"]) -> BoxMotion:
        """The noise is that of the height that was predicted."""
        noise = _by_height(motion.means, self._place, self._measured_ratio)
        return update(motion, _centre_ratio_height(boxes_xyxy), noise)

    def boxes(self, motion: BoxMotion) -> Float[np.ndarray, "N 4"]:
        """NaN where ratio or height is not positive."""
        ratio, height = motion.means[:, 2], motion.means[:, 3]
        height = np.where((ratio > 0.0) & (height > 0.0), height, np.nan)
        return _from_centre(motion.means[:, :2], ratio * height, height)

    def carried(self, motion: BoxMotion, camera_motion: SimilarityMotion) -> BoxMotion:
        """Heights grow with the scale."""
        scale = camera_motion.scale
        return _carried(motion, camera_motion, np.array([scale, scale, 1.0, scale]))


def predict(
    motion: BoxMotion,
    rates: Float[np.ndarray, "N 4"],
    mean_noise: Float[np.ndarray, "*#N 4"],
    rate_noise: Float[np.ndarray, "*#N 4"],
    dt_frames: FrameTime,
) -> BoxMotion:
    """F x and F P F^T + Q of each component, F = [[1, dt], [0, 1]]; the noise variances are those of one frame.

    Q(dt) is the one polynomial with Q(1) = diag(mean_noise, rate_noise) and Q(a + b) = F(b) Q(a) F(b)^T + Q(b).
    """
    dt = np.asarray(dt_frames)[..., None]
    means, _, mean_variances, mixed, rate_variances = motion.layers
    layers = np.empty_like(motion.layers)
    layers[0] = means + dt * rates
    layers[1] = rates
    layers[2] = mean_variances + dt * (2.0 * mixed + dt * rate_variances + mean_noise)
    layers[2] += dt * (dt - 1.0) * (2.0 * dt - 1.0) / 6.0 * rate_noise
    layers[3] = mixed + dt * rate_variances + 0.5 * dt * (dt - 1.0) * rate_noise
    layers[4] = rate_variances + dt * rate_noise
    return BoxMotion(layers)


def update(
    motion: BoxMotion, measured: Float[np.ndarray, "N 4"], measured_noise: Float[np.ndarray, "*#N 4"]
) -> BoxMotion:
    """Each component after its measurement of variance measured_noise: gain P H^T / S, S = H P H^T + R."""
    means, rates, mean_variances, mixed, rate_variances = motion.layers
    spread = mean_variances + measured_noise
    innovation = (measured - means) / spread
    kept = measured_noise / spread
    layers = np.empty_like(motion.layers)
    layers[0] = means + mean_variances * innovation
    layers[1] = rates + mixed * innovation
    layers[2] = mean_variances * kept
    layers[3] = mixed * kept
    layers[4] = rate_variances - mixed * mixed / spread
    return BoxMotion(layers)


def _carried(motion: BoxMotion, camera_motion: SimilarityMotion, factors: Float[np.ndarray, "4"]) -> BoxMotion:
    """Components times their factors, centres mapped; exact, because both models treat x and y alike under rotation."""
    layers = motion.layers * np.stack([factors, factors, factors**2, factors**2, factors**2])[:, None]
    layers[0, :, :2] = camera_motion.of_points(motion.means[:, :2])
    layers[1, :, :2] = camera_motion.of_directions(motion.rates[:, :2])
    return BoxMotion(layers)


def _at_rest(
    means: Float[np.ndarray, "N 4"],
    mean_variances: Float[np.ndarray, "*#N 4"],
    rate_variances: Float[np.ndarray, "*#N 4"],
) -> BoxMotion:
    layers = np.zeros((5, *means.shape))
    layers[0], layers[2], layers[4] = means, mean_variances, rate_variances
    return BoxMotion(layers)


def _by_height(states: np.ndarray, of_height: float, of_ratio: float) -> Float[np.ndarray, "N 4"]:
    """Variances of centre, ratio and height from standard deviations, the first and last a part of the height."""
    variances = np.empty((len(states), 4))
    variances[:] = ((of_height * states[:, 3]) ** 2)[:, None]
    variances[:, 2] = of_ratio**2
    return variances


def _centre_area_ratio(boxes_xyxy: Float[np.ndarray, "N 4"]) -> Float[np.ndarray, "N 4"]:
    states = np.empty((len(boxes_xyxy), 4))
    size = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    states[:, :2] = boxes_xyxy[:, :2] + 0.5 * size
    states[:, 2] = size[:, 0] * size[:, 1]
    states[:, 3] = size[:, 0] / size[:, 1]
    return states


def _centre_ratio_height(boxes_xyxy: Float[np.ndarray, "N 4"]) -> Float[np.ndarray, "N 4"]:
    states = np.empty((len(boxes_xyxy), 4))
    size = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    states[:, :2] = boxes_xyxy[:, :2] + 0.5 * size
    states[:, 2] = size[:, 0] / size[:, 1]
    states[:, 3] = size[:, 1]
    return states


def _from_centre(
    centre: Float[np.ndarray, "N 2"], width: Float[np.ndarray, " N"], height: Float[np.ndarray, " N"]
) -> Float[np.ndarray, "N 4"]:
    boxes = np.empty((len(centre), 4))
    half = np.empty((len(centre), 2))
    half[:, 0], half[:, 1] = 0.5 * width, 0.5 * height
    np.subtract(centre, half, out=boxes[:, :2])
    np.add(centre, half, out=boxes[:, 2:])
    return boxes
