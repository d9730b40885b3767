"""Detect in a video, a camera or images in order, and give the objects identity; trails show where they came from.

Writes an annotated mp4 (annotated images where the source has no frame rate), and one JSON line for each image with its
tracks and the ones that are lost from sight, into --output. Sources and models are those of `handeye detect`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from dataclasses import replace as changed
from pathlib import Path

from handeye.tools.stream_files import StreamFiles, box_rows
from handeye.tools.stream_run import StreamArguments, report_stream, run_stream
from handeye.tools.tracker_arguments import TrackerArguments
from handeye.vision.errors import SourceError, TrackingError
from handeye.vision.runtime.detections import Detections
from handeye.vision.runtime.image_detector import ImageDetector
from handeye.vision.runtime.sources import StreamImage, open_stream
from handeye.vision.tracking.box_tracker import BoxTracks
from handeye.vision.tracking.image_tracker import ImageTracker, Trails, draw_tracks, weakest_useful_score

LINES_NAME = "tracks.jsonl"


@dataclass(frozen=True, kw_only=True)
class Arguments(StreamArguments, TrackerArguments):
    """What `handeye track` is told; overrides may follow as `tracker.key=value`, `frame_rate=value` or
    `camera_motion={}`.

    Without --score-threshold the detector gives all that the tracker can use.
    """

    output: Path = Path("runs/track")
    """Folder for the annotated video or images and for tracks.jsonl."""


def run(arguments: Arguments, overrides: list[str]) -> int:
    """Track until the source ends; a source that breaks off keeps what was done and ends with an error."""
    config = arguments.load(overrides)
    if arguments.score_threshold is None:
        arguments = changed(arguments, score_threshold=weakest_useful_score(config.tracker))
    output, source = arguments.output, arguments.source
    with open_stream(source, arguments.timeout_s) as stream:
        detector, tracker = arguments.open(), ImageTracker(config, stream.fps)
        detector.warm_up()
        with StreamFiles(output, source, lines_name=LINES_NAME, fps=stream.fps, draw=arguments.draw) as files:
            tracking = Tracking(source, stream.fps is not None, detector, tracker, files)
            done = run_stream(arguments, stream, tracking, "tracking")
    found = {"tracks": tracking.num_tracks, "boxes": tracking.num_boxes}
    report_stream(arguments, detector, done, output, found)
    if done.failure is not None:
        raise done.failure
    return 0


@dataclass(slots=True)
class Tracking:
    """What is done with each image: detect, track, draw, write."""

    source: str
    has_stamps: bool
    """False for single images: they count as taken one after the other at the tracker's frame rate."""
    detector: ImageDetector
    tracker: ImageTracker
    files: StreamFiles
    trails: Trails = field(default_factory=Trails)
    num_images: int = 0
    num_tracks: int = 0
    num_boxes: int = 0

    def __call__(self, image: StreamImage, read_s: float) -> Mapping[str, float]:
        """Seconds by stage."""
        if not self.has_stamps:
            image = image._replace(stamp_s=self.num_images / self.tracker.frame_rate)
        detections = self.detector(image.image_rgb)
        started = time.perf_counter()
        tracks = self._track(image, detections)
        stages_s = {**changed(self.detector.times, read=read_s).by_name(), "track": time.perf_counter() - started}
        self.trails.add(tracks, image.stamp_s, self.tracker.camera_motion)
        drawn = draw_tracks(image.image_rgb, tracks, self.trails) if self.files.draw else None
        self.files.write(image, {"tracks": track_rows(tracks), "lost": track_rows(self.tracker.lost())}, drawn)
        self.num_images += 1
        self.num_boxes += len(tracks)
        self.num_tracks = max(self.num_tracks, int(tracks.track_ids.max(initial=0)))  # ids count without gaps
        return stages_s

    def _track(self, image: StreamImage, detections: Detections) -> BoxTracks:
        """A frame that the tracker refuses, such as one older than the last, is the source's fault."""
        try:
            return self.tracker(image.image_rgb, detections, image.stamp_s)
        except TrackingError as error:
            raise SourceError(f"{self.source}, {image.name}: {error}") from error


def track_rows(tracks: BoxTracks) -> list[dict[str, object]]:
    """Each track as a JSON object."""
    return [{"track_id": int(track_id)} | row for track_id, row in zip(tracks.track_ids, box_rows(tracks), strict=True)]
