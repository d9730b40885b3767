"""Track upright 3D boxes, such as those of cars, from a detector that gives whole boxes.

The same filter and assignment as for objects on a table, with a constant velocity model, and accumulated confidence
instead of a number of hits, so that a sure detection is a track at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64
from pydantic import Field

from handeye.robot.errors import RobotError
from handeye.robot.perception.association import Pairs, assign_pairs, chi_square_gate, pairs_within
from handeye.robot.perception.object_tracker import Visible
from handeye.robot.perception.track_filter import (
    constant_velocity,
    mahalanobis_squared,
    position_measurement,
    predict,
    update,
)
from handeye.robot.perception.upright_boxes import Volumes
from handeye.robot.transforms import wrap_angle
from handeye.vision.config import Config

_H = position_measurement(3)


class VolumeTrackerConfig(Config):
    """Motion, gate and life cycle; the defaults suit road users seen ten times a second, scored by log-odds.

    birth_score, confirm_score and the times were chosen on the five KITTI drives that the tests measure.
    """

    acceleration_density: float = Field(default=20.0, gt=0)
    """White-noise acceleration, m^2 / s^3."""
    position_sigma_m: tuple[float, float, float] = (0.35, 0.35, 0.15)
    """Standard deviation of a detection's centre along the frame's axes."""
    initial_speed_m_s: float = Field(default=12.0, gt=0)
    """Standard deviation of each velocity component of a new object."""
    gate_probability: float = Field(default=0.999, gt=0, lt=1)
    """Part of true matches that the gate lets through."""
    birth_score: float = 1.0
    """A detection below this score continues a track but begins none."""
    confirm_score: float = 4.25
    """A track is reported once the scores of its detections, as far as they are above birth_score, add up to this."""
    coast_s: float = Field(default=0.0, ge=0)
    """Unseen for no longer than this, a confirmed track is still reported, where it is predicted."""
    forget_s: float = Field(default=0.55, gt=0)
    """Unseen for longer, a track ends."""
    shape_gain: float = Field(default=0.3, gt=0, le=1)
    """Weight of a new detection's size and yaw once a track has a history; the first ones are averaged."""


@dataclass(frozen=True, slots=True, eq=False)
class VolumeTracks:
    """Reported tracks, oldest first: ids that are never reused, boxes, velocities (m/s), last scores, time unseen."""

    track_ids: Int64[np.ndarray, " N"]
    volumes: Volumes
    velocities: Float[np.ndarray, "N 3"]
    scores: Float[np.ndarray, " N"]
    unseen_s: Float[np.ndarray, " N"]


class VolumeTracker:
    """Tracks boxes of one class from frame to frame, at any and varying frame times. Everything is an array."""

    def __init__(self, config: VolumeTrackerConfig) -> None:
        self._config = config
        self._gate = chi_square_gate(config.gate_probability, 3)
        self._noise = np.diag(np.square(config.position_sigma_m))
        self._means, self._covariances = np.zeros((0, 6)), np.zeros((0, 6, 6))
        self._sizes, self._yaws = np.zeros((0, 3)), np.zeros(0)
        self._ids, self._hits = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._scores, self._trust, self._unseen_s = np.zeros(0), np.zeros(0), np.zeros(0)
        self._next_id = 1
        self._stamp_s: float | None = None

    def update(
        self, volumes: Volumes, scores: Float[np.ndarray, " M"], stamp_s: float, *, visible: Visible | None = None
    ) -> VolumeTracks:
        """Take in all boxes of one frame, taken at stamp_s, and return the reported tracks.

        Scores may be of any scale that the configuration's thresholds share. visible says whether a box whose centre
        is at a place would be seen now; while it says no, a track is not counted as unseen. Raises RobotError when
        stamp_s is not finite or before the last one, or when scores and boxes differ in number; the tracker is
        unchanged then.
        """
        dt_s = self._elapsed(stamp_s)
        if scores.shape != (len(volumes),):
            raise RobotError(f"expected one score for each of {len(volumes)} boxes, got shape {scores.shape}")
        self._stamp_s = stamp_s
        F, Q = constant_velocity(dt_s, self._config.acceleration_density)
        self._means, self._covariances = predict(self._means, self._covariances, F, Q)
        is_visible = np.array([visible is None or visible(mean[:3]) for mean in self._means], dtype=bool)
        self._unseen_s = self._unseen_s + dt_s * is_visible
        tracks, detections = self._match(volumes)
        self._correct(tracks, volumes[detections], scores[detections])
        self._keep(self._unseen_s <= self._config.forget_s)
        fresh = np.setdiff1d(np.arange(len(volumes)), detections)
        self._start_tracks(volumes, scores, fresh[scores[fresh] >= self._config.birth_score])
        return self._report()

    def _elapsed(self, stamp_s: float) -> float:
        last_s = stamp_s if self._stamp_s is None else self._stamp_s
        if not (np.isfinite(stamp_s) and stamp_s >= last_s):
            raise RobotError(f"expected finite time stamps in order, got {stamp_s:g} s after {last_s:g} s")
        return stamp_s - last_s

    def _match(self, volumes: Volumes) -> tuple[Int64[np.ndarray, " K"], Int64[np.ndarray, " K"]]:
        """Indices of tracks and of the detections that continue them."""
        spread = self._covariances[:, :3, :3] + self._noise
        reach_m = float(np.sqrt(self._gate * np.trace(spread, axis1=1, axis2=2).max(initial=0.0)))
        tracks, detections = pairs_within(self._means[:, :3], volumes.centres, reach_m)
        offsets = volumes.centres[detections] - self._means[tracks, :3]
        costs = mahalanobis_squared(offsets, spread[tracks])
        found = assign_pairs(Pairs(tracks, detections, costs), len(self._ids), len(volumes), self._gate)
        return found.track_index, found.detection_index

    def _correct(self, tracks: np.ndarray, volumes: Volumes, scores: Float[np.ndarray, " K"]) -> None:
        config = self._config
        noise = np.broadcast_to(self._noise, (len(tracks), 3, 3))
        means, covariances = update(self._means[tracks], self._covariances[tracks], volumes.centres, noise, _H)
        self._means[tracks], self._covariances[tracks] = means, covariances
        self._hits[tracks] += 1
        gain = np.maximum(1.0 / self._hits[tracks], config.shape_gain)
        self._sizes[tracks] += gain[:, None] * (volumes.sizes_m - self._sizes[tracks])
        # Detectors confuse front and back: the turn is taken modulo half a turn.
        self._yaws[tracks] += gain * wrap_angle(volumes.yaws_rad - self._yaws[tracks], np.pi)
        self._trust[tracks] += np.maximum(scores - config.birth_score, 0.0)
        self._scores[tracks], self._unseen_s[tracks] = scores, 0.0

    def _keep(self, chosen: Bool[np.ndarray, " N"]) -> None:
        self._means, self._covariances = self._means[chosen], self._covariances[chosen]
        self._sizes, self._yaws = self._sizes[chosen], self._yaws[chosen]
        self._ids, self._hits = self._ids[chosen], self._hits[chosen]
        self._scores, self._trust = self._scores[chosen], self._trust[chosen]
        self._unseen_s = self._unseen_s[chosen]

    def _start_tracks(self, volumes: Volumes, scores: Float[np.ndarray, " M"], born: Int64[np.ndarray, " B"]) -> None:
        config, num = self._config, len(born)
        start = np.zeros((num, 6, 6))
        start[:, :3, :3], start[:, 3:, 3:] = self._noise, config.initial_speed_m_s**2 * np.eye(3)
        new = volumes[born]
        self._means = np.concatenate([self._means, np.pad(new.centres, ((0, 0), (0, 3)))])
        self._covariances = np.concatenate([self._covariances, start])
        self._sizes = np.concatenate([self._sizes, new.sizes_m])
        self._yaws = np.concatenate([self._yaws, new.yaws_rad])
        self._ids = np.concatenate([self._ids, np.arange(self._next_id, self._next_id + num)])
        self._hits = np.concatenate([self._hits, np.ones(num, np.int64)])
        self._scores = np.concatenate([self._scores, scores[born]])
        self._trust = np.concatenate([self._trust, scores[born] - config.birth_score])
        self._unseen_s = np.concatenate([self._unseen_s, np.zeros(num)])
        self._next_id += num

    def _report(self) -> VolumeTracks:
        config = self._config
        shown = (self._trust >= config.confirm_score) & (self._unseen_s <= config.coast_s)
        volumes = Volumes(self._means[shown, :3], self._sizes[shown], self._yaws[shown])
        return VolumeTracks(
            self._ids[shown], volumes, self._means[shown, 3:], self._scores[shown], self._unseen_s[shown]
        )
