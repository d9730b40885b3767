"""A plain tracker in the way of AB3DMOT, to compare with; written from its paper (Weng et al., IROS 2020), no more.

One filter a track over (x, y, z, yaw, l, w, h, vx, vy, vz), constant velocity per frame, Hungarian on 3D overlap with a
minimum of 0.01, yaw turned by half a turn where the detector has front and back confused, born after three hits, dead
after two misses.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from handeye.robot.perception.upright_boxes import Volumes, volume_iou
from tests.robot.perception.kitti import Boxes, Tracked

MIN_IOU, MIN_HITS, MAX_AGE = 0.01, 3, 2
F = np.eye(10) + np.eye(10, k=7)
H = np.eye(7, 10)
Q = np.diag([1.0] * 7 + [0.01] * 3)
R = np.eye(7)
START = np.diag([10.0] * 7 + [10_000.0] * 3)


class PlainTrack:
    def __init__(self, track_id: int, measured: np.ndarray, score: float) -> None:
        self.track_id, self.score = track_id, score
        self.mean, self.covariance = np.concatenate([measured, np.zeros(3)]), START.copy()
        self.hits, self.misses = 1, 0

    def predict(self) -> None:
        self.mean, self.covariance = F @ self.mean, F @ self.covariance @ F.T + Q
        self.misses += 1

    def update(self, measured: np.ndarray, score: float) -> None:
        innovation = measured - self.mean[:7]
        innovation[3] = (innovation[3] + np.pi) % (2 * np.pi) - np.pi
        if abs(innovation[3]) > np.pi / 2:
            innovation[3] -= np.pi * np.sign(innovation[3])
        gain = self.covariance @ H.T @ np.linalg.inv(H @ self.covariance @ H.T + R)
        self.mean = self.mean + gain @ innovation
        self.covariance = (np.eye(10) - gain @ H) @ self.covariance
        self.hits, self.misses, self.score = self.hits + 1, 0, score


def track_plainly(frames: list[Boxes]) -> list[Tracked]:
    """Tracks of one class over a sequence."""
    tracks: list[PlainTrack] = []
    next_id, results = 1, []
    for number, frame in enumerate(frames, start=1):
        measured = np.c_[frame.volumes.centres, frame.volumes.yaws_rad, frame.volumes.sizes_m]
        for track in tracks:
            track.predict()
        overlap = volume_iou(as_volumes(tracks), frame.volumes)
        rows, columns = linear_sum_assignment(-overlap)
        joined = overlap[rows, columns] >= MIN_IOU
        for row, column in zip(rows[joined], columns[joined], strict=True):
            tracks[row].update(measured[column], float(frame.scores[column]))
        for column in np.setdiff1d(np.arange(len(measured)), columns[joined]):
            tracks.append(PlainTrack(next_id, measured[column], float(frame.scores[column])))
            next_id += 1
        shown = [t for t in tracks if t.misses < MAX_AGE and (t.hits >= MIN_HITS or number <= MIN_HITS)]
        tracks = [track for track in tracks if track.misses < MAX_AGE]
        ids, scores = np.array([t.track_id for t in shown], int), np.array([t.score for t in shown])
        results.append(Tracked(ids, as_volumes(shown), scores))
    return results


def as_volumes(tracks: list[PlainTrack]) -> Volumes:
    states = np.array([track.mean for track in tracks]).reshape(-1, 10)
    return Volumes(states[:, :3], np.maximum(states[:, 4:7], 0.01), states[:, 3])
