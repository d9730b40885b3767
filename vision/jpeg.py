"""What is missing from JPEG files: their decoder fills it with grey, and says so on standard error without a name.

Standard error is held back while an image is decoded; what others print meanwhile follows afterwards.
"""

from __future__ import annotations

import os
import tempfile
import threading
from typing import BinaryIO

import cv2
import numpy as np
from jaxtyping import UInt8

STANDARD_ERROR = 2
WARNINGS = (b"Corrupt JPEG data", b"Premature end of JPEG")
"""How those of libjpeg begin that are about the data."""
HARMLESS = "extraneous bytes"
"""Of libjpeg's warnings the one after which every pixel is there."""


def decode_jpeg(content: bytes, origin: str) -> tuple[UInt8[np.ndarray, "h w 3"] | None, str]:
    """The image in BGR, None where it cannot be decoded, and what libjpeg says of lost data, "" if it says nothing.

    Harmless warnings are printed with `origin` before them. Threads may decode side by side; where a warning could be
    of several images, each is decoded once more, alone.
    """
    image, warnings, is_sure = _error_output.decode(content, alone=False)
    if warnings and not is_sure:
        image, warnings, _ = _error_output.decode(content, alone=True)
    lost = [warning for warning in warnings if HARMLESS not in warning]
    for warning in warnings:
        if HARMLESS in warning:
            os.write(STANDARD_ERROR, f"{origin}: {warning}\n".encode())
    return image, "; ".join(lost)


def is_cut_off(content: bytes) -> bool:
    """Whether a JPEG lacks its end marker."""
    return content.rfind(b"\xff\xd9", _start_of_scan(content)) < 0


def _start_of_scan(content: bytes) -> int:
    """Offset of the JPEG's first scan: segments are skipped by length: an EXIF thumbnail has an end marker too."""
    position = 2
    while position + 4 <= len(content) and content[position] == 0xFF:
        marker = content[position + 1]
        if marker == 0xDA:
            return position
        has_length = marker != 0xFF and marker != 0x01 and not 0xD0 <= marker <= 0xD9
        length = int.from_bytes(content[position + 2 : position + 4], "big") + 2 if has_length else 2
        position += 1 if marker == 0xFF else length
    return len(content)


class _ErrorOutput:
    """Standard error, held back in a file while images are decoded."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._file: BinaryIO | None = None
        self._true_error: int | None = None
        self._warnings: list[str] = []
        self._num_started = self._num_decoding = self._num_wanting_alone = 0
        self._num_read = 0
        self._is_alone = False

    def decode(self, content: bytes, *, alone: bool) -> tuple[np.ndarray | None, list[str], bool]:
        """The image, libjpeg's warnings meanwhile, and whether they must be of this image."""
        with self._changed:
            self._num_wanting_alone += alone
            self._changed.wait_for(lambda: self._may_begin(alone=alone))
            self._num_wanting_alone -= alone
            self._is_alone = alone
            if self._num_decoding == 0:
                self._hold_back()
            self._num_decoding += 1
            self._num_started += 1
            is_first, started, told = self._num_decoding == 1, self._num_started, len(self._warnings)
        try:
            image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        finally:
            with self._changed:
                self._sort_out()
                warnings, is_sure = self._warnings[told:], is_first and self._num_started == started
                self._num_decoding -= 1
                self._is_alone = False
                if self._num_decoding == 0:
                    self._restore()
                self._changed.notify_all()
        return image, warnings, is_sure

    def _may_begin(self, *, alone: bool) -> bool:
        return not self._is_alone and (self._num_decoding if alone else self._num_wanting_alone) == 0

    def before_fork(self) -> None:
        """No child process may be born with standard error held back."""
        self._changed.acquire()
        self._changed.wait_for(lambda: self._num_decoding == 0)

    def after_fork(self) -> None:
        self._changed.release()

    def after_fork_in_child(self) -> None:
        """It shares no file with its parent."""
        self._file = None
        self._changed.release()

    def _hold_back(self) -> None:
        if not hasattr(os, "pread"):
            return
        try:
            self._true_error = os.dup(STANDARD_ERROR)
        except OSError:  # the program runs without one
            return
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - kept open for the next image
        self._file.seek(0)
        self._file.truncate()
        self._num_read = 0
        os.dup2(self._file.fileno(), STANDARD_ERROR)

    def _sort_out(self) -> None:
        """Keep libjpeg's warnings, and print what others had to say."""
        if self._true_error is None or self._file is None:
            return
        num_new = os.fstat(self._file.fileno()).st_size - self._num_read
        printed = os.pread(self._file.fileno(), num_new, self._num_read) if num_new else b""
        self._num_read += num_new
        for line in printed.splitlines(keepends=True):
            if line.startswith(WARNINGS):
                self._warnings.append(line.decode(errors="replace").strip())
            else:
                os.write(self._true_error, line)

    def _restore(self) -> None:
        self._warnings.clear()
        if self._true_error is not None:
            os.dup2(self._true_error, STANDARD_ERROR)
            os.close(self._true_error)
            self._true_error = None


_error_output = _ErrorOutput()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_error_output.before_fork,
        after_in_parent=_error_output.after_fork,
        after_in_child=_error_output.after_fork_in_child,
    )
