"""KITTI: our camera model puts labelled 3D boxes onto the labelled 2D ones, and tracking beats AB3DMOT's way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from robot.camera.intrinsics import Intrinsics
from robot.tracking.volume_tracker import VolumeTracker, VolumeTrackerConfig
from robot.tracking.volumes import Volumes
from tests.robot.tracking.ab3dmot_reference import track_plainly
from tests.robot.tracking.kitti import (
    FRAME_S,
    SEQUENCES,
    Boxes,
    Labels,
    Tracked,
    iou_of_pairs,
    read_camera,
    read_detections,
    read_labels,
    score_sequence,
    to_pixels,
)

SIZE_HW = (375, 1242)
NEAREST_M = 0.1
# Each tracker is shown at its best threshold on the mean score of a track, as KITTI's tables are.
THRESHOLDS = (2.5, 3.0, 3.5, 4.0, 5.5)

Tracker = Callable[[list[Boxes]], list[Tracked]]


@dataclass(frozen=True)
class Sequence3D:
    """One recorded drive: true objects and detections of one class, and the camera."""

    labels: list[Labels]
    detections: list[Boxes]
    lens: Intrinsics
    offset: np.ndarray

    def image_boxes(self, volumes: Volumes) -> np.ndarray:
        """Boxes in the image; corners beside or behind the camera are pulled just before it."""

        def project(corners: np.ndarray) -> np.ndarray:
            return self.lens.project(np.concatenate([corners[..., :2], np.maximum(corners[..., 2:], NEAREST_M)], -1))

        pixels = to_pixels(volumes, project, self.offset)
        return np.clip(np.concatenate([pixels.min(axis=1), pixels.max(axis=1)], axis=1), 0, [1241, 374] * 2)


def load(folder: Path, name: str, sequences: Sequence[str] = SEQUENCES) -> list[Sequence3D]:
    loaded = []
    for number in sequences:
        labels = read_labels(folder / "label_02" / f"{number}.txt", name)
        detections = read_detections(folder / f"det_pointrcnn_{name}" / f"{number}.txt", len(labels))
        K, offset = read_camera(folder / "calib" / f"{number}.txt")
        loaded.append(Sequence3D(labels, detections, Intrinsics(K, SIZE_HW), offset))
    return loaded


def track_ours(frames: list[Boxes]) -> list[Tracked]:
    tracker = VolumeTracker(VolumeTrackerConfig())
    found = [tracker.update(frame.volumes, frame.scores, FRAME_S * k) for k, frame in enumerate(frames)]
    return [Tracked(tracks.track_ids, tracks.volumes, tracks.scores) for tracks in found]


def best_mota(drives: list[Sequence3D], tracker: Tracker, thresholds: Sequence[float] = THRESHOLDS) -> float:
    tracked = [tracker(drive.detections) for drive in drives]
    motas = []
    for threshold in thresholds:
        parts = [
            score_sequence(drive.labels, tracks, drive.image_boxes, threshold)
            for drive, tracks in zip(drives, tracked, strict=True)
        ]
        wrong = sum(part.num_misses + part.num_false_positives + part.num_switches for part in parts)
        motas.append(1.0 - wrong / sum(part.num_truths for part in parts))
    return max(motas)


def test_labelled_boxes_in_space_project_onto_the_labelled_boxes_in_the_image(shared: Callable[[str], Path]):
    overlaps = []
    for name in ("Car", "Pedestrian", "Cyclist"):
        for drive in load(shared("data/kitti_tracking"), name):
            for truth in drive.labels:
                clear = np.flatnonzero(truth.is_unoccluded)
                boxes = drive.image_boxes(truth.volumes[clear])
                overlaps.extend(iou_of_pairs(boxes, truth.boxes_xyxy[clear]))
    assert len(overlaps) > 2000
    assert np.mean(overlaps) >= 0.95


def test_on_short_drives_tracks_are_at_least_as_good_as_ab3dmots(shared: Callable[[str], Path]):
    drives = load(shared("data/kitti_tracking"), "Car", ("0012", "0014"))
    thresholds = (-np.inf, 3.0)
    assert best_mota(drives, track_ours, thresholds) >= best_mota(drives, track_plainly, thresholds)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "at_least"), [("Car", 0.88), ("Pedestrian", 0.40), ("Cyclist", 0.97)])
def test_on_all_drives_mota_is_at_least_that_of_ab3dmots_way(shared: Callable[[str], Path], name: str, at_least: float):
    drives = load(shared("data/kitti_tracking"), name)
    ours, plain = best_mota(drives, track_ours), best_mota(drives, track_plainly)
    print(f"{name}: MOTA {100 * ours:.2f}, in AB3DMOT's way {100 * plain:.2f}")
    assert ours >= at_least
    assert ours >= plain
