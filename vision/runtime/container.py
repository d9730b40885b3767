"""Tells a cut off video when it is opened, from the sizes that its container declares.

mp4 and mov (ISO base media format) are a chain of boxes: four bytes of size, four of type; the size 1 announces an
eight byte size behind the type, the size 0 means "to the end". AVI is a chain of RIFF chunks, sizes little-endian.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from vision.errors import SourceError

FIRST_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"}


def check_container(path: Path) -> None:
    """Raise SourceError when the file cannot be read, is empty, or ends before its container says it does.

    Formats that are not known here pass; their end is found while decoding.
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
