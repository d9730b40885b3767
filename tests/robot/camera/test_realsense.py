"""Frames of the RealSense SDK, made by hand or by its own software device, as Frames of ours; no device is needed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from handeye.robot.camera.intrinsics import Intrinsics, Lens
from handeye.robot.camera.realsense import (
    RealsenseCamera,
    RealsenseFrames,
    RealsenseGeometry,
    exposure_stamp_s,
    intrinsics_from_sdk,
    transform_from_sdk,
)
from handeye.robot.errors import CameraError, TransformError
from handeye.robot.interfaces import Camera
from handeye.robot.transforms import translation

SIZE_HW = (48, 64)
PINHOLE = Intrinsics(np.array([[60.0, 0.0, 31.5], [0.0, 60.0, 23.5], [0.0, 0.0, 1.0]]), SIZE_HW)
D455_COEFFICIENTS = [-0.0556, 0.0661, -0.00073, 0.00041, -0.0213]


def sdk_intrinsics(model: str, coefficients: list[float]) -> Any:
    lens = {"fx": 600.0, "fy": 605.0, "ppx": 321.0, "ppy": 242.0, "width": 640, "height": 480}
    return SimpleNamespace(**lens, model=SimpleNamespace(name=model), coeffs=coefficients)


class HandMadeFrame:
    def __init__(self, pixels: np.ndarray, timestamp_ms: float = 0.0, domain: str = "global_time") -> None:
        self.pixels, self.timestamp_ms, self.domain = pixels, timestamp_ms, domain

    def get_data(self) -> np.ndarray:
        return self.pixels

    def get_timestamp(self) -> float:
        return self.timestamp_ms

    def get_frame_timestamp_domain(self) -> Any:
        return SimpleNamespace(name=self.domain)


def realsense_sdk() -> Any:
    return pytest.importorskip("pyrealsense2", reason="needs pyrealsense2 and libusb-1.0-0", exc_type=ImportError)


def test_a_pair_becomes_one_frame_in_metres_aligned_to_colour():
    frames = RealsenseFrames(RealsenseGeometry(PINHOLE, PINHOLE, translation(0.06, 0.0, 0.0), 1e-3))
    raw = np.zeros(SIZE_HW, np.uint16)
    raw[20:30, 20:30] = 600
    color = np.random.default_rng(0).integers(0, 256, (*SIZE_HW, 3), dtype=np.uint8)
    frame = frames.frame(HandMadeFrame(color, 99_950.0), HandMadeFrame(raw), now_s=7.0, wall_clock_s=100.0)
    columns = np.flatnonzero(np.isfinite(frame.depth_m[25]))
    # The baseline of 60 mm at 0.6 m moves it by f b / z = 6 pixels.
    assert (columns.min(), columns.max()) == (26, 35)
    np.testing.assert_allclose(frame.depth_m[25, 26:36], 0.6, rtol=1e-6)
    np.testing.assert_array_equal(frame.image_rgb, color)
    assert frame.stamp_s == pytest.approx(6.95)
    color[:] = 0  # the SDK takes its buffer back
    assert frame.image_rgb.any()


def test_the_frame_takes_only_what_the_streams_promise():
    frames = RealsenseFrames(RealsenseGeometry(PINHOLE, PINHOLE, np.eye(4), 1e-3))
    color, depth = np.zeros((*SIZE_HW, 3), np.uint8), np.full(SIZE_HW, 900, np.uint16)
    for wrong_color, wrong_depth, words in (
        (color[..., 0], depth, "expected RGB"),
        (color, depth.astype(np.float32), "millimetres taken for metres"),
        (color, depth[:24], "belong to images"),
        (color[:24], depth, "belong to images"),
    ):
        with pytest.raises(CameraError, match=words):
            frames.frame(HandMadeFrame(wrong_color), HandMadeFrame(wrong_depth), now_s=0.0, wall_clock_s=0.0)


def test_stamps_use_the_age_of_the_frame_and_never_the_future():
    color = np.zeros((*SIZE_HW, 3), np.uint8)
    assert exposure_stamp_s(HandMadeFrame(color, 5_020.0), now_s=1.0, wall_clock_s=5.0) == 1.0
    device = HandMadeFrame(color, 123.0, "hardware_clock")
    assert exposure_stamp_s(device, now_s=1.0, wall_clock_s=5.0) == 1.0


def test_lens_models_of_the_sdk():
    assert not intrinsics_from_sdk(sdk_intrinsics("none", [0.0] * 5)).distortion.any()
    assert intrinsics_from_sdk(sdk_intrinsics("kannala_brandt4", [0.1, 0.0, 0.0, 0.0, 0.0])).lens is Lens.FISHEYE
    with pytest.raises(CameraError, match="ftheta"):
        intrinsics_from_sdk(sdk_intrinsics("ftheta", [0.5, 0.0, 0.0, 0.0, 0.0]))


def test_extrinsics_are_by_columns_and_must_be_rigid():
    quarter = SimpleNamespace(rotation=[0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0], translation=[0.1, 0.2, 0.3])
    T = transform_from_sdk(quarter)
    np.testing.assert_allclose(T @ [1.0, 0.0, 0.0, 1.0], [0.1, 1.2, 0.3, 1.0])
    with pytest.raises(TransformError, match="extrinsics"):
        transform_from_sdk(SimpleNamespace(rotation=[0.0] * 9, translation=[0.0] * 3))


def test_the_driver_is_a_camera_and_needs_its_context():
    camera = RealsenseCamera()
    assert isinstance(camera, Camera)
    with pytest.raises(CameraError, match="with"):
        camera.read()


@pytest.mark.parametrize("model", ["brown_conrady", "modified_brown_conrady", "inverse_brown_conrady"])
def test_projection_is_the_sdks_own_to_a_hundredth_of_a_pixel(model: str):
    sdk = realsense_sdk()
    lens = sdk.intrinsics()
    lens.width, lens.height, lens.fx, lens.fy, lens.ppx, lens.ppy = 640, 480, 385.0, 385.0, 319.0, 241.0
    lens.model, lens.coeffs = getattr(sdk.distortion, model), D455_COEFFICIENTS
    ours = intrinsics_from_sdk(lens)
    points = np.random.default_rng(0).uniform([-0.7, -0.55, 1.0], [0.7, 0.55, 1.0], (100, 3))
    theirs = np.array([sdk.rs2_project_point_to_pixel(lens, point.tolist()) for point in points])
    np.testing.assert_allclose(ours.project(points), theirs, atol=0.01)


def test_frames_of_the_sdks_software_device():
    sdk = realsense_sdk()
    device = sdk.software_device()
    lens = sdk.intrinsics()
    lens.width, lens.height, lens.fx, lens.fy, lens.ppx, lens.ppy = 64, 48, 60.0, 60.0, 31.5, 23.5
    lens.model, lens.coeffs = sdk.distortion.none, [0.0] * 5
    received: dict[str, Any] = {}
    raw = np.full(SIZE_HW, 750, np.uint16)
    color = np.random.default_rng(0).integers(0, 256, (*SIZE_HW, 3), dtype=np.uint8)
    streams = (
        ("depth", sdk.stream.depth, sdk.format.z16, 2, raw),
        ("color", sdk.stream.color, sdk.format.rgb8, 3, color),
    )
    for number, (name, kind, pixel_format, num_bytes, pixels) in enumerate(streams):
        stream = sdk.video_stream()
        stream.type, stream.index, stream.uid, stream.fmt = kind, 0, number, pixel_format
        stream.width, stream.height, stream.fps, stream.bpp, stream.intrinsics = 64, 48, 30, num_bytes, lens
        sensor = device.add_sensor(name)
        profile = sensor.add_video_stream(stream)
        queue = sdk.frame_queue(4)
        sensor.open(profile)
        sensor.start(queue)
        frame = sdk.software_video_frame()
        frame.pixels, frame.stride, frame.bpp = pixels, 64 * num_bytes, num_bytes
        frame.timestamp, frame.domain, frame.frame_number = 40.0, sdk.timestamp_domain.system_time, 1
        frame.profile = profile.as_video_stream_profile()
        sensor.on_video_frame(frame)
        received[name] = queue.wait_for_frame(2000).as_video_frame()
    geometry = RealsenseGeometry(*(intrinsics_from_sdk(lens),) * 2, np.eye(4), 1e-3)
    result = RealsenseFrames(geometry).frame(received["color"], received["depth"], now_s=3.0, wall_clock_s=0.1)
    np.testing.assert_allclose(result.depth_m, 0.75, rtol=1e-6)
    np.testing.assert_array_equal(result.image_rgb, color)
    assert result.stamp_s == pytest.approx(2.94)
