"""The depth of a box: the object's pixels and nothing else, through holes, mixed pixels and backgrounds of any kind."""

from __future__ import annotations

import numpy as np
import pytest

from handeye.robot.perception.box_depth import (
    BoxDepth,
    DepthConfig,
    DepthError,
    NoDepth,
    check_depth,
    measure_box_depth,
)
from handeye.robot.perception.camera_view import plane_inverse_depth
from tests.robot.perception.ray_scene import SIZE_HW, Box, K, add_stereo_noise, box_of, cast, cube, look_at

F = 386.0
CONFIG = DepthConfig()
T_BASE_CAMERA = look_at(np.array([0.45, -0.15, 0.55]), np.array([0.58, 0.02, 0.0]), roll=0.7)
TABLE = plane_inverse_depth(K, T_BASE_CAMERA, 0.0)


def measure(depth: np.ndarray, box: np.ndarray, background: np.ndarray | None = None) -> BoxDepth | NoDepth:
    return measure_box_depth(depth.astype(np.float32), box.astype(np.float64), F, CONFIG, background=background)


def whole_mask(found: BoxDepth | NoDepth) -> np.ndarray:
    """The mask in the whole image."""
    assert isinstance(found, BoxDepth), found
    mask = np.zeros(SIZE_HW, dtype=bool)
    height, width = found.mask.shape
    mask[found.top_px : found.top_px + height, found.left_px : found.left_px + width] = found.mask
    return mask


def agreement(mask: np.ndarray, truth: np.ndarray) -> float:
    return float((mask & truth).sum() / (mask | truth).sum())


@pytest.mark.parametrize("background", [TABLE, None], ids=["known table", "unknown table"])
def test_the_objects_pixels_are_found_before_the_table(background: np.ndarray | None):
    rng = np.random.default_rng(0)
    for x, y, edge, yaw in [(0.55, 0.0, 0.05, 0.3), (0.62, 0.08, 0.04, -0.6), (0.5, -0.08, 0.055, 0.0)]:
        depth, hit = cast([cube(x, y, edge, yaw)], T_BASE_CAMERA)
        found = measure(add_stereo_noise(depth, rng), box_of(hit, 0), background)
        truth = hit == 0
        mask = whole_mask(found)
        assert agreement(mask, truth) > 0.8
        assert (mask & ~truth).sum() < 0.03 * truth.sum()  # next to no table among the object's pixels
        assert found.depth_m == pytest.approx(np.median(depth[truth]), abs=0.004)


def test_a_wall_behind_an_object_in_the_air_is_not_the_object():
    T_level = look_at(np.array([0.0, 0.0, 0.5]), np.array([1.0, 0.0, 0.5]))
    held = Box(np.array([0.5, 0.02, 0.5]), np.full(3, 0.06), 0.3)
    wall = Box(np.array([1.5, 0.0, 0.5]), np.array([0.1, 4.0, 4.0]))
    depth, hit = cast([held, wall], T_level, table=None)
    found = measure(add_stereo_noise(depth, np.random.default_rng(1)), box_of(hit, 0))
    assert agreement(whole_mask(found), hit == 0) > 0.8
    assert found.depth_m == pytest.approx(np.median(depth[hit == 0]), abs=0.006)


def test_without_any_plane_behind_it_the_nearest_mode_is_the_object():
    rng = np.random.default_rng(2)
    depth = rng.uniform(1.0, 3.0, SIZE_HW)  # no plane at all
    truth = np.zeros(SIZE_HW, dtype=bool)
    truth[200:240, 300:350] = True
    depth[truth] = 0.6 + 0.0005 * rng.standard_normal(truth.sum())
    found = measure(depth, np.array([290, 190, 360, 250.0]))
    assert agreement(whole_mask(found), truth) > 0.95
    assert found.depth_m == pytest.approx(0.6, abs=0.001)
    assert found.spread_m == pytest.approx(0.0005, rel=0.3)


def test_a_neighbour_that_covers_part_of_the_box_is_left_out():
    objects = [cube(0.58, 0.02, 0.045), cube(0.642, 0.035, 0.055, 0.2)]
    depth, hit = cast(objects, T_BASE_CAMERA)
    for index in range(2):
        mask = whole_mask(measure(add_stereo_noise(depth, np.random.default_rng(3)), box_of(hit, index), TABLE))
        assert agreement(mask, hit == index) > 0.75
        assert (mask & (hit == 1 - index)).sum() < 0.05 * (hit == index).sum()


def test_an_occluder_in_front_marks_where_it_cuts_the_object():
    objects = [cube(0.58, 0.02, 0.05), Box(np.array([0.545, -0.02, 0.2]), np.array([0.02, 0.02, 0.1]))]
    depth, hit = cast(objects, T_BASE_CAMERA)
    found = measure(depth, box_of(hit, 0), TABLE)
    assert isinstance(found, BoxDepth)
    assert agreement(whole_mask(found), hit == 0) > 0.8
    depth, hit = cast(objects[:1], T_BASE_CAMERA)
    alone = measure(depth, box_of(hit, 0), TABLE)
    assert isinstance(alone, BoxDepth)
    assert found.is_cut.sum() > 10
    assert alone.is_cut.sum() == 0


def test_half_of_the_readings_missing_is_survived():
    rng = np.random.default_rng(4)
    depth, hit = cast([cube(0.58, 0.02, 0.05, 0.2)], T_BASE_CAMERA)
    holes = np.zeros(SIZE_HW, dtype=bool)
    holes[:, ::2] = rng.random((480, 320)) < 0.4
    depth[holes] = np.nan
    found = measure(depth, box_of(hit, 0), TABLE)
    assert isinstance(found, BoxDepth)
    assert found.depth_m == pytest.approx(np.nanmedian(depth[hit == 0]), abs=0.003)
    assert found.fill == pytest.approx(0.8, abs=0.05)


@pytest.mark.parametrize("value", [np.nan, 0.0, -1.0, np.inf, 50.0])
def test_no_reading_is_a_reason_not_an_error(value: float):
    box = np.array([100, 100, 160, 160.0])
    assert measure(np.full(SIZE_HW, value), box, TABLE) is NoDepth.NO_READING


def test_an_empty_table_has_no_object():
    depth, _ = cast([], T_BASE_CAMERA)
    noisy = add_stereo_noise(depth, np.random.default_rng(5))
    for background in (TABLE, None):
        assert measure(noisy, np.array([250, 200, 330, 270.0]), background) is NoDepth.NO_OBJECT


@pytest.mark.parametrize(
    "box", [[700, 10, 800, 50], [-50, 10, -5, 50], [10, 10, 10, 50], [30, 10, 20, 50], [np.nan, 0, 10, 10]]
)
def test_a_box_outside_or_without_area_is_outside(box: list[float]):
    assert measure(np.ones(SIZE_HW), np.array(box, dtype=np.float64)) is NoDepth.OUTSIDE


def test_a_box_over_the_border_is_clipped_and_cut_there():
    depth, hit = cast([cube(0.58, 0.02, 0.05)], T_BASE_CAMERA)
    rows, columns = np.nonzero(hit == 0)
    shifted = np.full(SIZE_HW, np.nan)
    middle = (columns.min() + columns.max()) // 2
    shifted[:, : 640 - middle] = depth[:, middle:]
    box = np.array([-20.0, rows.min(), columns.max() + 1 - middle, rows.max() + 1])
    found = measure(shifted, box)
    assert isinstance(found, BoxDepth)
    assert found.left_px == 0
    assert found.is_cut[:, 0].any()
    assert found.is_cut[:, 2:].sum() <= 2


def test_depth_in_millimetres_or_of_another_size_is_refused():
    good = np.full(SIZE_HW, 0.7, np.float32)
    check_depth(good, SIZE_HW)
    check_depth(np.full(SIZE_HW, np.nan, np.float32), SIZE_HW)
    with pytest.raises(DepthError, match="millimetres"):
        check_depth(1000 * good, SIZE_HW)
    with pytest.raises(DepthError, match="height, width"):
        check_depth(good[:240], SIZE_HW)


def test_sigma_grows_with_the_square_of_the_depth():
    assert CONFIG.sigma_m(1.0, F) == pytest.approx(0.08 / (386 * 0.095))
    assert CONFIG.sigma_m(2.0, F) == pytest.approx(4 * CONFIG.sigma_m(1.0, F))
