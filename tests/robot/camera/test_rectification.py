"""Undistorted images against OpenCV's maps, and straight lines that come out straight."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from handeye.robot.camera.intrinsics import Intrinsics, Lens
from handeye.robot.camera.rectification import Undistortion, pixel_map
from handeye.robot.errors import CameraError

K = np.array([[386.0, 0.0, 319.5], [0.0, 390.0, 239.5], [0.0, 0.0, 1.0]])
SIZE_HW = (480, 640)
BENT = Intrinsics(K, SIZE_HW, np.array([-0.28, 0.09, 0.001, -0.0007, 0.0]))
FISHEYE = Intrinsics(K, SIZE_HW, np.array([0.05, -0.02, 0.004, -0.001]), lens=Lens.FISHEYE)


def test_the_map_equals_opencvs():
    expected = np.stack(cv2.initUndistortRectifyMap(K, BENT.distortion, None, K, (640, 480), cv2.CV_32FC1), axis=-1)
    np.testing.assert_allclose(pixel_map(BENT, BENT.without_distortion()), expected, atol=1e-3)


def test_the_map_of_a_fisheye_equals_opencvs():
    maps = cv2.fisheye.initUndistortRectifyMap(K, FISHEYE.distortion, np.eye(3), K, (640, 480), cv2.CV_32FC1)
    np.testing.assert_allclose(pixel_map(FISHEYE, FISHEYE.without_distortion()), np.stack(maps, axis=-1), atol=1e-3)


@pytest.mark.parametrize("camera", [BENT, FISHEYE], ids=["pinhole", "fisheye"])
def test_an_image_of_a_direction_field_comes_out_straight(camera: Intrinsics):
    # Each pixel of the bent image holds the x of its direction; in the straight image that is linear in the column.
    rows, columns = np.indices(SIZE_HW, dtype=np.float64)
    x = camera.directions(np.stack([columns, rows], axis=-1))[..., 0]
    straight = Undistortion(camera).depth((10.0 + x).astype(np.float32))
    inside = np.s_[150:330, 200:440]
    expected = 10.0 + (columns - K[0, 2]) / K[0, 0]
    np.testing.assert_allclose(straight[inside], expected[inside], atol=0.6 / K[0, 0])  # nearest: half a pixel


def test_a_target_may_be_cropped_and_rescaled():
    half = BENT.without_distortion().rescale((240, 320)).crop(20, 30, (100, 120))
    image = np.random.default_rng(0).integers(0, 256, (*SIZE_HW, 3), dtype=np.uint8)
    assert Undistortion(BENT, half).color(image).shape == (100, 120, 3)


def test_without_distortion_nothing_changes_and_outside_there_is_nothing():
    camera = BENT.without_distortion()
    image = np.random.default_rng(0).integers(0, 256, (*SIZE_HW, 3), dtype=np.uint8)
    np.testing.assert_array_equal(Undistortion(camera).color(image), image)
    wide = Intrinsics(K * [[0.5], [0.5], [1.0]] + [[0, 0, 159.75], [0, 0, 119.75], [0, 0, 0]], SIZE_HW)
    depth = Undistortion(camera, wide).depth(np.ones(SIZE_HW, np.float32))
    assert np.isnan(depth[0, 0])
    assert depth[240, 320] == 1.0
    assert not Undistortion(camera, wide).color(image)[0, 0].any()


def test_an_image_of_another_size_is_refused():
    with pytest.raises(CameraError, match="belong to images of 640 x 480"):
        Undistortion(BENT).color(np.zeros((240, 320, 3), np.uint8))
