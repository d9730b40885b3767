"""A video file stands for the camera: opened the same way, and it ends, as cameras do when they are unplugged."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from handeye.robot.camera.intrinsics import Intrinsics
from handeye.robot.camera.opencv_camera import OpencvCamera
from handeye.robot.errors import CameraError
from handeye.robot.interfaces import Camera

K = np.array([[100.0, 0.0, 79.5], [0.0, 100.0, 59.5], [0.0, 0.0, 1.0]])
INTRINSICS = Intrinsics(K, (120, 160), np.array([-0.2, 0.05, 0.0, 0.0]))


@pytest.fixture
def video(tmp_path: Path) -> str:
    path = tmp_path / "red.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (160, 120))
    for _ in range(400):
        writer.write(np.full((120, 160, 3), (0, 0, 255), np.uint8))
    writer.release()
    return str(path)


def test_it_gives_rgb_frames_without_depth_stamped_in_order(video: str):
    camera = OpencvCamera(video, INTRINSICS)
    assert isinstance(camera, Camera)
    with camera:
        first, second = camera.read(), camera.read()
    assert first.image_rgb.shape == (120, 160, 3)
    assert first.image_rgb[60, 80, 0] > 200
    assert first.image_rgb[60, 80, 2] < 60
    assert np.isnan(first.depth_m).all()
    np.testing.assert_array_equal(first.K, K)
    assert second.stamp_s > first.stamp_s


def test_a_camera_that_ends_says_so(video: str):
    with OpencvCamera(video, INTRINSICS) as camera, pytest.raises(CameraError, match="ended after"):
        list(iter(camera.read, None))


def test_another_image_size_than_calibrated_is_refused(video: str):
    with pytest.raises(CameraError, match="320 x 240 pixels, this one has 160 x 120"):
        OpencvCamera(video, INTRINSICS.rescale((240, 320))).__enter__()


def test_no_camera_and_a_closed_one_are_refused(tmp_path: Path):
    with pytest.raises(CameraError, match="cannot be opened"):
        OpencvCamera(str(tmp_path / "absent.avi"), INTRINSICS).__enter__()
    with pytest.raises(CameraError, match="with"):
        OpencvCamera("0", INTRINSICS).read()
