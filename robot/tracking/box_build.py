"""Which box tracker: one configuration for all of them, and the one place that turns it into a tracker."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from typing_extensions import assert_never

from vision.tracking.box_tracker import NOMINAL_RATE, BoxTracker
from vision.tracking.bytetrack import ByteTrackConfig, ByteTracker
from vision.tracking.camera_motion import CameraMotionConfig
from vision.tracking.oc_sort import OcSortConfig, OcSortTracker
from vision.tracking.sort import SortConfig, SortTracker
from vision.config import Config

BoxTrackerConfig = Annotated[SortConfig | ByteTrackConfig | OcSortConfig, Field(discriminator="kind")]


class BoxTrackingConfig(Config):
    """What tracking boxes, as by `handeye track` and `handeye track-files`, is configured by."""

    tracker: BoxTrackerConfig = ByteTrackConfig()
    frame_rate: float | None = Field(default=None, gt=0)
    """Frames a second, by which noise and ages are measured; null takes the rate of the video, or else 30."""
    camera_motion: CameraMotionConfig | None = None
    """Follow the motion of the camera in the picture; null for a camera that stands still."""


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
    """The score below which the tracker has no use for a detection; None where the detector should choose."""
    match config:
        case SortConfig():
            return None
        case ByteTrackConfig():
            return config.low_threshold
        case OcSortConfig():
            return config.score_threshold
        case _:
            assert_never(config)
