"""REP 118's two kinds of depth, and depth in a unit that it cannot be in."""

from __future__ import annotations

import numpy as np
import pytest

from handeye.robot.camera.rectification import check_depth_unit, depth_to_metres, metres_to_millimetres
from handeye.robot.errors import CameraError


def test_millimetres_become_metres_and_invalid_readings_nan():
    depth_m = depth_to_metres(np.array([[0, 1, 1500], [65534, 65535, 800]], np.uint16))
    assert depth_m.dtype == np.float32
    np.testing.assert_allclose(depth_m, [[np.nan, 0.001, 1.5], [65.534, np.nan, 0.8]], rtol=1e-6)


def test_metres_stay_metres_and_impossible_readings_become_nan():
    raw = np.array([[np.nan, 0.0, -1.0], [np.inf, 0.7, 2.0]], np.float64)
    np.testing.assert_allclose(depth_to_metres(raw), [[np.nan] * 3, [np.nan, 0.7, 2.0]], rtol=1e-6)


def test_another_unit_of_the_sensor():
    np.testing.assert_allclose(depth_to_metres(np.full((2, 2), 4000, np.uint16), 1e-4), 0.4)


def test_millimetres_come_back():
    depth_mm = np.random.default_rng(0).integers(0, 65535, (50, 60)).astype(np.uint16)
    depth_mm[:, :10] = np.clip(depth_mm[:, :10], 0, 2000)
    np.testing.assert_array_equal(metres_to_millimetres(depth_to_metres(depth_mm)), depth_mm)
    np.testing.assert_array_equal(metres_to_millimetres(np.array([[np.nan, 70.0, -1.0, 0.0]], np.float32)), 0)


def test_an_image_without_readings_passes():
    assert np.isnan(depth_to_metres(np.zeros((3, 3), np.uint16))).all()
    check_depth_unit(np.full((3, 3), np.nan, np.float32))


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (np.full((4, 4), 800.0, np.float32), "millimetres taken for metres"),
        (np.full((4, 4), 1, np.uint16), "metres taken for millimetres"),
        (np.zeros((4, 4, 3), np.uint16), "one value a pixel"),
        (np.zeros((4, 4), np.uint8), "uint8"),
        (np.zeros((4, 4), np.int32), "int32"),
    ],
)
def test_a_wrong_unit_or_type_is_refused(raw: np.ndarray, words: str):
    with pytest.raises(CameraError, match=f"shelf.png: .*{words}"):
        depth_to_metres(raw, origin="shelf.png")
