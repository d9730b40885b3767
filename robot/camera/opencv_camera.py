"""Read a colour camera with OpenCV (USB index, device file, network stream) as `robot.interfaces.Camera`.

Depth is NaN everywhere; localisation falls back on the plane of the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType

import numpy as np

from handeye.robot.camera.intrinsics import Intrinsics
from handeye.robot.camera.rectification import Undistortion
from handeye.robot.errors import CameraError
from handeye.robot.types import Frame
from handeye.vision.errors import SourceError
from handeye.vision.runtime.camera_stream import CameraStream
from handeye.vision.runtime.video_file import StreamImage


class OpencvCamera:
    """A robot.interfaces.Camera with undistorted images.

    `source` is an index ("0") or an address. A frame is stamped when it arrives, which is after its exposure by what
    camera and cable take: measure that delay where it matters.
    """

    def __init__(self, source: str, intrinsics: Intrinsics, *, timeout_s: float = 5.0) -> None:
        self.source, self.intrinsics, self.timeout_s = source, intrinsics, timeout_s
        self._stream: CameraStream | None = None

    def __enter__(self) -> OpencvCamera:
        """Open the device. Raises CameraError when it is absent, busy or of another image size than calibrated."""
        self._undistortion = Undistortion(self.intrinsics)
        self._no_depth = np.full(self._undistortion.target.size_hw, np.nan, dtype=np.float32)
        try:
            self._stream = CameraStream.open(self.source, self.timeout_s)
            self._frames: Iterator[StreamImage] = iter(self._stream)
            self.intrinsics.check_image(self._next_image().image_rgb)
        except BaseException as error:
            self.__exit__(None, None, None)
            if isinstance(error, SourceError):
                raise CameraError(str(error)) from error
            raise
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Release the device."""
        if self._stream is not None:
            self._stream.__exit__(error_type, error, traceback)
            self._stream = None

    def read(self) -> Frame:
        """The newest unread frame. Raises CameraError when none comes in time, or outside `with`."""
        image = self._next_image()
        straight = self._undistortion.color(image.image_rgb)
        return Frame(straight, self._no_depth, self._undistortion.target.K, image.stamp_s)

    def _next_image(self) -> StreamImage:
        if self._stream is None:
            raise CameraError("the camera is closed: use it inside its `with` block")
        try:
            return next(self._frames)
        except SourceError as error:
            # A broken generator stays broken; a camera that pauses may come back.
            self._frames = iter(self._stream)
            raise CameraError(str(error)) from error
