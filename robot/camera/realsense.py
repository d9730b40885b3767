# pyright: reportMissingImports=false
# pyrealsense2 is an extra that has no type information.
"""An Intel RealSense depth camera as `robot.camera.camera.Camera`: the device's pipeline only.

Frames are made in realsense_frames.py. Colour and depth run at their own native sizes and are aligned there: depth
that was scaled on the device would mix the readings at edges.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from robot.camera.realsense_frames import (
    RealsenseFrames,
    RealsenseGeometry,
    intrinsics_from_sdk,
    transform_from_sdk,
)
from robot.errors import CameraError
from robot.types import Frame
from vision.errors import MissingPackageError


@dataclass(frozen=True)
class RealsenseSettings:
    """Streams to ask for. 848 x 480 is the D400 family's best depth; `serial` chooses among several devices."""

    color_hw: tuple[int, int] = (480, 640)
    depth_hw: tuple[int, int] = (480, 848)
    rate_hz: int = 30
    serial: str | None = None
    timeout_s: float = 5.0


class RealsenseCamera:
    """Follows robot.camera.camera.Camera. Raises MissingPackageError on entry where pyrealsense2 is not installed."""

    def __init__(self, settings: RealsenseSettings | None = None) -> None:
        self.settings = RealsenseSettings() if settings is None else settings
        self._pipeline: Any = None

    def __enter__(self) -> RealsenseCamera:
        """Start both streams and read the device's calibration; CameraError when the device is absent or busy."""
        sdk = _import_sdk()
        pipeline, config = sdk.pipeline(), sdk.config()
        rate, (height, width) = self.settings.rate_hz, self.settings.color_hw
        config.enable_stream(sdk.stream.color, width, height, sdk.format.rgb8, rate)
        height, width = self.settings.depth_hw
        config.enable_stream(sdk.stream.depth, width, height, sdk.format.z16, rate)
        if self.settings.serial is not None:
            config.enable_device(self.settings.serial)
        try:
            profile = pipeline.start(config)
        except RuntimeError as error:
            which = f"RealSense {self.settings.serial}" if self.settings.serial else "a RealSense"
            raise CameraError(f"{which} with these streams cannot be started: {error}") from error
        self._pipeline = pipeline
        try:
            self._frames = RealsenseFrames(_read_geometry(sdk, profile))
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the streams."""
        if self._pipeline is not None:
            self._pipeline.stop()
            self._pipeline = None

    def read(self) -> Frame:
        """The newest pair of frames. Raises CameraError when none comes in time, or outside of the `with` block."""
        if self._pipeline is None:
            raise CameraError("the camera is closed: use it inside its `with` block")
        try:
            frames = self._pipeline.wait_for_frames(round(self.settings.timeout_s * 1e3))
            # Waiting may give one from the SDK's queue; the newest is the last one that polling finds.
            while newer := self._pipeline.poll_for_frames():
                frames = newer
        except RuntimeError as error:
            raise CameraError(f"the RealSense gave no frames for {self.settings.timeout_s:g} s: {error}") from error
        color, depth = frames.get_color_frame(), frames.get_depth_frame()
        if not color or not depth:
            raise CameraError("the RealSense gave a colour frame without depth, or depth without colour")
        return self._frames.frame(color, depth, now_s=time.monotonic(), wall_clock_s=time.time())


def _import_sdk() -> Any:
    try:
        import pyrealsense2
    except ImportError as error:
        raise MissingPackageError(
            f"a RealSense needs pyrealsense2 (pip install 'handeye[realsense]') and libusb-1.0-0: {error}"
        ) from error
    return pyrealsense2


def _read_geometry(sdk: Any, profile: Any) -> RealsenseGeometry:
    color, depth = (profile.get_stream(kind).as_video_stream_profile() for kind in (sdk.stream.color, sdk.stream.depth))
    return RealsenseGeometry(
        intrinsics_from_sdk(color.get_intrinsics()),
        intrinsics_from_sdk(depth.get_intrinsics()),
        transform_from_sdk(depth.get_extrinsics_to(color)),
        float(profile.get_device().first_depth_sensor().get_depth_scale()),
    )
