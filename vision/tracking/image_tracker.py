"""Tracking along a camera or video: the tracker that is configured, and the motion of the camera if it asks for it."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8

from robot.tracking.box_build import BoxTrackingConfig, build_box_tracker
from vision.tracking.box_tracker import NOMINAL_RATE, BoxTracks
from vision.tracking.camera_motion import CameraMotionEstimator, SimilarityMotion
from vision.runtime.detections import Detections


class ImageTracker:
    """`tracks = tracker(image_rgb, detections, stamp_s)`, one image after the other.

    `tracker.camera_motion` says how the last picture moved against the one before; None where nobody asked for it.
    """

    def __init__(self, config: BoxTrackingConfig, source_rate: float | None) -> None:
        """`source_rate` is what the video or camera claims (1 / s), None for single images."""
        self.frame_rate = config.frame_rate or source_rate or NOMINAL_RATE
        self.camera_motion: SimilarityMotion | None = None
        self._tracker = build_box_tracker(config.tracker, self.frame_rate)
        self._estimator = None if config.camera_motion is None else CameraMotionEstimator(config.camera_motion)

    def __call__(self, image_rgb: UInt8[np.ndarray, "h w 3"], detections: Detections, stamp_s: float) -> BoxTracks:
        """The confirmed tracks that are seen in this image. Raises RobotError as BoxTracker.update does."""
        if self._estimator is not None:
            self.camera_motion = self._estimator.estimate(image_rgb, detections.boxes_xyxy)
        return self._tracker.update(detections, stamp_s, camera_motion=self.camera_motion)

    def lost(self) -> BoxTracks:
        """The confirmed tracks that are not seen in the last image, where they are expected to be."""
        return self._tracker.lost()
