"""The pinhole model against OpenCV, its own inverse, and nonsense that must be refused."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handeye.robot.camera.distortion import Lens, distort, undistort
from handeye.robot.camera.intrinsics import Intrinsics, check_fits_image, check_pinhole
from handeye.robot.errors import CameraError

K = np.array([[386.0, 0.0, 319.5], [0.0, 390.0, 239.5], [0.0, 0.0, 1.0]])
SIZE_HW = (480, 640)
DISTORTIONS = [
    np.zeros(5),
    np.array([0.154, -0.249, 0.0035, -0.0011]),
    np.array([-0.056, 0.066, -0.0007, 0.0004, -0.021]),
    np.array([0.12, -0.05, 0.001, -0.002, 0.01, 0.11, -0.04, 0.008]),
]


def points_in_view(num: int = 200) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack([rng.uniform(-0.7, 0.7, num), rng.uniform(-0.5, 0.5, num), np.ones(num)], axis=1) * rng.uniform(
        0.2, 5.0, (num, 1)
    )


def test_example_30_2_2_of_the_specification():
    camera = Intrinsics(np.array([[600.0, 0.0, 320.0], [0.0, 600.0, 240.0], [0.0, 0.0, 1.0]]), SIZE_HW)
    p_camera = camera.unproject(np.array([250.0, 200.0]), np.array(0.5))
    np.testing.assert_allclose(p_camera, [-35 / 600, -20 / 600, 0.5])
    np.testing.assert_allclose(np.round(p_camera, 3), [-0.058, -0.033, 0.5])


@pytest.mark.parametrize("distortion", DISTORTIONS, ids=len)
def test_projection_equals_opencv(distortion: np.ndarray):
    points = points_in_view()
    expected = cv2.projectPoints(points, np.zeros(3), np.zeros(3), K, distortion)[0][:, 0]
    np.testing.assert_allclose(Intrinsics(K, SIZE_HW, distortion).project(points), expected, atol=1e-8)


@pytest.mark.parametrize("distortion", DISTORTIONS, ids=len)
def test_unproject_inverts_project(distortion: np.ndarray):
    camera = Intrinsics(K, SIZE_HW, distortion)
    points = points_in_view()
    np.testing.assert_allclose(camera.unproject(camera.project(points), points[:, 2]), points, atol=1e-7)


def test_where_the_lens_folds_over_there_is_no_direction():
    # Strong barrel distortion: x (1 - 0.5 x^2) never exceeds 0.55, so 0.9 is the image of nothing.
    distortion = np.array([-0.5, 0.0, 0.0, 0.0])
    assert np.isnan(undistort(np.array([[0.9, 0.0]]), distortion)).all()
    # Nor where Newton's method finds a solution behind the fold, on the other side of the axis.
    assert np.isnan(undistort(np.array([[-0.53, -0.4]]), np.array([-0.9, 0.0, 0.0, 0.0]))).all()
    inside = np.array([[0.3, 0.1]])
    np.testing.assert_allclose(distort(undistort(inside, distortion), distortion), inside, atol=1e-9)


def test_skew_is_undone():
    skewed = K.copy()
    skewed[0, 1] = 2.5
    camera = Intrinsics(skewed, SIZE_HW)
    points = points_in_view()
    np.testing.assert_allclose(camera.unproject(camera.project(points), points[:, 2]), points, atol=1e-12)


def test_points_behind_the_camera_have_no_pixel():
    pixels = Intrinsics(K, SIZE_HW).project(np.array([[0.1, 0.1, -1.0], [0.1, 0.1, 0.0], [0.0, 0.0, 1.0]]))
    np.testing.assert_array_equal(np.isnan(pixels).all(axis=1), [True, True, False])


def test_nan_depth_gives_nan_points_and_any_leading_shape_works():
    camera = Intrinsics(K, SIZE_HW)
    pixels = np.zeros((3, 4, 2))
    depth = np.full((3, 4), 2.0)
    depth[1, 2] = np.nan
    points = camera.unproject(pixels, depth)
    assert points.shape == (3, 4, 3)
    np.testing.assert_array_equal(np.isnan(points).all(axis=-1), np.isnan(depth))


@given(scale=st.sampled_from([0.25, 0.5, 2.0]))
def test_rescaled_intrinsics_see_the_same_point_at_the_same_part_of_the_image(scale: float):
    camera = Intrinsics(K, SIZE_HW)
    small = camera.rescale((int(480 * scale), int(640 * scale)))
    points = points_in_view()
    # Positions counted from the image's corner scale; those counted from the first pixel's centre do not.
    np.testing.assert_allclose(small.project(points) + 0.5, scale * (camera.project(points) + 0.5), atol=1e-9)
    np.testing.assert_allclose(small.rescale(SIZE_HW).K, K, atol=1e-9)


def test_rescale_agrees_with_a_resized_image():
    # A bright pixel block of the large image must land where the small intrinsics say.
    image = np.zeros(SIZE_HW, np.float32)
    image[100:104, 200:204] = 1.0
    small = cv2.resize(image, (160, 120), interpolation=cv2.INTER_AREA)
    row, column = np.unravel_index(np.argmax(small), small.shape)
    camera = Intrinsics(K, SIZE_HW)
    direction = camera.directions(np.array([201.5, 101.5]))
    np.testing.assert_allclose(camera.rescale((120, 160)).project(direction), [column, row], atol=1e-9)


def test_crop_moves_the_origin_and_may_lose_the_principal_point():
    camera = Intrinsics(K, SIZE_HW)
    crop = camera.crop(400, 300, (100, 200))
    points = points_in_view()
    np.testing.assert_allclose(crop.project(points), camera.project(points) - [400, 300])
    with pytest.raises(CameraError, match="leaves the image"):
        camera.crop(600, 0, (100, 100))


@pytest.mark.parametrize(
    ("K", "words"),
    [
        (np.eye(4), "3 x 3"),
        (K * [[1], [1], [2]], "last row"),
        (K * [[-1], [1], [1]], "positive focal"),
        (np.where(K == 0, np.nan, K), "finite"),
        (K.T, "below the diagonal"),
    ],
)
def test_what_is_no_pinhole_is_refused(K: np.ndarray, words: str):
    with pytest.raises(CameraError, match=words):
        check_pinhole(K)


@pytest.mark.parametrize("factor", [0.5, 2.0, 3.0])
def test_intrinsics_of_another_resolution_is_refused(factor: float):
    other = K * np.array([[factor], [factor], [1.0]])
    with pytest.raises(CameraError, match="another resolution"):
        Intrinsics(other, SIZE_HW)
    check_fits_image(K, SIZE_HW)


def test_distortion_of_a_wrong_length_or_value_is_refused():
    with pytest.raises(CameraError, match="coefficients"):
        Intrinsics(K, SIZE_HW, np.zeros(3))
    with pytest.raises(CameraError, match="finite"):
        Intrinsics(K, SIZE_HW, np.full(5, np.nan))
    with pytest.raises(CameraError, match="1 x 1"):
        Intrinsics(K, (0, 640), is_crop=True)


FISHEYES = [np.zeros(4), np.array([0.05, -0.02, 0.004, -0.001]), np.array([-0.08, 0.03, -0.01, 0.002])]


def wide_points(num: int = 200) -> np.ndarray:
    """Up to 80 degrees from the axis, at 0.2 to 5 m."""
    rng = np.random.default_rng(1)
    angle, azimuth = rng.uniform(0.0, np.deg2rad(80), num), rng.uniform(0.0, 2 * np.pi, num)
    directions = np.stack([np.sin(angle) * np.cos(azimuth), np.sin(angle) * np.sin(azimuth), np.cos(angle)], axis=1)
    return directions * rng.uniform(0.2, 5.0, (num, 1))


@pytest.mark.parametrize("distortion", FISHEYES)
def test_a_fisheye_equals_opencvs_and_comes_back(distortion: np.ndarray):
    camera = Intrinsics(K, SIZE_HW, distortion, lens=Lens.FISHEYE)
    points = wide_points()
    expected = cv2.fisheye.projectPoints(points[:, None], np.zeros(3), np.zeros(3), K, distortion)[0][:, 0]
    pixels = camera.project(points)
    np.testing.assert_allclose(pixels, expected, atol=1e-8)
    np.testing.assert_allclose(camera.unproject(pixels, points[:, 2]), points, atol=1e-6)


def test_a_fisheye_sees_its_axis_and_nothing_behind_ninety_degrees():
    camera = Intrinsics(K, SIZE_HW, FISHEYES[1], lens=Lens.FISHEYE)
    np.testing.assert_array_equal(camera.project(np.array([0.0, 0.0, 2.0])), K[:2, 2])
    np.testing.assert_array_equal(camera.directions(K[:2, 2]), [0.0, 0.0, 1.0])
    beyond = np.array([[2.0, 0.0]])  # 2 rad from the axis
    assert np.isnan(undistort(beyond, np.zeros(4), Lens.FISHEYE)).all()


def test_crop_and_rescale_keep_the_lens():
    camera = Intrinsics(K, SIZE_HW, FISHEYES[1], lens=Lens.FISHEYE)
    assert camera.rescale((240, 320)).lens is camera.crop(10, 10, (50, 50)).lens is Lens.FISHEYE
    assert camera.without_distortion().lens is Lens.PINHOLE


def test_coefficients_of_the_other_lens_are_refused():
    with pytest.raises(CameraError, match="expected 4 .* fisheye"):
        Intrinsics(K, SIZE_HW, np.zeros(5), lens=Lens.FISHEYE)


def test_an_image_of_another_size_is_refused():
    with pytest.raises(CameraError, match="640 x 480 .* 1280 x 720"):
        Intrinsics(K, SIZE_HW).check_image(np.zeros((720, 1280, 3), np.uint8))
