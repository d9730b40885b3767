"""Video files: `for name, image_rgb, stamp_s in VideoFile(path)`; and what every source of images gives, `StreamImage`.

A cut off video is recognised when it is opened, from the sizes that its container declares: mp4 and mov (ISO base media
format) are a chain of boxes, four bytes of size and four of type (size 1 announces an eight-byte size behind the type,
size 0 means "to the end"); AVI is a chain of RIFF chunks with little-endian sizes. The rest of the containers only
estimate how many frames they hold, from a duration and a nominal rate: there the stamps of the frames are believed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import UInt8

from handeye.vision.errors import SourceError
from handeye.vision.runtime.video_writer import quiet_opencv

USUAL_FPS = 25.0
MAX_FPS = 480.0
RATE_TOLERANCE = 0.01
HOLE = 5.0
"""Frames that a pause must be worth to count as frames missing."""
"""By how much frames may come faster or slower than the nominal rate before their own rate is taken."""
FIRST_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"}
COUNTED_SUFFIXES = {".avi", ".m4v", ".mov", ".mp4"}
"""Containers with an index, which counts its frames."""


class StreamImage(NamedTuple):
    """One image of a stream: name, pixels, and time stamp.

    stamp_s is the time in the video for a video file, 0 for single images, and the monotonic clock for a camera.
    """

    name: str
    image_rgb: UInt8[np.ndarray, "h w 3"]
    stamp_s: float


@runtime_checkable
class Stream(Protocol):
    """Images one after the other. Leaving the context releases files and devices."""

    @property
    def fps(self) -> float | None:
        """Frame rate of a video or camera; None for single images."""
        ...

    @property
    def num_images(self) -> int | None:
        """How many images there are; None when only the source knows."""
        ...

    @property
    def num_broken(self) -> int:
        """How many images could not be read so far and were skipped."""
        ...

    @property
    def notes(self) -> list[str]:
        """What did not end the stream but should be known, one line each: skipped files, a camera that was reopened."""
        ...

    def __enter__(self) -> Stream: ...

    def __exit__(self, *error: object) -> None: ...

    def __iter__(self) -> Iterator[StreamImage]: ...


class VideoFile:
    """The frames of a video file from first to last.

    Raises SourceError when it is opened, or at the frame where it breaks off: fewer frames than the file claims are
    an error, not an end.
    """

    num_broken = 0

    def __init__(self, path: Path) -> None:
        """Open a file; see `from_capture` for one at an address."""
        has_index = check_container(Path(path))
        self._take(open_capture(str(path)), str(path), Path(path).stem, has_index=has_index)
        if self._duration_s is not None:
            self._believe_stamps(str(path))

    @classmethod
    def from_capture(cls, capture: cv2.VideoCapture, address: str, path: str) -> VideoFile:
        """The video file at an address, already opened; `path` is that part of the address."""
        video = cls.__new__(cls)
        has_index = Path(path).suffix.lower() in COUNTED_SUFFIXES
        video._take(capture, address, Path(path).stem or "video", has_index=has_index)
        return video

    def _take(self, capture: cv2.VideoCapture, origin: str, stem: str, *, has_index: bool) -> None:
        if not capture.isOpened():
            raise SourceError(f"{origin}: is not a video that OpenCV can decode, or it is damaged")
        self.origin, self._stem, self._capture = origin, stem, capture
        claimed, rate = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), capture.get(cv2.CAP_PROP_FPS)
        self.num_images = claimed if claimed > 0 else None
        self.fps = believable_fps(rate)
        self.notes: list[str] = []
        self._duration_s = claimed / rate if claimed > 0 and rate > 0 and not has_index else None

    def _believe_stamps(self, path: str) -> None:
        """Number and rate of the frames from the stamps of their packets, which are read without being decoded."""
        packets = open_capture(path)
        packets.set(cv2.CAP_PROP_FORMAT, -1)
        stamps_s = []
        while packets.grab():
            stamps_s.append(packets.get(cv2.CAP_PROP_POS_MSEC) / 1e3)
        packets.release()
        self.notes += [f"{path}: no frame from {start_s:.2f} to {end_s:.2f} s" for start_s, end_s in holes(stamps_s)]
        self.num_images = len(stamps_s) or None
        span_s = max(stamps_s, default=0.0) - min(stamps_s, default=0.0)
        if span_s > 0:
            rate = (len(stamps_s) - 1) / span_s
            if abs(rate - self.fps) > RATE_TOLERANCE * self.fps:
                self.fps = believable_fps(rate)

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._capture.release()

    def __iter__(self) -> Iterator[StreamImage]:
        number, last_s, longest_s = 0, 0.0, 0.0
        while True:
            decoded, image_bgr = self._capture.read()
            if not decoded:
                break
            stamp_s = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3
            last_s, longest_s = stamp_s, max(longest_s, stamp_s - last_s)
            image_rgb = cv2.cvtColor(image_bgr, cv2.COLOR_BGR2RGB, dst=image_bgr)
            yield StreamImage(f"{self._stem}_{number:06d}", image_rgb, stamp_s)
            number += 1
        self._check_length(number, end_s=last_s + max(longest_s, 1 / self.fps))

    def _check_length(self, num_decoded: int, end_s: float) -> None:
        """One missing frame in fifty is tolerated, and a fiftieth of the duration.

        A container without an index may hold fewer frames than its rate promises, but they must reach its end; the
        last one may last as long as any other.
        """
        if num_decoded == 0:
            raise SourceError(f"{self.origin}: holds no frame that OpenCV can decode")
        claimed = self.num_images or 0
        if self._duration_s is not None and end_s < 0.98 * self._duration_s:
            raise SourceError(
                f"{self.origin}: breaks off after {num_decoded} frames, at {end_s:.1f} of {self._duration_s:.1f} s; it "
                "is cut or damaged"
            )
        if self._duration_s is None and num_decoded < claimed - max(1, claimed // 50):
            raise SourceError(
                f"{self.origin}: breaks off after {num_decoded} of {claimed} frames; it is cut or damaged"
            )


def holes(stamps_s: Sequence[float]) -> list[tuple[float, float]]:
    """Where frames are missing in a video that is steady otherwise: intervals of five frames and more, in s.

    A video in which a twentieth of the intervals are unlike the median has no rhythm that frames could be missing from.
    """
    if len(stamps_s) < 3:
        return []
    stamps = np.sort(stamps_s)
    intervals = np.diff(stamps)
    usual = float(np.median(intervals))
    unlike = np.abs(intervals - usual) > 0.5 * usual
    if usual <= 0.0 or unlike.mean() > 1 / 20:
        return []
    return [(float(stamps[i]), float(stamps[i + 1])) for i in np.flatnonzero(intervals >= HOLE * usual).tolist()]


def open_capture(path: str) -> cv2.VideoCapture:
    """FFmpeg's decoder of a file, with nothing said on standard error."""
    with quiet_opencv():
        return cv2.VideoCapture(path, cv2.CAP_FFMPEG)


def believable_fps(claimed: float) -> float:
    """The claimed frame rate, or 25 where a driver or container gives none or its clock rate (90000)."""
    return claimed if 0 < claimed <= MAX_FPS else USUAL_FPS


def check_container(path: Path) -> bool:
    """Whether the container has an index that counts its frames.

    Raises SourceError when the file cannot be read, is empty, or ends before its container says it does. Unknown
    formats pass; their end is found while decoding.
    """
    try:
        size = path.stat().st_size
        if size == 0:
            raise SourceError(f"{path}: is empty")
        with path.open("rb") as file:
            head = file.read(12)
            if head[4:8] in FIRST_BOXES:
                return _check_boxes(file, size, path)
            if head[:4] == b"RIFF":
                _check_end(int.from_bytes(head[4:8], "little") + 8, size, path)
                return True
            return False
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror or error}") from error


def _check_boxes(file: BinaryIO, size: int, path: Path) -> bool:
    """Walk the boxes of mp4; whether its frames are counted, which those of a fragmented file are not."""
    position, types = 0, set()
    while position + 8 <= size:
        file.seek(position)
        header = file.read(16)
        length = int.from_bytes(header[:4], "big")
        if length == 1:
            length = int.from_bytes(header[8:], "big")
        types.add(header[4:8])
        if length == 0:
            break
        if length < 8:
            raise SourceError(f"{path}: is damaged: the box at byte {position} declares the size {length}")
        position += length
        _check_end(position, size, path)
    if b"moov" not in types:
        raise SourceError(f"{path}: is cut off or was never finished: the index of its frames (moov) is missing")
    return b"moof" not in types


def _check_end(declared: int, size: int, path: Path) -> None:
    if declared > size:
        raise SourceError(f"{path}: is cut off: {size} bytes of at least {declared} that its container declares")
