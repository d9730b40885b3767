"""Estimate camera motion between frames: sparse optical flow and a similarity fitted by RANSAC.

Corners of the background are tracked by pyramidal Lucas-Kanade, forward and backward, and a similarity (translation,
rotation, scale) is fitted, as in BoT-SORT (Aharon et al. 2022, arXiv:2206.14651, section 3.2). Corners inside boxes are
left out: objects there may move.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from pydantic import Field

from handeye.vision.config import Config


@dataclass(frozen=True, slots=True, eq=False)
class SimilarityMotion:
    """p_new = linear @ p_old + shift in px, where linear is a rotation times a scale."""

    linear: Float[np.ndarray, "2 2"]
    shift: Float[np.ndarray, "2"]

    @classmethod
    def none(cls) -> SimilarityMotion:
        """A camera at rest."""
        return cls(np.eye(2), np.zeros(2))

    @property
    def scale(self) -> float:
        """By how much lengths grow."""
        return float(np.sqrt(np.linalg.det(self.linear)))

    def of_points(self, points: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "N 2"]:
        """Where these points of the old image are in the new one."""
        return self.of_directions(points) + self.shift

    def of_directions(self, directions: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "N 2"]:
        """The same differences of points in the new image."""
        return directions @ self.linear.T

    def of_boxes(self, boxes_xyxy: Float[np.ndarray, "N 4"]) -> Float[np.ndarray, "N 4"]:
        """Boxes around the moved centres, their sides scaled and not turned."""
        centres = self.of_points(0.5 * (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]))
        half = 0.5 * self.scale * (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2])
        return np.concatenate([centres - half, centres + half], axis=1)


class CameraMotionConfig(Config):
    """Which corners are tracked, and how well a motion has to be supported."""

    num_corners: int = Field(default=400, ge=8)
    """Most corners tracked."""
    longest_side_px: int = Field(default=640, ge=64)
    """Larger images are shrunk to this first."""
    corner_quality: float = Field(default=0.01, gt=0, lt=1)
    """Least strength of a corner beside that of the strongest one."""
    least_distance_px: float = Field(default=7.0, gt=0)
    """Least distance between corners."""
    residual_px: float = Field(default=2.0, gt=0)
    """Largest residual of an inlier."""
    least_support: float = Field(default=0.4, gt=0, le=1)
    """Smallest share of inliers; with fewer the camera is taken to be at rest."""


class CameraMotionEstimator:
    """Takes one image after the other; returns the motion of each against the one before."""

    def __init__(self, config: CameraMotionConfig) -> None:
        self._config = config
        self._grey: UInt8[np.ndarray, "h w"] | None = None
        self._corners: Float[np.ndarray, "K 1 2"] = np.zeros((0, 1, 2), np.float32)

    def estimate(self, image_rgb: UInt8[np.ndarray, "H W 3"], boxes_xyxy: Float[np.ndarray, "N 4"]) -> SimilarityMotion:
        """The motion from the last image to this one; none for the first, after a cut, or where too little is seen.

        boxes_xyxy are the detections in this image (px): no corner inside them is tracked into the next one.
        """
        shrink = min(1.0, self._config.longest_side_px / max(image_rgb.shape[:2]))
        grey = cv2.cvtColor(image_rgb, cv2.COLOR_RGB2GRAY)
        if shrink < 1.0:
            grey = cv2.resize(grey, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
        motion = self._follow(grey)
        self._grey, self._corners = grey, self._background_corners(grey, shrink * boxes_xyxy)
        # A pixel of the small image is 1 / shrink of the large one; turn and scale are the same in both.
        return SimilarityMotion(motion.linear, motion.shift / shrink)

    def _follow(self, grey: UInt8[np.ndarray, "h w"]) -> SimilarityMotion:
        if self._grey is None or self._grey.shape != grey.shape or len(self._corners) < 3:
            return SimilarityMotion.none()
        found, is_found = _flow(self._grey, grey, self._corners)
        back, is_back = _flow(grey, self._grey, found)
        # A corner that does not come back to where it started was matched wrongly.
        kept = is_found & is_back & (np.linalg.norm(back - self._corners, axis=2).ravel() < self._config.residual_px)
        if kept.sum() < 3:
            return SimilarityMotion.none()
        fitted, is_support = cv2.estimateAffinePartial2D(
            self._corners[kept], found[kept], method=cv2.RANSAC, ransacReprojThreshold=self._config.residual_px
        )
        if fitted is None or is_support.mean() < self._config.least_support:
            return SimilarityMotion.none()
        return SimilarityMotion(fitted[:, :2].astype(np.float64), fitted[:, 2].astype(np.float64))

    def _background_corners(
        self, grey: UInt8[np.ndarray, "h w"], boxes_xyxy: Float[np.ndarray, "N 4"]
    ) -> Float[np.ndarray, "K 1 2"]:
        config = self._config
        mask = np.full(grey.shape, 255, np.uint8)
        for x1, y1, x2, y2 in np.clip(boxes_xyxy, 0.0, max(grey.shape)).astype(int).tolist():
            mask[y1 : y2 + 1, x1 : x2 + 1] = 0
        corners = cv2.goodFeaturesToTrack(
            grey, config.num_corners, config.corner_quality, config.least_distance_px, mask=mask
        )
        return np.zeros((0, 1, 2), np.float32) if corners is None else corners


def _flow(
    old_grey: UInt8[np.ndarray, "h w"], new_grey: UInt8[np.ndarray, "h w"], points: Float[np.ndarray, "K 1 2"]
) -> tuple[Float[np.ndarray, "K 1 2"], Bool[np.ndarray, " K"]]:
    """Where the points of the old image are in the new one, and whether they were found."""
    found, is_found, _ = cv2.calcOpticalFlowPyrLK(old_grey, new_grey, points, None)  # pyright: ignore[reportCallIssue, reportArgumentType] - OpenCV's stubs leave out None
    return found, is_found.ravel() == 1
