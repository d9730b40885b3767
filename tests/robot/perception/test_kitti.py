"""KITTI: our camera model puts labelled 3D boxes onto the labelled 2D ones, and tracking beats AB3DMOT's way.

On drives drawn from numbers here, on recorded ones where ../shared has them: KITTI may not be passed on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from handeye.robot.camera.intrinsics import Intrinsics
from handeye.robot.perception.upright_box_tracker import VolumeTracker, VolumeTrackerConfig
from handeye.robot.perception.upright_boxes import Volumes, volume_iou
from tests.robot.perception.ab3dmot_reference import track_plainly
from tests.robot.perception.drawn_drive import write_drive
from tests.robot.perception.kitti import (
    FRAME_S,
    MIN_IOU,
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
USUAL = VolumeTrackerConfig()
NEAREST_M = 0.1
# Each tracker is shown at its best threshold on the mean score of a track, as KITTI's tables are.
THRESHOLDS = (2.5, 3.0, 3.5, 4.0, 5.5)

Tracker = Callable[[list[Boxes]], list[Tracked]]


DRAWN = tuple(f"{9000 + seed}" for seed in range(9))


@dataclass(frozen=True)
class Totals:
    """What went wrong on several drives together."""

    mota: float
    num_switches: int


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


def track_ours(frames: list[Boxes], config: VolumeTrackerConfig = USUAL) -> list[Tracked]:
    tracker = VolumeTracker(config)
    found = [tracker.update(frame.volumes, frame.scores, FRAME_S * k) for k, frame in enumerate(frames)]
    return [Tracked(tracks.track_ids, tracks.volumes, tracks.scores) for tracks in found]


def best_mota(drives: list[Sequence3D], tracker: Tracker, thresholds: Sequence[float] = THRESHOLDS) -> float:
    tracked = [tracker(drive.detections) for drive in drives]
    return max(summed(drives, tracked, threshold).mota for threshold in thresholds)


def totals(drives: list[Sequence3D], tracker: Tracker) -> Totals:
    """Of all tracks, whatever their score."""
    return summed(drives, [tracker(drive.detections) for drive in drives], -np.inf)


def summed(drives: list[Sequence3D], tracked: list[list[Tracked]], threshold: float) -> Totals:
    parts = [
        score_sequence(drive.labels, tracks, drive.image_boxes, threshold)
        for drive, tracks in zip(drives, tracked, strict=True)
    ]
    wrong = sum(part.num_misses + part.num_false_positives + part.num_switches for part in parts)
    num_switches = sum(part.num_switches for part in parts)
    return Totals(1.0 - wrong / sum(part.num_truths for part in parts), num_switches)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> list[Sequence3D]:
    """Nine drives, written as KITTI writes them and read as KITTI is read."""
    folder = tmp_path_factory.mktemp("drives")
    for seed, number in enumerate(DRAWN):
        write_drive(folder, number, seed)
    return load(folder, "Car", DRAWN)


def overlaps_in_image(drives: list[Sequence3D]) -> np.ndarray:
    """IoU of each clearly seen labelled box in space, projected, with the labelled box in the image."""
    overlaps = []
    for drive in drives:
        for truth in drive.labels:
            clear = np.flatnonzero(truth.is_unoccluded)
            overlaps.extend(iou_of_pairs(drive.image_boxes(truth.volumes[clear]), truth.boxes_xyxy[clear]))
    return np.array(overlaps)


def test_drawn_boxes_in_space_project_where_opencv_puts_them(drawn: list[Sequence3D]):
    overlaps = overlaps_in_image(drawn)
    assert len(overlaps) > 500
    assert overlaps.min() > 0.9999


def test_labelled_boxes_in_space_project_onto_the_labelled_boxes_in_the_image(shared: Callable[[str], Path]):
    folder = shared("data/kitti_tracking")
    overlaps = np.concatenate([overlaps_in_image(load(folder, name)) for name in ("Car", "Pedestrian", "Cyclist")])
    assert len(overlaps) > 2000
    assert np.mean(overlaps) >= 0.95


def test_on_drawn_drives_tracks_are_at_least_as_good_as_ab3dmots(drawn: list[Sequence3D]):
    """A detector that misses at random: both report a track through one unseen frame, which ours does when told to."""
    coasting = VolumeTrackerConfig(coast_s=1.5 * FRAME_S)
    ours, plain = (totals(drawn, way) for way in (partial(track_ours, config=coasting), track_plainly))
    assert plain.mota > 0.85
    assert ours.mota >= plain.mota
    assert 2 * ours.num_switches < plain.num_switches


@pytest.mark.parametrize("tracker", [track_ours, track_plainly])
def test_counts_on_drawn_drives_are_those_of_motmetrics(drawn: list[Sequence3D], tracker: Tracker):
    mm = pytest.importorskip("motmetrics", reason="the second opinion on CLEAR MOT is not installed")
    names = ["num_misses", "num_false_positives", "num_switches", "num_objects"]
    for drive in drawn[:3]:
        labels = [replace(truth, is_ignored=np.zeros_like(truth.is_ignored)) for truth in drive.labels]
        tracked, accumulator = tracker(drive.detections), mm.MOTAccumulator(auto_id=True)
        for truth, tracks in zip(labels, tracked, strict=True):
            overlap = volume_iou(truth.volumes, tracks.volumes)
            accumulator.update(truth.ids, tracks.ids, np.where(overlap >= MIN_IOU, 1.0 - overlap, np.nan))
        theirs = mm.metrics.create().compute(accumulator, metrics=names).iloc[0]
        ours = score_sequence(labels, tracked, drive.image_boxes, -np.inf)
        found = [ours.num_misses, ours.num_false_positives, ours.num_switches, ours.num_truths]
        assert found == [int(theirs[name]) for name in names]
        assert found[3] > 200
        assert found[0] > 0


def test_on_short_drives_tracks_are_at_least_as_good_as_ab3dmots(shared: Callable[[str], Path]):
    drives = load(shared("data/kitti_tracking"), "Car", ("0012", "0014"))
    thresholds = (-np.inf, 3.0)
    assert best_mota(drives, track_ours, thresholds) >= best_mota(drives, track_plainly, thresholds)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "at_least"), [("Car", 0.88), ("Pedestrian", 0.40), pytest.param("Cyclist", 0.97, marks=pytest.mark.long)]
)
def test_on_all_drives_mota_is_at_least_that_of_ab3dmots_way(shared: Callable[[str], Path], name: str, at_least: float):
    drives = load(shared("data/kitti_tracking"), name)
    ours, plain = best_mota(drives, track_ours), best_mota(drives, track_plainly)
    print(f"{name}: MOTA {100 * ours:.2f}, in AB3DMOT's way {100 * plain:.2f}")
    assert ours >= at_least
    assert ours >= plain
