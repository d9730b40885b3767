"""Live cameras and network streams: `with CameraStream.open("rtsp://...", timeout_s=10.0) as stream: ...`

A camera is read by a thread that takes every frame; the reader gets the newest one, so that no latency builds up. One
that hangs up is opened again, a few times in growing intervals.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable
from urllib.error import HTTPError
from urllib.request import urlopen

import cv2
import numpy as np

from handeye.vision.errors import SourceError
from handeye.vision.runtime.video_file import USUAL_FPS, StreamImage, believable_fps
from handeye.vision.runtime.video_writer import quiet_opencv

RETRY_DELAYS_S = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Pauses before a camera that hung up is opened again; with the next frame they begin anew."""


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
    frame comes for `timeout_s` seconds, or the camera ends and cannot be opened again.
    """

    num_images = None
    num_broken = 0

    def __init__(
        self,
        capture: Capture,
        origin: str,
        timeout_s: float,
        fps: float = USUAL_FPS,
        reopen: Callable[[], Capture] | None = None,
        retry_delays_s: tuple[float, ...] = RETRY_DELAYS_S,
    ) -> None:
        """Take over `capture`: the grabbing thread starts here and releases it at the end.

        reopen: opens the camera again, or raises SourceError; None for one that ends when it hangs up.
        """
        self.origin = origin
        self.timeout_s = timeout_s
        self.fps = fps
        self.notes: list[str] = []
        self._capture = capture
        self._reopen = reopen
        self._retry_delays_s = retry_delays_s
        self._condition = threading.Condition()
        self._newest: StreamImage | None = None
        self._number = 0
        self._stopped = False
        self._is_down = False
        self._attempts = 0
        self._thread = threading.Thread(target=self._grab, name=f"grab {origin}", daemon=True)
        self._thread.start()

    @classmethod
    def open(cls, source: str, timeout_s: float) -> CameraStream:
        """Open a camera by its index ("0") or a URL; SourceError when that fails or takes longer than `timeout_s`."""
        return cls.from_capture(open_live(source, timeout_s), source, timeout_s)

    @classmethod
    def from_capture(cls, capture: cv2.VideoCapture, source: str, timeout_s: float) -> CameraStream:
        """The stream of a camera that `open_live` opened, and opens again when it hangs up.

        A file that stands in for a camera knows how many frames it has: it ends, and does not start over.
        """
        fps = believable_fps(capture.get(cv2.CAP_PROP_FPS))
        is_file = capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0
        return cls(capture, source, timeout_s, fps, reopen=None if is_file else lambda: open_live(source, timeout_s))

    @property
    def num_delivered(self) -> int:
        """How many frames the camera has delivered so far, yielded or dropped."""
        return self._number

    def __enter__(self) -> CameraStream:
        return self

    def __exit__(self, *error: object) -> None:
        with self._condition:
            self._stopped = True
            self._condition.notify_all()
        # A thread that hangs in the driver keeps the device; it is a daemon and does not hold up the program.
        self._thread.join(self.timeout_s)

    def __iter__(self) -> Iterator[StreamImage]:
        given = None
        while True:
            with self._condition:
                came = self._condition.wait_for(
                    lambda given=given: self._stopped or self._newest is not given, self.timeout_s
                )
                newest, is_down = self._newest, self._is_down
            if not came and is_down:
                continue  # it ends when the last attempt to open it has failed
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
                    if self._stopped or not self._open_again():
                        break
                    continue
                image_rgb = cv2.cvtColor(image_bgr, cv2.COLOR_BGR2RGB)
                with self._condition:
                    self._newest = StreamImage(f"frame_{self._number:06d}", image_rgb, stamp_s)
                    self._number += 1
                    self._is_down, self._attempts = False, 0
                    self._condition.notify_all()
        finally:
            with self._condition:
                self._stopped = True
                self._condition.notify_all()
            self._capture.release()

    def _open_again(self) -> bool:
        """Whether the camera could be opened again; each attempt is noted."""
        self._is_down = True
        while self._reopen is not None and self._attempts < len(self._retry_delays_s):
            delay_s = self._retry_delays_s[self._attempts]
            self._attempts += 1
            self.notes.append(
                f"{self.origin}: hung up after {self._number} frames; opening it again in {delay_s:g} s "
                f"({self._attempts} of {len(self._retry_delays_s)})"
            )
            self._capture.release()
            with self._condition:
                if self._condition.wait_for(lambda: self._stopped, delay_s):
                    return False
            try:
                self._capture = self._reopen()
            except SourceError:
                continue
            return True
        return False


def open_live(source: str, timeout_s: float) -> cv2.VideoCapture:
    """OpenCV's capture of a camera index ("0") or a URL; SourceError when it does not open within `timeout_s`."""
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
        raise SourceError(f"{what}: cannot be opened within {timeout_s:g} s{_refusal(source, timeout_s)}")
    return capture


def _refusal(source: str, timeout_s: float) -> str:
    """What the server of an HTTP address says, which OpenCV keeps to itself; nothing where it does not refuse."""
    if not source.lower().startswith(("http://", "https://")):
        return ""
    try:
        urlopen(source, timeout=timeout_s).close()  # noqa: S310 - the schemes are those above
    except HTTPError as error:
        return f": the server answers {error.code} {error.reason}"
    except (OSError, ValueError) as error:
        return f": {getattr(error, 'reason', error)}"
    return ": it is no video that OpenCV can decode"
