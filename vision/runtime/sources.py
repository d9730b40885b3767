"""Image sources: files, folders, glob patterns, videos, live cameras and network streams (RTSP, HTTP).

`with open_stream("video.mp4") as stream: for name, image_rgb, stamp_s in stream: ...`
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

import cv2

from handeye.vision.errors import SourceError
from handeye.vision.images import IMAGE_SUFFIXES, has_image_suffix, is_heif, natural_order, read_image
from handeye.vision.runtime.camera_stream import CameraStream, open_live
from handeye.vision.runtime.video_file import FIRST_BOXES, Stream, StreamImage, VideoFile

NAMES_SHOWN = 5
MANY_PAGED_SUFFIXES = {".gif", ".png", ".tif", ".tiff", ".webp", ".avif"}
"""Image files that may hold more than one image."""


def open_stream(source: str, timeout_s: float = 10.0, *, skip_broken: bool = False) -> Stream:
    """Open an image, a folder, a quoted pattern, a video file, a camera index ("0") or a URL ("rtsp://...").

    timeout_s: how long a camera may take to open or to give its next frame.
    skip_broken: images of a folder or pattern that cannot be read are noted and skipped; otherwise they are an error.
    Raises SourceError in one line.
    """
    if source.startswith("file://"):
        source = url2pathname(urlsplit(source).path)
    if source.isdecimal() or "://" in source:
        return _open_live_or_file(source, timeout_s)
    path = Path(source)
    if path.is_dir():
        return _open_images(path.iterdir(), source, skip_broken=skip_broken)
    if glob.has_magic(source) and not path.exists():
        matches = (Path(match) for match in glob.glob(source, recursive=True))  # noqa: PTH207 - may be absolute
        return _open_images(matches, source, skip_broken=skip_broken)
    if not path.exists():
        raise SourceError(f"{source}: there is no such file, folder or pattern; a camera is given by its number")
    if _is_image(path):
        return ImageFiles([path], source)
    return VideoFile(path)


class ImageFiles:
    """Single images in the given order, named by their path below the folder that holds them all.

    Raises SourceError when there is none, and for an unreadable one unless `skip_broken`; then for the first of them if
    no image at all can be read.
    """

    fps = None

    def __init__(self, paths: list[Path], origin: str = "", *, skip_broken: bool = False) -> None:
        """`origin` is what the user asked for, for error messages."""
        if not paths:
            raise SourceError(f"{origin}: holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
        self.paths = paths
        self.num_images = len(paths)
        self.num_broken = 0
        self.notes: list[str] = []
        self._skip_broken = skip_broken
        self._root = os.path.commonpath([path.parent for path in paths])

    def __enter__(self) -> ImageFiles:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing is kept open."""

    def __iter__(self) -> Iterator[StreamImage]:
        first_error = None
        for path in self.paths:
            try:
                image_rgb = read_image(path)
            except SourceError as error:
                if not self._skip_broken:
                    raise
                first_error = first_error or error
                self.num_broken += 1
                self.notes.append(f"skipped: {error}")
                continue
            self._note_pages(path)
            yield StreamImage(path.relative_to(self._root).as_posix(), image_rgb, 0.0)
        if first_error is not None and self.num_broken == len(self.paths):
            raise first_error

    def _note_pages(self, path: Path) -> None:
        if path.suffix.lower() in MANY_PAGED_SUFFIXES and (num_pages := cv2.imcount(str(path))) > 1:
            self.notes.append(f"{path}: only the first of its {num_pages} images is read")


def _open_images(paths: Iterable[Path], origin: str, *, skip_broken: bool) -> ImageFiles:
    """The images among the files, hidden ones left out; the rest is noted."""
    files = natural_order(path for path in paths if path.is_file() and not path.name.startswith("."))
    images = [path for path in files if _is_image(path)]
    stream = ImageFiles(images, origin, skip_broken=skip_broken)
    if passed_over := sorted({path.name for path in files} - {path.name for path in images}):
        names = ", ".join(passed_over[:NAMES_SHOWN]) + ", ..." * (len(passed_over) > NAMES_SHOWN)
        stream.notes.append(f"{origin}: no images and passed over: {len(passed_over)} files ({names})")
    return stream


def _is_image(path: Path) -> bool:
    """By its suffix, or else by its content; OpenCV would take mp4 for AVIF by a few bytes."""
    if has_image_suffix(path):
        return True
    try:
        with path.open("rb") as file:
            head = file.read(12)
    except OSError:
        return False
    return is_heif(head) or (head[4:8] not in FIRST_BOXES and cv2.haveImageReader(str(path)))


def _open_live_or_file(source: str, timeout_s: float) -> Stream:
    """A camera or stream; or, at an address, a file, which knows how many frames it has or is an image by its name."""
    capture = open_live(source, timeout_s)
    if "://" in source:
        path = unquote(urlsplit(source).path)
        if has_image_suffix(Path(path)) or capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0:
            return VideoFile.from_capture(capture, source, path)
    return CameraStream.from_capture(capture, source, timeout_s)
