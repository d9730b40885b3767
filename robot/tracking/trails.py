"""Tracks drawn on an image: each in a colour of its own, with the way that it came over the last seconds."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int64, UInt8

from vision.tracking.box_tracker import BoxTracks
from vision.tracking.camera_motion import SimilarityMotion
from vision.runtime.draw import class_colour, draw_box, draw_line, line_width

TRAIL_S = 2.0
"""How long a trail remembers where its track was."""


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
