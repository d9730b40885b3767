"""Image sources: files, folders, glob patterns, videos, live cameras and network streams (RTSP, HTTP).

`with open_stream("video.mp4") as stream: for name, image_rgb, stamp_s in stream: ...`

A camera is read by a thread that takes every frame; the reader gets the newest one, so that no latency builds up. A cut
off video is recognised when it is opened, from the sizes that its container declares: mp4 and mov (ISO base media
format) are a chain of boxes, four bytes of size and four of type (size 1 announces an eight-byte size behind the type,
size 0 means "to the end"); AVI is a chain of RIFF chunks with little-endian sizes.
"""

from __future__ import annotations

import glob
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import UInt8

from handeye.vision.errors import SourceError
from handeye.vision.images import IMAGE_SUFFIXES, has_image_suffix, list_images, natural_order, read_image
from handeye.vision.runtime.video_writer import quiet_opencv

USUAL_FPS = 25.0
MAX_FPS = 480.0
AVIF_BRANDS = {b"avif", b"avis"}
FIRST_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"}


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
        """Frame rate that a video or camera claims; None for single images."""
        ...

    @property
    def num_images(self) -> int | None:
        """How many images there are; None when only the source knows."""
        ...

    def __enter__(self) -> Stream: ...

    def __exit__(self, *error: object) -> None: ...

    def __iter__(self) -> Iterator[StreamImage]: ...


def open_stream(source: str, timeout_s: float = 10.0) -> Stream:
    """Open an image, a folder, a quoted pattern, a video file, a camera index ("0") or a URL ("rtsp://...").

    `timeout_s` is how long a camera may take to open or to give its next frame. Raises SourceError in one line.
    """
    if source.isdecimal() or "://" in source:
        return CameraStream.open(source, timeout_s)
    path = Path(source)
    if path.is_dir():
        return ImageFiles(_images_in(path))
    if glob.has_magic(source) and not path.exists():
        matches = natural_order(Path(match) for match in glob.glob(source, recursive=True))  # noqa: PTH207 - absolute
        return ImageFiles([match for match in matches if has_image_suffix(match)], source)
    if not path.exists():
        raise SourceError(f"{source}: there is no such file, folder or pattern; a camera is given by its number")
    if has_image_suffix(path) or (not _is_video(path) and cv2.haveImageReader(source)):
        return ImageFiles([path], source)
    return VideoFile(path)


class ImageFiles:
    """Single images in the given order, named by their path below the folder that holds them all.

    Raises SourceError when there is none.
    """

    fps = None

    def __init__(self, paths: list[Path], origin: str = "") -> None:
        """`origin` is what the user asked for, for error messages."""
        if not paths:
            raise SourceError(f"{origin}: holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
        self.paths = paths
        self.num_images = len(paths)
        self._root = os.path.commonpath([path.parent for path in paths])

    def __enter__(self) -> ImageFiles:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing is kept open."""

    def __iter__(self) -> Iterator[StreamImage]:
        for path in self.paths:
            yield StreamImage(path.relative_to(self._root).as_posix(), read_image(path), 0.0)


class VideoFile:
    """The frames of a video file from first to last.

    Raises SourceError when it is opened, or at the frame where it breaks off: fewer frames than the file claims are
    an error, not an end.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        check_container(self.path)
        with quiet_opencv():
            self._capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            raise SourceError(f"{path}: is not a video that OpenCV can decode, or it is damaged")
        claimed = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.num_images = claimed if claimed > 0 else None
        self.fps = believable_fps(self._capture.get(cv2.CAP_PROP_FPS))

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._capture.release()

    def __iter__(self) -> Iterator[StreamImage]:
        number = 0
        while True:
            decoded, image_bgr = self._capture.read()
            if not decoded:
                break
            stamp_s = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3
            image_rgb = cv2.cvtColor(image_bgr, cv2.COLOR_BGR2RGB, dst=image_bgr)
            yield StreamImage(f"{self.path.stem}_{number:06d}", image_rgb, stamp_s)
            number += 1
        self._check_length(number)

    def _check_length(self, num_decoded: int) -> None:
        """Containers without an index only estimate their length: one missing frame in fifty is tolerated."""
        if num_decoded == 0:
            raise SourceError(f"{self.path}: holds no frame that OpenCV can decode")
        claimed = self.num_images or 0
        if num_decoded < claimed - max(1, claimed // 50):
            raise SourceError(f"{self.path}: breaks off after {num_decoded} of {claimed} frames; it is cut or damaged")


@runtime_checkable
class Capture(Protocol):
    """The part of cv2.VideoCapture that is used here."""

    def read(self) -> tuple[bool, np.ndarray]:
        """Wait for the next frame; False when there is none."""
        ...

    def release(self) -> None:
        """Close the device."""
        ...


class CameraStream:
    """Iterates over the newest frame of a live camera or network stream; frames in between are dropped.

    Names count the frames that the camera delivered, so that dropped ones show as gaps. Raises SourceError when no
    frame comes for `timeout_s` seconds or the camera ends.
    """

    num_images = None

    def __init__(self, capture: Capture, origin: str, timeout_s: float, fps: float = USUAL_FPS) -> None:
        """Take over `capture`: the grabbing thread starts here and releases it at the end."""
        self.origin = origin
        self.timeout_s = timeout_s
        self.fps = fps
        self._capture = capture
        self._condition = threading.Condition()
        self._newest: StreamImage | None = None
        self._number = 0
        self._stopped = False
        self._thread = threading.Thread(target=self._grab, name=f"grab {origin}", daemon=True)
        self._thread.start()

    @classmethod
    def open(cls, source: str, timeout_s: float) -> CameraStream:
        """Open a camera by its index ("0") or a URL; SourceError when that fails or takes longer than `timeout_s`."""
        with quiet_opencv():
            if source.isdecimal():
                capture = cv2.VideoCapture(int(source))
                capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
            else:
                limit_ms = max(1, round(timeout_s * 1e3))
                limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, limit_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, limit_ms]
                capture = cv2.VideoCapture(source, cv2.CAP_FFMPEG, limits)
        if not capture.isOpened():
            what = f"camera {source}" if source.isdecimal() else source
            raise SourceError(f"{what}: cannot be opened within {timeout_s:g} s")
        return cls(capture, source, timeout_s, believable_fps(capture.get(cv2.CAP_PROP_FPS)))

    @property
    def num_delivered(self) -> int:
        """How many frames the camera has delivered so far, yielded or dropped."""
        return self._number

    def __enter__(self) -> CameraStream:
        return self

    def __exit__(self, *error: object) -> None:
        with self._condition:
            self._stopped = True
        # A thread that hangs in the driver keeps the device; it is a daemon and does not hold up the program.
        self._thread.join(self.timeout_s)

    def __iter__(self) -> Iterator[StreamImage]:
        given = None
        while True:
            with self._condition:
                came = self._condition.wait_for(
                    lambda given=given: self._stopped or self._newest is not given, self.timeout_s
                )
                newest = self._newest
            if not came:
                raise SourceError(f"{self.origin}: no frame for {self.timeout_s:g} s")
            if newest is None or newest is given:
                raise SourceError(f"{self.origin}: the camera ended after {self._number} frames")
            given = newest
            yield newest

    def _grab(self) -> None:
        try:
            while not self._stopped:
                delivered, image_bgr = self._capture.read()
                stamp_s = time.monotonic()
                if not delivered:
                    break
                image_rgb = cv2.cvtColor(image_bgr, cv2.COLOR_BGR2RGB)
                with self._condition:
                    self._newest = StreamImage(f"frame_{self._number:06d}", image_rgb, stamp_s)
                    self._number += 1
                    self._condition.notify_all()
        finally:
            with self._condition:
                self._stopped = True
                self._condition.notify_all()
            self._capture.release()


def believable_fps(claimed: float) -> float:
    """The claimed frame rate, or 25 where a driver or container gives none or its clock rate (90000)."""
    return claimed if 0 < claimed <= MAX_FPS else USUAL_FPS


def check_container(path: Path) -> None:
    """Raise SourceError when the file cannot be read, is empty, or ends before its container says it does.

    Unknown formats pass; their end is found while decoding.
    """
    try:
        size = path.stat().st_size
        if size == 0:
            raise SourceError(f"{path}: is empty")
        with path.open("rb") as file:
            head = file.read(12)
            if head[4:8] in FIRST_BOXES:
                _check_boxes(file, size, path)
            elif head[:4] == b"RIFF":
                _check_end(int.from_bytes(head[4:8], "little") + 8, size, path)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror or error}") from error


def _is_video(path: Path) -> bool:
    """Whether a file begins as mp4 or mov and not as AVIF, which OpenCV takes a video of a few bytes for."""
    try:
        with path.open("rb") as file:
            head = file.read(12)
    except OSError:
        return False
    return head[4:8] in FIRST_BOXES and head[8:12] not in AVIF_BRANDS


def _images_in(folder: Path) -> list[Path]:
    paths = list_images(folder)
    if not paths:
        raise SourceError(f"{folder}: the folder holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return paths


def _check_boxes(file: BinaryIO, size: int, path: Path) -> None:
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


def _check_end(declared: int, size: int, path: Path) -> None:
    if declared > size:
        raise SourceError(f"{path}: is cut off: {size} bytes of at least {declared} that its container declares")
