"""Detect and track objects along a video, a camera or images in order (SORT, ByteTrack, OC-SORT).

Writes an annotated mp4 (annotated images where the source has no frame rate), and tracks.jsonl with one line per frame,
into --output. Values of the tracker can be overridden behind it: `tracker.key=value`, `frame_rate=value`,
`camera_motion={}`. Without --score-threshold the detector gives all scores that the tracker can use.

examples:
  handeye track vision/weights/tabletop_nano.onnx tests/data/video/cubes.mp4
  handeye track model.onnx rtsp://camera/stream --tracker ocsort
  handeye track model.onnx video.mp4 --config configs/robot/tracking_bytetrack.yaml
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import handeye
from handeye.tools.stream_files import StreamFiles, box_rows
from handeye.tools.stream_run import StreamArguments, report_stream, run_stream
from handeye.tools.tracker_arguments import TrackerArguments
from handeye.vision.runtime.sources import StreamImage
from handeye.vision.tracking.box_tracker import BoxTracks
from handeye.vision.tracking.image_tracker import ImageTracker, Trails, draw_tracks

LINES_NAME = "tracks.jsonl"


@dataclass(frozen=True, kw_only=True)
class Arguments(StreamArguments, TrackerArguments):
    """Arguments of `handeye track`."""

    output: Path = Path("runs/track")
    """Folder for the annotated video or images and for tracks.jsonl."""


def run(arguments: Arguments, overrides: list[str]) -> int:
    """Track until the source ends; a source that breaks off keeps what was done and ends with an error.

    Images that cannot be read are named and skipped; then the exit code is 1.
    """
    config = arguments.load_config(overrides)
    output, source = arguments.output, arguments.source
    detector = arguments.load()
    with handeye.track(detector, source, config, timeout_s=arguments.timeout_s, skip_broken=True) as frames:
        frames.detector.warm_up()
        with StreamFiles(output, source, frames, lines_name=LINES_NAME, draw=arguments.draw) as files:
            writing = TrackWriter(frames.tracker, files)
            done = run_stream(arguments, frames, writing, "tracking")
    found = {"tracks": writing.num_tracks, "boxes": writing.num_boxes}
    report_stream(arguments, detector, done, output, found)
    if done.failure is not None:
        raise done.failure
    return 1 if done.num_broken else 0


@dataclass(slots=True)
class TrackWriter:
    """Draws and writes the tracks of each frame."""

    tracker: ImageTracker
    files: StreamFiles
    trails: Trails = field(default_factory=Trails)
    num_tracks: int = 0
    num_boxes: int = 0

    def __call__(self, image: StreamImage, tracks: BoxTracks) -> None:
        """Write one frame."""
        self.trails.add(tracks, image.stamp_s, self.tracker.camera_motion)
        drawn = draw_tracks(image.image_rgb, tracks, self.trails) if self.files.draw else None
        self.files.write(image, {"tracks": track_rows(tracks), "lost": track_rows(self.tracker.lost())}, drawn)
        self.num_boxes += len(tracks)
        self.num_tracks = max(self.num_tracks, int(tracks.track_ids.max(initial=0)))  # ids count without gaps


def track_rows(tracks: BoxTracks) -> list[dict[str, object]]:
    """Each track as a JSON object."""
    return [{"track_id": int(track_id)} | row for track_id, row in zip(tracks.track_ids, box_rows(tracks), strict=True)]
