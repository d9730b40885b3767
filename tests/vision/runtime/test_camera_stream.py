"""Live sources: the newest frame only, no delay that grows, time-outs, and a real network stream from this machine."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest

from handeye.vision.errors import SourceError
from handeye.vision.runtime.camera_stream import CameraStream, Capture
from handeye.vision.runtime.sources import open_stream
from handeye.vision.runtime.video_file import VideoFile, believable_fps
from handeye.vision.runtime.video_writer import VideoWriter

LEVELS = 250
"""Levels of brightness by which frames of the network camera are told apart; then they begin anew."""


class SteppedCamera:
    """A camera that delivers a frame each time it is told to; frame k has the brightness k."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self._asked = threading.Semaphore(0)
        self._number = 0
        self._ends = False

    def deliver(self, count: int, stream: CameraStream) -> None:
        """Deliver frames and wait until the grabbing thread has taken the last."""
        wanted = self._number + count
        for _ in range(count):
            self._asked.release()
        while stream.num_delivered < wanted:
            time.sleep(0.001)

    def end(self) -> None:
        self._ends = True
        self._asked.release()

    def read(self) -> tuple[bool, np.ndarray]:
        self._asked.acquire()
        if self._ends:
            return False, np.empty(0)
        self._number += 1
        return True, np.full((4, 4, 3), self._number - 1, np.uint8)

    def release(self) -> None:
        self.released.set()


@pytest.fixture
def camera() -> Iterator[tuple[SteppedCamera, CameraStream]]:
    capture = SteppedCamera()
    stream = CameraStream(capture, "test camera", timeout_s=5.0)
    yield capture, stream
    capture.end()
    stream.__exit__()


def test_only_the_newest_frame_is_given(camera):
    capture, stream = camera
    images = iter(stream)
    capture.deliver(1, stream)
    assert next(images).name == "frame_000000"
    capture.deliver(7, stream)
    before_s = time.monotonic()
    capture.deliver(1, stream)
    name, image, stamp_s = next(images)
    assert name == "frame_000008"
    assert image.max() == 8
    assert before_s <= stamp_s <= time.monotonic()


def test_no_frame_is_given_twice(camera):
    capture, stream = camera
    stream.timeout_s = 0.05
    capture.deliver(1, stream)
    images = iter(stream)
    next(images)
    with pytest.raises(SourceError, match=r"no frame for 0\.05 s"):
        next(images)


def test_a_camera_that_ends_gives_its_last_frame_and_an_error(camera):
    capture, stream = camera
    capture.deliver(2, stream)
    capture.end()
    assert capture.released.wait(60)
    images = iter(stream)
    assert next(images).name == "frame_000001"
    with pytest.raises(SourceError, match="ended after 2 frames"):
        next(images)


class FixedCamera:
    """Gives so many frames of one brightness, then hangs up."""

    def __init__(self, num_frames: int, level: int) -> None:
        self._left, self._level = num_frames, level

    def read(self) -> tuple[bool, np.ndarray]:
        self._left -= 1
        return self._left >= 0, np.full((4, 4, 3), self._level, np.uint8)

    def release(self) -> None:
        """Nothing is kept open."""


def test_a_camera_that_hangs_up_is_opened_again_and_the_pauses_begin_anew():
    steps: list[Capture | None] = [None, FixedCamera(1, 20), None, FixedCamera(1, 30), None, None]

    def reopen() -> Capture:
        step = steps.pop(0)
        if step is None:
            raise SourceError("nobody answers")
        return step

    stream = CameraStream(FixedCamera(2, 10), "door", 5.0, reopen=reopen, retry_delays_s=(0.0, 0.0))
    with stream, pytest.raises(SourceError, match="door: the camera ended after 4 frames"):
        list(stream)
    assert steps == []
    assert [note.partition(";")[0] for note in stream.notes] == [
        f"door: hung up after {number} frames" for number in (2, 2, 3, 3, 4, 4)
    ]
    assert "(1 of 2)" in stream.notes[2]


def test_a_reader_waits_while_the_camera_is_opened_again():
    opening = threading.Event()

    def reopen() -> Capture:
        opening.wait()
        return SteppedCamera()

    stream = CameraStream(FixedCamera(0, 0), "door", 0.01, reopen=reopen, retry_delays_s=(0.0,))
    reading = threading.Thread(target=lambda: next(iter(stream), None), daemon=True)
    reading.start()
    reading.join(0.2)
    assert reading.is_alive()
    opening.set()


def test_leaving_the_context_releases_the_camera():
    capture = SteppedCamera()
    with CameraStream(capture, "test", timeout_s=5.0) as stream:
        capture.deliver(1, stream)
        closing = threading.Timer(0.02, capture.end)
        closing.start()
    assert capture.released.is_set()


def test_a_camera_that_is_not_there_is_one_line(capfd):
    with pytest.raises(SourceError, match="camera 63: cannot be opened"):
        open_stream("63")
    assert capfd.readouterr().err == ""


def test_a_stream_address_without_a_server_is_one_line(capfd):
    with pytest.raises(SourceError, match="cannot be opened within 2 s"):
        open_stream("rtsp://127.0.0.1:9/nothing", timeout_s=2.0)
    assert capfd.readouterr().err == ""


class MotionJpeg(BaseHTTPRequestHandler):
    """A camera on the network: 100 frames a second, frame k as bright as k modulo 250."""

    def do_GET(self) -> None:  # noqa: N802 - named by the standard library
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for number in itertools.count():
            jpeg = cv2.imencode(".jpg", np.full((32, 32, 3), number % LEVELS, np.uint8))[1].tobytes()
            header = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            try:
                self.wfile.write(header.encode() + jpeg + b"\r\n")
            except OSError:
                return
            time.sleep(0.01)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - named by the standard library
        """Say nothing."""


def wait_for_frames(stream: CameraStream, wanted: int) -> int:
    """How many the camera has delivered, once they are as many as wanted."""
    for _ in range(60_000):
        if stream.num_delivered >= wanted:
            return stream.num_delivered
        time.sleep(0.001)
    return pytest.fail("the camera delivers no more frames")


def test_a_slow_reader_of_a_network_camera_falls_behind_by_no_frame():
    """However slow: it reads on once the camera has delivered a dozen frames more, and is given none of before."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), MotionJpeg)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with open_stream(f"http://127.0.0.1:{server.server_address[1]}/video", timeout_s=60.0) as stream:
            numbers, brightness, delivered = [], [], 0
            for name, image, _ in stream:
                numbers.append(int(name.removeprefix("frame_")))
                brightness.append(float(image.mean()))
                assert numbers[-1] >= delivered - 1, "an old frame was queued"
                if len(numbers) == 6:
                    break
                delivered = wait_for_frames(stream, numbers[-1] + 13)
    finally:
        server.shutdown()
        server.server_close()
    gaps = np.array(brightness) - brightness[0] - (np.array(numbers) - numbers[0])
    np.testing.assert_allclose((gaps + LEVELS / 2) % LEVELS, LEVELS / 2, atol=3)


@pytest.mark.parametrize(("claimed", "believed"), [(29.97, 29.97), (0.0, 25.0), (-1.0, 25.0), (90000.0, 25.0)])
def test_frame_rates_that_no_camera_has_are_not_believed(claimed: float, believed: float):
    assert believable_fps(claimed) == believed


class FilesOf(SimpleHTTPRequestHandler):
    """Serves a folder."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - named by the standard library
        """Say nothing."""


def test_a_file_at_an_address_is_a_file_and_no_camera(tmp_path: Path):
    with VideoWriter(tmp_path / "full.mp4", fps=10.0) as writer:
        for number in range(20):
            writer.write(np.full((48, 64, 3), 5 * number, np.uint8))
    cv2.imwrite(str(tmp_path / "one.jpg"), np.full((48, 64, 3), 90, np.uint8))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(FilesOf, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        base = f"http://127.0.0.1:{server.server_address[1]}"
        for address in (f"{base}/full.mp4", (tmp_path / "full.mp4").as_uri()):
            with open_stream(address, timeout_s=60.0) as stream:
                assert isinstance(stream, VideoFile)
                assert stream.num_images == 20
                assert [image.name for image in stream] == [f"full_{number:06d}" for number in range(20)]
        with open_stream(f"{base}/one.jpg?now", timeout_s=60.0) as stream:
            assert len(list(stream)) == 1
        (tmp_path / "page.html").write_text("<p>no video</p>")
        for name, reason in (("absent.mp4", "the server answers 404 File not found"), ("page.html", "it is no video")):
            with pytest.raises(SourceError, match=f"cannot be opened within 60 s: {reason}"):
                open_stream(f"{base}/{name}", timeout_s=60.0)
    finally:
        server.shutdown()
        server.server_close()
