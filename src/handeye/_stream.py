"""Run a detector along a folder, video or camera, and track its boxes: the public functions.

`handeye detect` and `handeye track` run through these functions too.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from jaxtyping import UInt8
from typing_extensions import Self

from handeye._detect import Detector, require_image
from handeye.vision.config import load_config
from handeye.vision.errors import SourceError, TrackingError, UserError
from handeye.vision.runtime.detections import Detections
from handeye.vision.runtime.draw import draw_detections
from handeye.vision.runtime.sources import StreamImage, open_stream
from handeye.vision.tracking.box_tracker import BoxTracks
from handeye.vision.tracking.image_tracker import (
    BoxTrackingConfig,
    ImageTracker,
    Trails,
    draw_tracks,
)

TrackerName = Literal["sort", "bytetrack", "ocsort"]
Result = TypeVar("Result")


class FrameStream(ABC, Generic[Result]):
    """Iterates over (frame, result) of a source; a frame has `name`, `image_rgb` and `stamp_s`.

    image_rgb is (H, W, 3) uint8. stamp_s is the time in the video, 0 for single images, and the monotonic clock for a
    camera, of which frames that come too fast are skipped. The source closes at its end, or when the context is left.
    Raises SourceError when the source breaks off.
    """

    def __init__(
        self, detector: Detector, source: str | Path | int, timeout_s: float, *, skip_broken: bool = False
    ) -> None:
        self.detector = detector
        self.source = str(source)
        self.stage_times_s: Mapping[str, float] = {}
        """Seconds of each stage of the latest frame; `read` includes waiting for a camera."""
        self._stream = open_stream(self.source, timeout_s, skip_broken=skip_broken)
        self._results = self._run()

    @property
    def fps(self) -> float | None:
        """Frame rate of the video or camera; None for single images."""
        return self._stream.fps

    @property
    def num_images(self) -> int | None:
        """How many images there are; None when only the source knows."""
        return self._stream.num_images

    @property
    def num_broken(self) -> int:
        """How many images could not be read so far and were skipped."""
        return self._stream.num_broken

    @property
    def notes(self) -> list[str]:
        """What did not end the stream but should be known, one line each: skipped files, a camera that was reopened."""
        return self._stream.notes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[tuple[StreamImage, Result]]:
        return self

    def __next__(self) -> tuple[StreamImage, Result]:
        return next(self._results)

    def close(self) -> None:
        """Release the file or camera."""
        self._results.close()
        self._stream.__exit__(None, None, None)

    @abstractmethod
    def _process(self, frame: StreamImage) -> tuple[StreamImage, Result]:
        """What is yielded for a frame; sets stage_times_s."""

    def _run(self) -> Any:
        with self._stream as stream:
            frames = iter(stream)
            while True:
                started = time.perf_counter()
                frame = next(frames, None)
                if frame is None:
                    return
                read_s = time.perf_counter() - started
                done = self._process(frame)
                self.stage_times_s = {**self.stage_times_s, "read": read_s}
                yield done


class DetectionStream(FrameStream[Detections]):
    """Iterates over (frame, detections); see `handeye.stream`."""

    def _process(self, frame: StreamImage) -> tuple[StreamImage, Detections]:
        detections = self.detector(frame.image_rgb)
        self.stage_times_s = self.detector.times.by_name()
        return frame, detections


class TrackStream(FrameStream[BoxTracks]):
    """Iterates over (frame, tracks); see `handeye.track`. `tracker.lost()` are the tracks that are not seen now."""

    def __init__(
        self,
        detector: Detector,
        source: str | Path | int,
        tracker: TrackerName | BoxTrackingConfig | ImageTracker,
        timeout_s: float,
        *,
        skip_broken: bool = False,
    ) -> None:
        config = tracker_config(tracker) if isinstance(tracker, str) else tracker
        if isinstance(config, BoxTrackingConfig):
            detector = detector.for_tracking(config)
        super().__init__(detector, source, timeout_s, skip_broken=skip_broken)
        self.tracker = ImageTracker(config, self.fps) if isinstance(config, BoxTrackingConfig) else config
        self._num_images = 0

    def _process(self, frame: StreamImage) -> tuple[StreamImage, BoxTracks]:
        if self.fps is None:  # single images count as taken one after the other at the tracker's frame rate
            frame = frame._replace(stamp_s=(self._num_images + self.num_broken) / self.tracker.frame_rate)
        self._num_images += 1
        detections = self.detector(frame.image_rgb)
        started = time.perf_counter()
        try:
            tracks = self.tracker(frame.image_rgb, detections, frame.stamp_s)
        except TrackingError as error:  # a frame older than the last, for example: the source's fault
            raise SourceError(f"{self.source}, {frame.name}: {error}") from error
        self.stage_times_s = {**self.detector.times.by_name(), "track": time.perf_counter() - started}
        return frame, tracks


def stream(
    detector: Detector, source: str | Path | int, *, timeout_s: float = 10.0, skip_broken: bool = False
) -> DetectionStream:
    """Detect in every frame of a source: `for frame, detections in handeye.stream(detector, "video.mp4"): ...`.

    source: an image, a folder, a pattern ("shots/*.png"), a video file, a camera index (0) or a URL ("rtsp://...").
    timeout_s: how long a camera may take to open or to give its next frame, in seconds. One that hangs up is opened
        again up to five times.
    skip_broken: skip images of a folder or pattern that cannot be read; `notes` names them, `num_broken` counts them.

    The iterator is also a context manager, which closes the source when the loop is left early. Raises SourceError
    when the source cannot be opened or breaks off.
    """
    return DetectionStream(detector, source, timeout_s, skip_broken=skip_broken)


def track(
    detector: Detector,
    source: str | Path | int,
    tracker: TrackerName | BoxTrackingConfig | ImageTracker = "bytetrack",
    *,
    timeout_s: float = 10.0,
    skip_broken: bool = False,
) -> TrackStream:
    """Detect and track along a source: `for frame, tracks in handeye.track(detector, "video.mp4"): ...`.

    tracker: "sort", "bytetrack" or "ocsort" with the settings of its paper, a configuration, or an `ImageTracker`.
    source, timeout_s, skip_broken: as for `handeye.stream`; images without a time count as taken at the tracker's
        frame rate, skipped ones too.

    The detector gives all scores that the tracker can use, unless `load` was given a score_threshold; with an
    `ImageTracker` its threshold stays. Raises SourceError when the source cannot be opened, breaks off or gives frames
    out of order.
    """
    return TrackStream(detector, source, tracker, timeout_s, skip_broken=skip_broken)


def tracker_config(
    kind: TrackerName | None = None, path: Path | None = None, overrides: Sequence[str] = ()
) -> BoxTrackingConfig:
    """The configuration of a tracker, by its name or from a file. Raises UserError for both at once."""
    if path is not None and kind is not None:
        raise UserError("--tracker and --config both choose a tracker; give one of them")
    chosen = [] if path is not None else [f"tracker.kind={kind or 'bytetrack'}"]
    return load_config(BoxTrackingConfig, path, [*chosen, *overrides])


def draw(image_rgb: UInt8[np.ndarray, "h w 3"], found: Detections | BoxTracks) -> UInt8[np.ndarray, "h w 3"]:
    """A copy of the RGB image with the boxes, class names and scores of detections, or the ids of tracks."""
    if isinstance(found, Detections):
        return draw_detections(require_image(image_rgb), found)
    return draw_tracks(require_image(image_rgb), found, Trails())
