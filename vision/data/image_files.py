"""Image files of a data set: size from the header, check against the annotations, cache of decoded images.

Sizes and boxes are those of the upright image, as `vision.images.read_image` gives it: the EXIF orientation is applied,
as labelling tools and browsers do. Annotations made on the pixels as stored do not fit, which raises DatasetError.
"""

from __future__ import annotations

import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from handeye.vision.data.annotations import BROKEN, AnnotationSet, LeftOut
from handeye.vision.errors import DatasetError, SourceError, UserError
from handeye.vision.images import decode_image, read_image

MAX_PIXELS = 2**28
"""More than 16384 x 16384 pixels is taken for a decompression bomb: 800 MB once decoded."""
HEAD_BYTES = 2**16
"""Enough of a file to know the size of most."""
Image = UInt8[np.ndarray, "h w 3"]
ORIENTATION_TAG = 0x0112
START_OF_FRAME = frozenset({*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0)})
WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xDA)})


def read_size(path: Path) -> tuple[int, int]:
    """Height and width of the upright image, from the header where it is a JPEG or PNG, else by decoding.

    Raises SourceError when the file is missing, empty, no image, or declares more than MAX_PIXELS.
    """
    try:
        with Path(path).open("rb") as file:
            size_hw = declared_size(file.read(HEAD_BYTES)) or declared_size(file.read())
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror or error}") from error
    if size_hw is None:
        height, width, _ = read_image(path).shape
        size_hw = (height, width)
    _refuse_bomb(path, size_hw)
    return size_hw


def read_stated_image(path: Path, stated_hw: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """Read an image that must be of the size that its annotations were made for; RGB, upright.

    Raises DatasetError for another size, before decoding where the header tells it, and SourceError for a file that
    is missing or damaged.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror or error}") from error
    declared_hw = declared_size(content)
    if declared_hw is not None:
        _refuse_bomb(path, declared_hw)
        _compare(path, declared_hw, stated_hw)
    image_rgb = decode_image(content, origin=str(path))
    _compare(path, (image_rgb.shape[0], image_rgb.shape[1]), stated_hw)
    return image_rgb


def declared_size(content: bytes) -> tuple[int, int] | None:
    """Height and width of the upright image as a JPEG's or PNG's header declares them; None where it does not."""
    if content.startswith(b"\x89PNG\r\n\x1a\n") and content[12:16] == b"IHDR" and len(content) >= 24:
        width, height = struct.unpack(">II", content[16:24])
        # A PNG may have an orientation too, in a chunk that few writers use.
        return None if b"eXIf" in content else (height, width)
    if content.startswith(b"\xff\xd8"):
        return _jpeg_size(content)
    return None


def without_missing(annotations: AnnotationSet, folder: Path) -> AnnotationSet:
    """The set without the images whose files do not exist, which are listed in `left_out`."""
    problems = {
        image.image_id: f"{folder / image.file_name}: is missing"
        for image in annotations.images
        if not (folder / image.file_name).is_file()
    }
    return leave_out(annotations, problems)


def without_broken(annotations: AnnotationSet, folder: Path, num_threads: int = 2) -> AnnotationSet:
    """The set without the images that cannot be decoded to the size stated, which are listed in `left_out`.

    Decodes every image once. Raises DatasetError when none is left.
    """
    with ThreadPoolExecutor(num_threads) as readers:
        texts = readers.map(lambda image: problem_of(folder / image.file_name, image.size_hw), annotations.images)
        problems = {image.image_id: text for image, text in zip(annotations.images, texts, strict=True) if text}
    return leave_out(annotations, problems)


def problem_of(path: Path, stated_hw: tuple[int, int]) -> str | None:
    """What is wrong with an image file, in one line; None where nothing is."""
    try:
        read_stated_image(path, stated_hw)
    except UserError as error:
        return str(error)
    return None


def leave_out(annotations: AnnotationSet, problems: Mapping[int, str]) -> AnnotationSet:
    """The set without the images of these ids, each named with its problem. Raises DatasetError when none is left."""
    kept = tuple(image for image in annotations.images if image.image_id not in problems)
    if not kept:
        raise DatasetError(f"none of the {len(annotations)} images can be used; {next(iter(problems.values()))}")
    named = tuple(LeftOut(BROKEN, text) for text in problems.values())
    return replace(annotations, images=kept, left_out=annotations.left_out + named)


class RecentImages:
    """`image_rgb = recent(index)`: an LRU cache of decoded images, bounded in bytes.

    Mosaics ask for each image several times, and decoding costs most of a sample.

    Threads may share it; two that ask for an image at the same moment may both decode it.
    """

    def __init__(self, decode: Callable[[int], Image], budget_bytes: int) -> None:
        self._decode = decode
        self._budget_bytes = budget_bytes
        self._held_bytes = 0
        self._lock = threading.Lock()
        self._images: OrderedDict[int, Image] = OrderedDict()

    def __call__(self, index: int) -> Image:
        """Image number `index`; the caller must not write into it."""
        with self._lock:
            image_rgb = self._images.get(index)
            if image_rgb is not None:
                self._images.move_to_end(index)
                return image_rgb
        image_rgb = self._decode(index)
        with self._lock:
            self._keep(index, image_rgb)
        return image_rgb

    def __len__(self) -> int:
        return len(self._images)

    def __reduce__(self) -> tuple[type[RecentImages], tuple[Callable[[int], Image], int]]:
        """Another process starts with nothing kept."""
        return RecentImages, (self._decode, self._budget_bytes)

    def _keep(self, index: int, image_rgb: Image) -> None:
        if index in self._images:
            return
        self._images[index] = image_rgb
        self._held_bytes += image_rgb.nbytes
        while self._held_bytes > self._budget_bytes:
            _, oldest = self._images.popitem(last=False)
            self._held_bytes -= oldest.nbytes


def _jpeg_size(content: bytes) -> tuple[int, int] | None:
    """The size in the frame header, sides exchanged where the EXIF orientation turns the image by a quarter."""
    is_turned = False
    for marker, segment in _jpeg_segments(content):
        if marker == 0xE1 and segment.startswith(b"Exif\0\0"):
            is_turned = _orientation(segment[6:]) in (5, 6, 7, 8)
        elif marker in START_OF_FRAME and len(segment) >= 5:
            height, width = struct.unpack(">HH", segment[1:5])
            if height and width:
                return (width, height) if is_turned else (height, width)
            return None
    return None


def _jpeg_segments(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and content of the segments before the first scan."""
    position = 2
    while position + 4 <= len(content) and content[position] == 0xFF:
        marker = content[position + 1]
        if marker == 0xDA:
            return
        if marker == 0xFF or marker in WITHOUT_LENGTH:
            position += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(content[position + 2 : position + 4], "big")
        yield marker, content[position + 4 : position + 2 + length]
        position += 2 + length


def _orientation(tiff: bytes) -> int:
    """The orientation in the first directory of EXIF data; 1, upright, where there is none."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 10:
        return 1
    (start,) = struct.unpack(order + "I", tiff[4:8])
    (count,) = struct.unpack(order + "H", tiff[start : start + 2].ljust(2, b"\0"))
    for number in range(count):
        entry = tiff[start + 2 + 12 * number :][:12]
        if len(entry) == 12 and struct.unpack(order + "H", entry[:2])[0] == ORIENTATION_TAG:
            return struct.unpack(order + "H", entry[8:10])[0]
    return 1


def _refuse_bomb(path: Path, size_hw: tuple[int, int]) -> None:
    height, width = size_hw
    if height * width > MAX_PIXELS:
        raise SourceError(
            f"{path}: declares {width} x {height} pixels, more than an image may have here ({MAX_PIXELS})"
        )


def _compare(path: Path, found_hw: tuple[int, int], stated_hw: tuple[int, int]) -> None:
    if found_hw == stated_hw:
        return
    found, expected = (f"{width} x {height}" for height, width in (found_hw, stated_hw))
    turned = " (is its EXIF orientation the reason?)" if found_hw == stated_hw[::-1] else ""
    raise DatasetError(f"{path}: is {found} pixels, but its annotations were made for {expected}{turned}")
