"""A live camera or network stream: a thread takes every frame, the reader gets the newest, and no delay builds up."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import UInt8

from vision.errors import SourceError
from vision.runtime.quiet_opencv import quiet_opencv

USUAL_FPS = 25.0
MAX_FPS = 480.0


class StreamImage(NamedTuple):
    """One image of a stream: what it is called, its pixels, and when it was taken.

    stamp_s is the time in the video for a video file, 0 for single images, and the monotonic clock for a camera.
    """

    name: str
    image_rgb: UInt8[np.ndarray, "h w 3"]
    stamp_s: float


@runtime_checkable
class Capture(Protocol):
    """The part of cv2.VideoCapture that is used."""

    def read(self) -> tuple[bool, np.ndarray]:
        """Wait for the next frame; False when there is none."""
        ...

    def release(self) -> None:
        """Close the device."""
        ...


class CameraStream:
    """Iterates over the newest frame that was not given yet; frames that came meanwhile are skipped.

    Names count the frames that the camera delivered, so that skipped ones show as gaps. Raises SourceError when no
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
        """How many frames the camera has delivered so far, given or skipped."""
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
    """The claimed frame rate, or 25 where a driver or container says nothing or gives its clock rate (90000)."""
    return claimed if 0 < claimed <= MAX_FPS else USUAL_FPS
