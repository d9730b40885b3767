"""Write mp4 videos through OpenCV, whole or not at all, and keep OpenCV's and FFmpeg's log lines off standard error.

What matters in those lines reaches the user as one error of ours.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from jaxtyping import UInt8

from handeye.vision.errors import UserError
from handeye.vision.files import replacing

# OpenCV reads it when it first opens a video.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


class VideoWriter:
    """`with VideoWriter(path, fps) as writer: writer.write(image_rgb)`; the first image fixes the size.

    Written beside its place and renamed at the end. An error inside the block, or no image at all, leaves no file.
    """

    def __init__(self, path: Path, fps: float) -> None:
        """`fps` is the rate at which players show the images. Raises ValueError when it is not positive."""
        if not fps > 0:
            raise ValueError(f"expected a positive frame rate, got {fps}")
        self.path = Path(path)
        self.fps = fps
        self._files = ExitStack()
        self._writer: cv2.VideoWriter | None = None
        self._image_hw = (0, 0)
        self._last_bgr = np.zeros((0, 0, 3), np.uint8)
        self._first_s: float | None = None
        self._num_written = 0

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.release()
            self._writer = None
        self._files.__exit__(kind, error, trace)

    def write(self, image_rgb: UInt8[np.ndarray, "h w 3"]) -> None:
        """Append one image. Raises ValueError when its size is not that of the first."""
        if self._writer is None:
            self._writer = self._open(image_rgb.shape[:2])
        if image_rgb.shape[:2] != self._image_hw:
            raise ValueError(f"{self.path}: expected images of {self._image_hw}, got {image_rgb.shape[:2]}")
        self._last_bgr = cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR)
        self._writer.write(self._last_bgr)
        self._num_written += 1

    def write_at(self, image_rgb: UInt8[np.ndarray, "h w 3"], stamp_s: float) -> None:
        """Append one image so that it is shown at its time after the first one, for sources without a steady rate.

        The image before is repeated until then; an image that comes before its frame is due is left out.
        """
        if self._first_s is None:
            self._first_s = stamp_s
        due = round((stamp_s - self._first_s) * self.fps)
        while self._writer is not None and self._num_written < due:
            self._writer.write(self._last_bgr)
            self._num_written += 1
        if self._num_written == due:
            self.write(image_rgb)

    def _open(self, image_hw: tuple[int, int]) -> cv2.VideoWriter:
        beside = self._files.enter_context(replacing(self.path))
        self._image_hw = image_hw
        codec = cv2.VideoWriter.fourcc(*"mp4v")
        writer = cv2.VideoWriter(str(beside), cv2.CAP_FFMPEG, codec, self.fps, (image_hw[1], image_hw[0]))
        if not writer.isOpened():
            raise UserError(f"{self.path}: this OpenCV cannot write mp4 video here")
        return writer


@contextmanager
def quiet_opencv() -> Iterator[None]:
    """OpenCV's log is silent inside the block."""
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)
