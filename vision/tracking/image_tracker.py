"""Track objects in a video, a camera stream or a MOT sequence: configured tracker, camera motion, drawn trails."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from jaxtyping import Float, Int64, UInt8
from pydantic import Field
from typing_extensions import assert_never

from handeye.vision.config import Config
from handeye.vision.runtime.detections import Detections
from handeye.vision.runtime.draw import class_colour, draw_box, draw_line, line_width
from handeye.vision.tracking.box_tracker import NOMINAL_RATE, BoxTracker, BoxTracks
from handeye.vision.tracking.bytetrack import ByteTrackConfig, ByteTracker
from handeye.vision.tracking.camera_motion import CameraMotionConfig, CameraMotionEstimator, SimilarityMotion
from handeye.vision.tracking.mot_files import MotBoxes
from handeye.vision.tracking.sort import OcSortConfig, OcSortTracker, SortConfig, SortTracker

TRAIL_S = 2.0
"""Length of a trail in time."""
CLASS_NAMES = ("object",)
"""MOT files know no classes."""
BoxTrackerConfig = Annotated[SortConfig | ByteTrackConfig | OcSortConfig, Field(discriminator="kind")]


class BoxTrackingConfig(Config):
    """Configuration of `handeye track` and `handeye track-files`."""

    tracker: BoxTrackerConfig = ByteTrackConfig()
    frame_rate: float | None = Field(default=None, gt=0)
    """Frames a second, by which noise and ages are measured; null takes the rate of the video, or else 30."""
    camera_motion: CameraMotionConfig | None = None
    """Compensate the motion of the camera; null for a camera that stands still."""


class ImageTracker:
    """`tracks = tracker(image_rgb, detections, stamp_s)`, one image after the other.

    `tracker.camera_motion` is the motion of the last image against the one before; None where it is not estimated.
    """

    def __init__(self, config: BoxTrackingConfig, source_rate: float | None) -> None:
        """`source_rate` is what the video or camera claims (1 / s), None for single images."""
        self.frame_rate = config.frame_rate or source_rate or NOMINAL_RATE
        self.camera_motion: SimilarityMotion | None = None
        self._tracker = build_box_tracker(config.tracker, self.frame_rate)
        self._estimator = None if config.camera_motion is None else CameraMotionEstimator(config.camera_motion)

    def __call__(self, image_rgb: UInt8[np.ndarray, "h w 3"], detections: Detections, stamp_s: float) -> BoxTracks:
        """The confirmed tracks that are seen in this image. Raises TrackingError as BoxTracker.update does."""
        if self._estimator is not None:
            self.camera_motion = self._estimator.estimate(image_rgb, detections.boxes_xyxy)
        return self._tracker.update(detections, stamp_s, camera_motion=self.camera_motion)

    def lost(self) -> BoxTracks:
        """The confirmed tracks that are not seen in the last image, where they are expected to be."""
        return self._tracker.lost()


def build_box_tracker(config: BoxTrackerConfig, frame_rate: float = NOMINAL_RATE) -> BoxTracker:
    """The tracker that is configured, without tracks, for a camera of frame_rate (1 / s)."""
    match config:
        case SortConfig():
            return SortTracker(config, frame_rate)
        case ByteTrackConfig():
            return ByteTracker(config, frame_rate)
        case OcSortConfig():
            return OcSortTracker(config, frame_rate)
        case _:
            assert_never(config)


def weakest_useful_score(config: BoxTrackerConfig) -> float | None:
    """The lowest score that the tracker uses; None where the detector should choose."""
    match config:
        case SortConfig():
            return None
        case ByteTrackConfig():
            return config.low_threshold
        case OcSortConfig():
            return config.score_threshold
        case _:
            assert_never(config)


class Trails:
    """The centres of tracks over the last seconds, in pixels of the newest image."""

    def __init__(self, length_s: float = TRAIL_S) -> None:
        self._length_s = length_s
        self._ids: Int64[np.ndarray, " K"] = np.zeros(0, np.int64)
        self._stamps: Float[np.ndarray, " K"] = np.zeros(0)
        self._points: Float[np.ndarray, "K 2"] = np.zeros((0, 2))

    def add(self, tracks: BoxTracks, stamp_s: float, camera_motion: SimilarityMotion | None) -> None:
        """Take in the tracks of one image; where the camera moved, older points move along with the background."""
        kept = self._stamps >= stamp_s - self._length_s
        points = self._points[kept] if camera_motion is None else camera_motion.of_points(self._points[kept])
        centres = 0.5 * (tracks.boxes_xyxy[:, :2] + tracks.boxes_xyxy[:, 2:])
        self._points = np.concatenate([points, centres])
        self._ids = np.concatenate([self._ids[kept], tracks.track_ids])
        self._stamps = np.concatenate([self._stamps[kept], np.full(len(tracks), stamp_s)])

    def paths(self) -> dict[int, Float[np.ndarray, "P 2"]]:
        """The points of each remembered track, oldest first, in order of their ids."""
        return {int(track_id): self._points[self._ids == track_id] for track_id in np.unique(self._ids)}


def draw_tracks(image_rgb: UInt8[np.ndarray, "h w 3"], tracks: BoxTracks, trails: Trails) -> UInt8[np.ndarray, "h w 3"]:
    """A copy of the image with trails, and over them the boxes with class names and ids."""
    drawn, thickness = image_rgb.copy(), line_width(image_rgb)
    for track_id, points in trails.paths().items():
        draw_line(drawn, points, class_colour(track_id), thickness)
    for box, track_id, name in zip(tracks.boxes_xyxy, tracks.track_ids, tracks.names, strict=True):
        draw_box(drawn, box, f"{name} #{track_id}", class_colour(int(track_id)), thickness)
    return drawn


@dataclass(frozen=True, slots=True, eq=False)
class TrackedSequence:
    """Confirmed tracks of every frame, and the seconds that each update took."""

    tracks: MotBoxes
    update_s: Float[np.ndarray, " F"]


def track_sequence(
    found: MotBoxes, tracker: BoxTracker, last_frame: int, frame_rate: float = NOMINAL_RATE
) -> TrackedSequence:
    """Track the detections of frames 1 to last_frame, frame_rate of them a second; the tracker must be new."""
    parts, update_s = [], []
    for number, frame in enumerate(found.by_frame(last_frame), start=1):
        with np.errstate(over="ignore"):  # the tracker rejects what becomes infinite
            boxes_xyxy = frame.boxes_xyxy.astype(np.float32)
        detections = Detections(
            boxes_xyxy,
            frame.scores.astype(np.float32),
            np.zeros(len(frame), np.int64),
            CLASS_NAMES,
        )
        started = time.perf_counter()
        tracks = tracker.update(detections, number / frame_rate)
        update_s.append(time.perf_counter() - started)
        parts.append(MotBoxes(np.full(len(tracks), number), tracks.track_ids, tracks.boxes_xyxy, tracks.scores))
    return TrackedSequence(MotBoxes.joined(parts), np.array(update_s, np.float64))
