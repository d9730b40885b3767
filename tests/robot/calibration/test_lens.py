"""A lens from corners projected through a known one, and images that determine none."""

from __future__ import annotations

import math

import numpy as np
import pytest

from handeye.robot.calibration.board import BoardView
from handeye.robot.calibration.lens import calibrate_lens, draw_residuals, measure_coverage, rough_intrinsics
from handeye.robot.calibration.poses import ViewSpread, random_views
from handeye.robot.camera.intrinsics import Intrinsics, Lens
from handeye.robot.errors import CalibrationError
from handeye.robot.transforms import apply_transform
from tests.robot.calibration.hand_eye_scene import BOARD, INTRINSICS

FISHEYE = Intrinsics(INTRINSICS.K, (480, 640), np.array([-0.02, 0.01, -0.004, 0.001]), lens=Lens.FISHEYE)


def views_through(intrinsics: Intrinsics, number: int, noise_px: float, tilt_rad: float) -> tuple[BoardView, ...]:
    rng = np.random.default_rng(0)
    points, ids = BOARD.corners_board(), np.arange(BOARD.num_corners)
    spread = ViewSpread(tilt_rad=tilt_rad, offset=0.3)
    views = []
    for index, T in enumerate(random_views(BOARD, intrinsics, spread, number, rng)):
        pixels = intrinsics.project(apply_transform(T, points))
        views.append(BoardView(f"{index}", ids, pixels + rng.normal(0.0, noise_px, pixels.shape), points))
    return tuple(views)


@pytest.mark.parametrize("truth", [INTRINSICS, FISHEYE], ids=["pinhole", "fisheye"])
def test_the_lens_that_made_the_corners_is_found(truth: Intrinsics):
    found = calibrate_lens(views_through(truth, 15, 0.1, math.radians(45)), truth.size_hw, truth.lens)
    np.testing.assert_allclose(found.intrinsics.K, truth.K, atol=3.0)
    # Both coordinates have 0.1 px of noise, of which the fit takes a little.
    assert 0.12 < found.rms_px < 0.15
    grid = np.stack(np.meshgrid([60.0, 320.0, 580.0], [50.0, 240.0, 430.0]), axis=-1)
    directions = found.intrinsics.directions(grid)
    np.testing.assert_allclose(directions, truth.directions(grid), atol=4e-3)
    image = draw_residuals(found)
    assert image.shape == (480, 640, 3)
    assert (image < 128).any()


def test_too_few_images_and_untilted_ones_are_refused():
    with pytest.raises(CalibrationError, match="in 3 images"):
        calibrate_lens(views_through(INTRINSICS, 3, 0.1, 0.7), (480, 640), Lens.PINHOLE)
    with pytest.raises(CalibrationError, match="cannot be told apart"):
        calibrate_lens(views_through(INTRINSICS, 8, 0.0, 0.02), (480, 640), Lens.PINHOLE)


def test_advice_names_what_is_missing_and_falls_silent():
    rough = rough_intrinsics((480, 640))
    view = views_through(INTRINSICS, 1, 0.0, 0.0)[0]
    in_a_corner = BoardView("corner", view.corner_ids, np.clip(view.pixels_uv, 0, 150) * [1.0, 0.7], view.points_board)
    words = " ".join(measure_coverage((view,), rough).advice())
    assert "0 of 4 views" in words
    assert "far left" in words
    assert not measure_coverage((in_a_corner,), rough).is_covered[3, 3]
    everywhere = views_through(INTRINSICS, 60, 0.0, math.radians(45))
    assert measure_coverage(everywhere, rough).advice() == []
