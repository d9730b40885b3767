"""Multi-object tracking in the base frame: Kalman prediction, assignment, update, and a life cycle by visibility.

Objects on a table mostly lie still, so velocity decays and process noise is low; one that was moved further than that
explains is found again near its old place and keeps its id. Tracks out of view or behind the arm are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64
from pydantic import Field

from handeye.robot.errors import RobotError
from handeye.robot.perception.association import Pairs, assign_pairs, chi_square_gate, pairs_within
from handeye.robot.perception.track_filter import (
    Attributes,
    YawFilter,
    constant_velocity,
    mahalanobis_squared,
    position_measurement,
    predict,
    update,
)
from handeye.robot.types import ObjectPosition, Track, TrackStatus
from handeye.vision.config import Config

Visible = Callable[[Float[np.ndarray, " 3"]], bool]
"""Whether an object at p_base would be seen by the camera now: inside the image and not behind something."""

_H = position_measurement(3)


class TrackerConfig(Config):
    """Motion, gate and life cycle. Times count only while the object would be visible."""

    acceleration_density: float = Field(default=1e-3, gt=0)
    """White-noise acceleration, m^2 / s^3: with velocity_memory_s it allows sqrt(q * memory / 2) = 12 mm/s."""
    velocity_memory_s: float = Field(default=0.3, gt=0)
    """How long things keep moving by themselves; infinity is the plain constant velocity model."""
    initial_speed_m_s: float = Field(default=0.1, gt=0)
    """Standard deviation of each velocity component of a new or moved object."""
    hidden_walk_m2_s: float = Field(default=4e-6, ge=0)
    """Variance that a hidden object's position gains each second: 2 mm in one, 6 mm in ten."""
    systematic_m: float = Field(default=0.001, ge=0)
    """Error shared by all frames (hand-eye calibration), which no averaging removes; reported on top."""
    gate_probability: float = Field(default=0.997, gt=0, lt=1)
    """Part of true matches that the gate lets through."""
    class_penalty: float = Field(default=6.0, ge=0)
    """Squared Mahalanobis distance that a detection of another class than the track's has to make up for."""
    reacquire_m: float = Field(default=0.15, ge=0)
    """A confirmed track that should be seen but is not takes over a new detection of its class this near."""
    pushed_m: float = Field(default=0.06, ge=0)
    """The same for a track that cannot be seen: what hides it may be the arm that moves it. No more than an object's
    size, so that it takes nothing else."""
    separation_m: float = Field(default=0.02, ge=0)
    """Two objects are never nearer; a detection this near to a matched track is a double of it."""
    confirm_hits: int = Field(default=3, ge=1)
    """Detections that make a track confirmed."""
    tentative_misses: int = Field(default=2, ge=0)
    """Frames without a detection that a tentative track survives."""
    coast_s: float = Field(default=0.7, gt=0)
    """Unseen for longer, a confirmed track is lost."""
    forget_s: float = Field(default=10.0, gt=0)
    """Unseen for longer, a lost track ends."""
    yaw_sigma_rad: float = Field(default=0.02, gt=0)
    """Standard deviation of one yaw reading."""
    yaw_walk_rad2_s: float = Field(default=1e-4, ge=0)
    """Variance that a yaw gains each second."""


@dataclass(slots=True)
class _TrackState:
    """The part of one track that is not an array."""

    track_id: int
    attributes: Attributes
    last_seen_s: float
    num_hits: int = 0
    num_misses: int = 0
    unseen_s: float = 0.0
    status: TrackStatus = TrackStatus.TENTATIVE


class ObjectTracker:
    """Tracks objects in the base frame from frame to frame, at any and varying frame times."""

    def __init__(self, config: TrackerConfig) -> None:
        self._config = config
        self._gate = chi_square_gate(config.gate_probability, 3)
        self._means = np.zeros((0, 6))
        self._covariances = np.zeros((0, 6, 6))
        self._states: list[_TrackState] = []
        self._next_id = 1
        self._stamp_s: float | None = None

    def update(
        self, positions: Sequence[ObjectPosition], stamp_s: float, *, visible: Visible | None = None
    ) -> tuple[Track, ...]:
        """Take in all positions of one frame, taken at stamp_s, and return every living track, oldest first.

        visible says whether an object at p_base (m) would be seen in this frame; tracks of which it says no are kept
        as they are, whatever time goes by. None means that everything is in view. Raises RobotError when stamp_s is
        before the last one or a position is not finite; the tracker is unchanged then.
        """
        dt_s = self._elapsed(stamp_s)
        measured, noise = _stack(positions)
        is_visible = np.array([visible is None or visible(mean[:3]) for mean in self._means], dtype=bool)
        self._stamp_s = stamp_s
        self._predict(dt_s, is_visible)
        tracks, detections = self._match(positions, measured, noise, is_visible)
        self._correct(tracks, measured[detections], noise[detections])
        for track, detection in zip(tracks, detections, strict=True):
            self._hit(self._states[track], positions[detection])
        self._miss(np.setdiff1d(np.flatnonzero(is_visible), tracks), dt_s)
        self._prune()
        self._start_tracks(np.setdiff1d(np.arange(len(positions)), detections), positions, measured, noise)
        return self.tracks()

    def tracks(self) -> tuple[Track, ...]:
        """Every living track as of the last update, oldest first."""
        systematic = self._config.systematic_m**2 * np.eye(3)
        return tuple(
            _track(state, mean, covariance[:3, :3] + systematic)
            for state, mean, covariance in zip(self._states, self._means, self._covariances, strict=True)
        )

    def _elapsed(self, stamp_s: float) -> float:
        if not np.isfinite(stamp_s):
            raise RobotError(f"expected a finite time stamp, got {stamp_s}")
        dt_s = 0.0 if self._stamp_s is None else stamp_s - self._stamp_s
        if dt_s < 0.0:
            raise RobotError(
                f"time runs backwards: frame at {stamp_s:.4f} s after one at {self._stamp_s:.4f} s; "
                "frames must come in order of their stamps"
            )
        return dt_s

    def _predict(self, dt_s: float, is_visible: Bool[np.ndarray, " N"]) -> None:
        """Visible objects may move; of hidden ones nothing is known but that they were at rest or came to it."""
        config = self._config
        F, Q = constant_velocity(dt_s, config.acceleration_density, velocity_memory_s=config.velocity_memory_s)
        means, covariances = predict(self._means, self._covariances, F, Q)
        hidden = ~is_visible
        means[hidden, :3], means[hidden, 3:] = self._means[hidden, :3], 0.0
        walk = config.hidden_walk_m2_s * dt_s * np.eye(3)
        rest = self._covariances[hidden].copy()
        rest[:, :3, :3] += walk
        rest[:, :3, 3:] = rest[:, 3:, :3] = 0.0
        covariances[hidden] = rest
        self._means, self._covariances = means, covariances
        for state in self._states:
            state.attributes.yaw.predict(dt_s)

    def _match(
        self,
        positions: Sequence[ObjectPosition],
        measured: Float[np.ndarray, "M 3"],
        noise: Float[np.ndarray, "M 3 3"],
        is_visible: Bool[np.ndarray, " N"],
    ) -> tuple[Int64[np.ndarray, " K"], Int64[np.ndarray, " K"]]:
        """Indices of matched tracks and detections: through the gate first, then tracks whose object was moved."""
        pairs = self._gated_pairs(positions, measured, noise)
        near = assign_pairs(pairs, len(self._states), len(positions), self._gate)
        reach_m = np.where(is_visible, self._config.reacquire_m, self._config.pushed_m)[near.unmatched_tracks]
        moved = self._reacquire(near.unmatched_tracks, near.unmatched_detections, positions, measured, reach_m)
        for track in moved[0].tolist():
            self._forget_motion(track)
        tracks = np.concatenate([near.track_index, moved[0]])
        detections = np.concatenate([near.detection_index, moved[1]])
        return tracks, detections

    def _gated_pairs(self, positions: Sequence[ObjectPosition], measured: np.ndarray, noise: np.ndarray) -> Pairs:
        """Pairs within the gate by squared Mahalanobis distance, a foreign class costing extra.

        Only pairs within the gate's largest half axis are looked at, so thousands of objects cost no square of it.
        """
        spread = self._covariances[:, :3, :3]
        reach = float(np.sqrt(self._gate * (_largest_trace(spread) + _largest_trace(noise))))
        tracks, detections = pairs_within(self._means[:, :3], measured, reach)
        offsets = measured[detections] - self._means[tracks, :3]
        costs = mahalanobis_squared(offsets, spread[tracks] + noise[detections])
        track_classes = np.array([state.attributes.class_id for state in self._states], dtype=np.int64)
        classes = np.array([position.class_id for position in positions], dtype=np.int64)
        is_foreign = track_classes[tracks] != classes[detections]
        return Pairs(tracks, detections, costs + self._config.class_penalty * is_foreign)

    def _reacquire(
        self,
        tracks: np.ndarray,
        detections: np.ndarray,
        positions: Sequence[ObjectPosition],
        measured: np.ndarray,
        reach_m: Float[np.ndarray, " T"],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of what is left on both sides, of one class and within reach; a tentative track reaches less far."""
        config = self._config
        rows, columns = pairs_within(self._means[tracks, :3], measured[detections], config.reacquire_m)
        candidates = zip(tracks[rows], detections[columns], strict=True)
        is_same = [self._states[i].attributes.class_id == positions[j].class_id for i, j in candidates]
        rows, columns = rows[np.array(is_same, dtype=bool)], columns[np.array(is_same, dtype=bool)]
        distances = np.linalg.norm(self._means[tracks[rows], :3] - measured[detections[columns]], axis=1)
        is_tentative = np.array([self._states[i].status is TrackStatus.TENTATIVE for i in tracks[rows]], dtype=bool)
        distances[distances > np.where(is_tentative, config.separation_m, reach_m[rows])] = np.inf
        found = assign_pairs(Pairs(rows, columns, distances), len(tracks), len(detections), config.reacquire_m)
        return tracks[found.track_index], detections[found.detection_index]

    def _forget_motion(self, track: int) -> None:
        """Make room for a new place: the next correction takes the measured position as it is."""
        config = self._config
        self._means[track, 3:] = 0.0
        self._covariances[track] = _start_covariance(config.reacquire_m**2 * np.eye(3), config.initial_speed_m_s)
        self._states[track].attributes.yaw = YawFilter(config.yaw_sigma_rad, config.yaw_walk_rad2_s)

    def _correct(self, tracks: np.ndarray, measured: np.ndarray, noise: np.ndarray) -> None:
        means, covariances = update(self._means[tracks], self._covariances[tracks], measured, noise, _H)
        self._means[tracks], self._covariances[tracks] = means, covariances

    def _hit(self, state: _TrackState, position: ObjectPosition) -> None:
        state.attributes.add(position)
        state.last_seen_s = position.stamp_s
        state.num_hits += 1
        state.num_misses, state.unseen_s = 0, 0.0
        if state.num_hits >= self._config.confirm_hits:
            state.status = TrackStatus.CONFIRMED

    def _miss(self, tracks: np.ndarray, dt_s: float) -> None:
        """Only visible tracks miss a detection; hidden ones wait."""
        for state in (self._states[track] for track in tracks):
            state.num_misses += 1
            state.unseen_s += dt_s
            if state.status is TrackStatus.CONFIRMED and state.unseen_s > self._config.coast_s:
                state.status = TrackStatus.LOST

    def _prune(self) -> None:
        is_alive = np.array([self._is_alive(state) for state in self._states], dtype=bool)
        self._means, self._covariances = self._means[is_alive], self._covariances[is_alive]
        self._states = [state for state, alive in zip(self._states, is_alive, strict=True) if alive]

    def _is_alive(self, state: _TrackState) -> bool:
        if state.status is TrackStatus.TENTATIVE:
            return state.num_misses <= self._config.tentative_misses
        return state.unseen_s <= self._config.forget_s

    def _start_tracks(
        self, detections: np.ndarray, positions: Sequence[ObjectPosition], measured: np.ndarray, noise: np.ndarray
    ) -> None:
        """A track for each detection that is not a double of an object seen in this frame."""
        config = self._config
        seen = np.array([state.num_misses == 0 for state in self._states], dtype=bool)
        doubles = pairs_within(self._means[seen, :3], measured[detections], config.separation_m)[1]
        fresh = np.delete(detections, np.unique(doubles))
        fresh = fresh[_suppress_duplicates(measured[fresh], config.separation_m)]
        for detection in fresh:
            yaw = YawFilter(config.yaw_sigma_rad, config.yaw_walk_rad2_s)
            state = _TrackState(self._next_id, Attributes(yaw), positions[detection].stamp_s)
            self._next_id += 1
            self._hit(state, positions[detection])
            self._states.append(state)
        covariances = _start_covariance(noise[fresh], config.initial_speed_m_s)
        self._means = np.concatenate([self._means, np.pad(measured[fresh], ((0, 0), (0, 3)))])
        self._covariances = np.concatenate([self._covariances, covariances])


def _stack(positions: Sequence[ObjectPosition]) -> tuple[Float[np.ndarray, "M 3"], Float[np.ndarray, "M 3 3"]]:
    """Positions and covariances as arrays; RobotError if they are not finite or a variance is negative."""
    measured = np.array([position.p_base for position in positions], dtype=np.float64).reshape(-1, 3)
    noise = np.array([position.covariance_base for position in positions], dtype=np.float64).reshape(-1, 3, 3)
    if not (np.isfinite(measured).all() and np.isfinite(noise).all()):
        raise RobotError("expected finite positions and covariances, got NaN or infinity")
    if (np.diagonal(noise, axis1=1, axis2=2) < 0.0).any():
        raise RobotError("expected covariances with variances >= 0, got a negative one")
    return measured, noise


def _suppress_duplicates(points: Float[np.ndarray, "N 3"], separation_m: float) -> Bool[np.ndarray, " N"]:
    """True for points that no earlier chosen point is within separation_m of; detections come best first."""
    is_first = np.ones(len(points), dtype=bool)
    for i, j in zip(*pairs_within(points, points, separation_m), strict=True):
        if i < j and is_first[i]:
            is_first[j] = False
    return is_first


def _largest_trace(covariances: Float[np.ndarray, "N 3 3"]) -> float:
    """An upper bound of every variance in any direction; 0 for none."""
    return float(np.trace(covariances, axis1=1, axis2=2).max(initial=0.0))


def _start_covariance(position: Float[np.ndarray, "*tracks 3 3"], speed_m_s: float) -> Float[np.ndarray, "*tracks 6 6"]:
    """State covariance with this covariance of the position and an unknown velocity about zero."""
    covariance = np.zeros((*position.shape[:-2], 6, 6))
    covariance[..., :3, :3] = position
    covariance[..., 3:, 3:] = speed_m_s**2 * np.eye(3)
    return covariance


def _track(state: _TrackState, mean: Float[np.ndarray, "6"], covariance: Float[np.ndarray, "3 3"]) -> Track:
    attributes = state.attributes
    return Track(
        track_id=state.track_id,
        class_id=attributes.class_id,
        class_name=attributes.class_name,
        p_base=mean[:3].copy(),
        v_base=mean[3:].copy(),
        covariance_base=covariance,
        yaw_rad=attributes.yaw.mean_rad,
        size_m=attributes.size_m,
        score=attributes.score,
        status=state.status,
        last_seen_s=state.last_seen_s,
        num_hits=state.num_hits,
    )
