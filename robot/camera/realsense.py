"""Read an Intel RealSense depth camera as `robot.interfaces.Camera`: lenses, units, clocks and alignment.

Colour and depth run at native sizes and are aligned here: depth scaled on the device would mix readings at edges. The
SDK's objects are protocols, so that frames of its software device, or of a test, work as well.
"""

# pyright: reportMissingImports=false
# pyrealsense2 is an extra that has no type information.

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from handeye.robot.camera.intrinsics import Intrinsics, Lens
from handeye.robot.camera.rectification import DepthAlignment, Undistortion, depth_to_metres
from handeye.robot.errors import CameraError
from handeye.robot.transforms import make_transform, nearest_transform
from handeye.robot.types import Frame
from handeye.vision.errors import MissingPackageError


@dataclass(frozen=True)
class RealsenseSettings:
    """Streams to ask for. 848 x 480 is the D400 family's best depth; `serial` chooses among several devices."""

    color_hw: tuple[int, int] = (480, 640)
    depth_hw: tuple[int, int] = (480, 848)
    rate_hz: int = 30
    serial: str | None = None
    timeout_s: float = 5.0


class RealsenseCamera:
    """A robot.interfaces.Camera. Raises MissingPackageError on entry where pyrealsense2 is not installed."""

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


@runtime_checkable
class SdkIntrinsics(Protocol):
    """The fields of pyrealsense2.intrinsics; `model` is an enumeration with a name."""

    width: int
    height: int
    fx: float
    fy: float
    ppx: float
    ppy: float
    model: Any
    coeffs: Sequence[float]


@runtime_checkable
class SdkExtrinsics(Protocol):
    """The fields of pyrealsense2.extrinsics: rotation by columns, translation in metres."""

    rotation: Sequence[float]
    translation: Sequence[float]


@runtime_checkable
class SdkFrame(Protocol):
    """What is used of pyrealsense2's video frames. `get_timestamp` is in milliseconds of the domain's clock."""

    def get_data(self) -> Any:
        """The pixels as a buffer."""
        ...

    def get_timestamp(self) -> float:
        """Milliseconds of exposure."""
        ...

    def get_frame_timestamp_domain(self) -> Any:
        """Which clock that is; an enumeration with a name."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class RealsenseGeometry:
    """Both cameras of a device, where the depth camera is seen from the colour camera, and the depth's unit (m)."""

    color: Intrinsics
    depth: Intrinsics
    T_color_depth: Float[np.ndarray, "4 4"]
    depth_unit_m: float


class RealsenseFrames:
    """Makes a Frame of one colour and one depth frame: metres, aligned to colour, without the lens's distortion."""

    def __init__(self, geometry: RealsenseGeometry) -> None:
        self.geometry = geometry
        self._undistortion = Undistortion(geometry.color)
        self._alignment = DepthAlignment(geometry.depth, self._undistortion.target, geometry.T_color_depth)

    def frame(self, color: SdkFrame, depth: SdkFrame, *, now_s: float, wall_clock_s: float) -> Frame:
        """Both frames as one; now_s and wall_clock_s are the monotonic and the system's clock at the same moment.

        Raises CameraError for images of another size or type than the geometry's.
        """
        image_rgb = np.array(color.get_data())  # a copy: the SDK takes its buffer back
        if image_rgb.dtype != np.uint8 or image_rgb.ndim != 3:
            raise CameraError(f"expected RGB of 8 bit from the colour stream, got {image_rgb.dtype} {image_rgb.shape}")
        depth_m = depth_to_metres(np.asarray(depth.get_data()), self.geometry.depth_unit_m, "the depth stream")
        return Frame(
            self._undistortion.color(image_rgb),
            self._alignment.align(depth_m),
            self._undistortion.target.K,
            exposure_stamp_s(color, now_s=now_s, wall_clock_s=wall_clock_s),
        )


def exposure_stamp_s(frame: SdkFrame, *, now_s: float, wall_clock_s: float) -> float:
    """When the frame was exposed, on the monotonic clock; its arrival (now_s) if the device uses another clock.

    The SDK counts in the system's clock, which may be set at any time, so only the frame's age is taken from it.
    """
    if frame.get_frame_timestamp_domain().name == "hardware_clock":
        return now_s
    return now_s - max(0.0, wall_clock_s - frame.get_timestamp() / 1e3)


def intrinsics_from_sdk(sdk: SdkIntrinsics) -> Intrinsics:
    """Intrinsics as the SDK reports them. Raises CameraError for a lens model that has no counterpart here.

    The SDK's modified and inverse Brown-Conrady bend the tangential terms once more; with the coefficients that
    RealSense lenses have, that is less than a hundredth of a pixel.
    """
    K = np.array([[sdk.fx, 0.0, sdk.ppx], [0.0, sdk.fy, sdk.ppy], [0.0, 0.0, 1.0]])
    coefficients, size_hw = np.array(sdk.coeffs, dtype=np.float64), (sdk.height, sdk.width)
    name = sdk.model.name
    if name == "none" or not coefficients.any():
        return Intrinsics(K, size_hw)
    if name in ("brown_conrady", "modified_brown_conrady", "inverse_brown_conrady"):
        return Intrinsics(K, size_hw, coefficients)
    if name == "kannala_brandt4":
        return Intrinsics(K, size_hw, coefficients[:4], lens=Lens.FISHEYE)
    raise CameraError(f"the device reports the lens model {name}, which handeye does not know: calibrate it yourself")


def transform_from_sdk(sdk: SdkExtrinsics) -> Float[np.ndarray, "4 4"]:
    """T_to_from of `from.get_extrinsics_to(to)`. Raises TransformError for what is no rotation."""
    R = np.array(sdk.rotation, dtype=np.float64).reshape(3, 3, order="F")
    return nearest_transform(make_transform(R, np.array(sdk.translation, dtype=np.float64)), 1e-4, "extrinsics")


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
