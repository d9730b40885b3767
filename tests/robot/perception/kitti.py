"""KITTI tracking files (labels, 3D detections, calibration) in our terms, and CLEAR MOT over a sequence of them.

Boxes are turned from camera 2's axes (x right, y down, z forward; location = middle of the bottom) to axes that point
forward, left and up, so that upright boxes are upright.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from handeye.robot.perception.upright_boxes import Volumes, volume_iou
from tests.vision.tracking.clear_mot import ClearMot

SEQUENCES = ("0001", "0008", "0012", "0014", "0018")
FRAME_S = 0.1
MIN_IOU = 0.25
MIN_HEIGHT_PX = 25.0
# Objects of a sister class are neither asked for nor held against a tracker, as in KITTI's own evaluation.
SISTER = {"Car": "Van", "Pedestrian": "Person_sitting", "Cyclist": ""}
R_LEVEL_CAMERA = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


@dataclass(frozen=True)
class Boxes:
    """The boxes of one frame, in space and in the image."""

    volumes: Volumes
    boxes_xyxy: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Labels:
    """One frame's true objects of one class and of its sister class, which is ignored like what is hardly seen."""

    ids: np.ndarray
    volumes: Volumes
    boxes_xyxy: np.ndarray
    is_ignored: np.ndarray
    is_unoccluded: np.ndarray
    unlabelled_xyxy: np.ndarray


@dataclass(frozen=True)
class Tracked:
    """What a tracker says of one frame."""

    ids: np.ndarray
    volumes: Volumes
    scores: np.ndarray


def volumes_of(hwl: np.ndarray, location: np.ndarray, rotation_y: np.ndarray) -> Volumes:
    """From KITTI's numbers: rotation_y turns about the camera's y axis, length along x at 0."""
    middle = location - np.stack([np.zeros(len(hwl)), 0.5 * hwl[:, 0], np.zeros(len(hwl))], axis=1)
    return Volumes(middle @ R_LEVEL_CAMERA.T, hwl[:, [2, 1, 0]], -rotation_y - 0.5 * np.pi)


def read_detections(path: Path, num_frames: int) -> list[Boxes]:
    rows = np.loadtxt(path, delimiter=",", dtype=np.float64, ndmin=2)
    return [_boxes(rows[rows[:, 0] == frame]) for frame in range(num_frames)]


def _boxes(rows: np.ndarray) -> Boxes:
    return Boxes(volumes_of(rows[:, 7:10], rows[:, 10:13], rows[:, 13]), rows[:, 2:6], rows[:, 6])


def read_labels(path: Path, name: str) -> list[Labels]:
    lines = [line.split() for line in path.read_text().splitlines()]
    num_frames = 1 + max(int(line[0]) for line in lines)
    by_frame: list[list[list[str]]] = [[] for _ in range(num_frames)]
    for line in lines:
        by_frame[int(line[0])].append(line)
    return [_labels(frame, name) for frame in by_frame]


def _labels(lines: list[list[str]], name: str) -> Labels:
    own = [line for line in lines if line[2] in (name, SISTER[name])]
    numbers = np.array([[float(value) for value in (line[1], *line[3:17])] for line in own]).reshape(-1, 15)
    boxes = numbers[:, 4:8]
    is_sister = np.array([line[2] != name for line in own], dtype=bool)
    too_hard = (numbers[:, 1] > 0) | (numbers[:, 2] > 2) | (boxes[:, 3] - boxes[:, 1] < MIN_HEIGHT_PX)
    elsewhere = [[float(value) for value in line[6:10]] for line in lines if line[2] == "DontCare"]
    return Labels(
        numbers[:, 0].astype(int),
        volumes_of(numbers[:, 8:11], numbers[:, 11:14], numbers[:, 14]),
        boxes,
        is_sister | too_hard,
        ~is_sister & (numbers[:, 1] == 0) & (numbers[:, 2] == 0),
        np.array(elsewhere).reshape(-1, 4),
    )


def read_camera(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """K of camera 2 and its place: p_camera2 = p_rectified + offset, from P2 = K [1 | offset]."""
    text = next(line for line in path.read_text().splitlines() if line.startswith("P2:"))
    P = np.array([float(value) for value in text.split()[1:]]).reshape(3, 4)
    return P[:, :3], np.linalg.solve(P[:, :3], P[:, 3])


def to_pixels(volumes: Volumes, project: Callable[[np.ndarray], np.ndarray], offset: np.ndarray) -> np.ndarray:
    """Pixels of the eight corners of each box."""
    return project(volumes.corners() @ R_LEVEL_CAMERA + offset)


def score_sequence(
    labels: Sequence[Labels], tracked: Sequence[Tracked], boxes_of: Callable[[Volumes], np.ndarray], threshold: float
) -> ClearMot:
    """CLEAR MOT of the tracks whose mean score reaches the threshold, matched by 3D overlap."""
    totals: dict[int, list[float]] = {}
    for frame in tracked:
        for track_id, score in zip(frame.ids.tolist(), frame.scores.tolist(), strict=True):
            totals.setdefault(track_id, []).append(score)
    good = [track_id for track_id, scores in totals.items() if np.mean(scores) >= threshold]
    counts = ClearMot(1.0 - MIN_IOU)
    for truth, found in zip(labels, tracked, strict=True):
        chosen = np.isin(found.ids, good)
        volumes, ids = found.volumes[chosen], found.ids[chosen]
        boxes = boxes_of(volumes)
        unlabelled = overlap_of_first(boxes, truth.unlabelled_xyxy).max(axis=1, initial=0.0) > 0.5
        too_small = boxes[:, 3] - boxes[:, 1] < MIN_HEIGHT_PX
        counts.add(
            truth.ids.tolist(),
            ids.tolist(),
            1.0 - volume_iou(truth.volumes, volumes),
            ignored_truths=truth.is_ignored,
            ignored_tracks=unlabelled | too_small,
        )
    return counts


def overlap_of_first(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The part of each box of `a` that lies in each box of `b`."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    areas = (a[:, 2:] - a[:, :2]).prod(axis=1)
    return np.maximum(high - low, 0.0).prod(axis=2) / np.maximum(areas, 1e-9)[:, None]


def iou_of_pairs(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes, row by row."""
    shared = np.maximum(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0.0).prod(axis=1)
    areas = (a[:, 2:] - a[:, :2]).prod(axis=1) + (b[:, 2:] - b[:, :2]).prod(axis=1)
    return shared / (areas - shared)
