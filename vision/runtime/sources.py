"""Where images come from: a file, a folder, a pattern, a video; live cameras are in camera_stream.py.

`with open_stream("video.mp4") as stream: for name, image_rgb, stamp_s in stream: ...`
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

import cv2

from vision.errors import SourceError
from vision.images import read_image
from vision.runtime.camera_stream import CameraStream, StreamImage, believable_fps
from vision.runtime.container import check_container
from vision.runtime.quiet_opencv import quiet_opencv

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})


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
        matches = sorted(Path(match) for match in glob.glob(source, recursive=True))  # noqa: PTH207 - may be absolute
        return ImageFiles([match for match in matches if match.suffix.lower() in IMAGE_SUFFIXES], source)
    if not path.exists():
        raise SourceError(f"{source}: there is no such file, folder or pattern; a camera is given by its number")
    if path.suffix.lower() in IMAGE_SUFFIXES or cv2.haveImageReader(source):
        return ImageFiles([path], source)
    return VideoFile(path)


class ImageFiles:
    """Single images in the given order, named by their path below the folder that holds them all.

    Raises SourceError when there is none.
    """

    fps = None

    def __init__(self, paths: list[Path], origin: str = "") -> None:
        """`origin` is what the user asked for, for the message."""
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
        """Containers without an index only estimate their length from duration and rate: one in fifty is let pass."""
        if num_decoded == 0:
            raise SourceError(f"{self.path}: holds no frame that OpenCV can decode")
        claimed = self.num_images or 0
        if num_decoded < claimed - max(1, claimed // 50):
            raise SourceError(f"{self.path}: breaks off after {num_decoded} of {claimed} frames; it is cut or damaged")


def _images_in(folder: Path) -> list[Path]:
    """Hidden files are left out: half-written ones of a writer that was killed, and macOS's companions."""
    visible = (path for path in folder.iterdir() if not path.name.startswith("."))
    paths = sorted(path for path in visible if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    if not paths:
        raise SourceError(f"{folder}: the folder holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return paths
