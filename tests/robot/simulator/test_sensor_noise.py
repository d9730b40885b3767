"""The depth sensor's errors: how they grow, where they leave holes, and that a seed repeats them."""

from __future__ import annotations

import numpy as np
import pytest

from handeye.robot.simulator.sensor_noise import DepthNoiseConfig, depth_sigma_m, noisy_depth

FOCAL_PX = 386.0
ONLY_NOISE = DepthNoiseConfig(dropout_probability=0.0)


def flat(depth_m: float) -> np.ndarray:
    return np.full((200, 200), depth_m, np.float32)


def read(depth: np.ndarray, config: DepthNoiseConfig, seed: int = 0) -> np.ndarray:
    return noisy_depth(depth, FOCAL_PX, config, np.random.default_rng(seed))


@pytest.mark.parametrize("depth_m", [0.4, 0.8, 1.6])
def test_error_has_the_stereo_sigma_and_no_bias(depth_m: float) -> None:
    error = read(flat(depth_m), ONLY_NOISE) - depth_m
    expected = depth_m**2 * 0.1 / (FOCAL_PX * 0.095)
    quantisation = 0.001 / np.sqrt(12)
    assert error.std() == pytest.approx(np.hypot(expected, quantisation), rel=0.08)
    assert abs(error.mean()) < 0.1 * expected + 1e-5


def test_sigma_grows_with_the_square_of_depth() -> None:
    sigma = depth_sigma_m(np.array([0.5, 1.0, 2.0]), FOCAL_PX, ONLY_NOISE)
    np.testing.assert_allclose(sigma / sigma[0], [1, 4, 16])


def test_neighbouring_errors_are_alike_and_distant_ones_are_not() -> None:
    error = read(flat(1.5), ONLY_NOISE) - 1.5
    neighbours = np.corrcoef(error[:, :-1].ravel(), error[:, 1:].ravel())[0, 1]
    distant = np.corrcoef(error[:, :-20].ravel(), error[:, 20:].ravel())[0, 1]
    assert neighbours > 0.5
    assert abs(distant) < 0.05


def test_readings_are_whole_millimetres() -> None:
    millimetres = read(flat(0.7), ONLY_NOISE).astype(float) * 1000
    np.testing.assert_allclose(millimetres, np.round(millimetres), atol=1e-3)


def test_steps_in_depth_leave_ragged_holes_and_flat_parts_none() -> None:
    depth = flat(0.6)
    depth[:, 100:] = 0.5
    holes = np.isnan(read(depth, ONLY_NOISE))
    assert holes[:, 99:101].all()
    for column in (98, 101):
        assert holes[:, column].mean() == pytest.approx(0.6, abs=0.15)
    assert not holes[:, :98].any()
    assert not holes[:, 102:].any()


def test_grazing_surfaces_give_nothing_and_facing_ones_do() -> None:
    # A plane whose normal makes an angle with the optical axis: 1 / z is linear in the pixel.
    u = (np.arange(200) - 100) / FOCAL_PX
    for degrees, expected in ((60.0, 0.0), (85.0, 1.0)):
        depth = (0.6 / (1 + np.tan(np.radians(degrees)) * u)).clip(0.3, 3.0)
        middle = np.isnan(read(np.tile(depth.astype(np.float32), (200, 1)), ONLY_NOISE))[:, 95:105]
        assert middle.mean() == expected


def test_nothing_is_read_outside_the_range_or_in_the_sky() -> None:
    for depth_m in (0.1, 7.0, np.inf):
        assert np.all(np.isnan(read(flat(depth_m), ONLY_NOISE)))
    assert not np.any(np.isnan(read(flat(0.3), ONLY_NOISE)))


def test_dropouts_come_as_often_as_said() -> None:
    config = DepthNoiseConfig(dropout_probability=0.1)
    assert np.isnan(read(flat(0.6), config)).mean() == pytest.approx(0.1, abs=0.01)


def test_switched_off_it_is_perfect_and_nan_where_nothing_is() -> None:
    depth = flat(0.1234567)
    depth[0, 0] = np.inf
    reading = read(depth, DepthNoiseConfig(enabled=False))
    assert np.isnan(reading[0, 0])
    np.testing.assert_array_equal(reading.ravel()[1:], depth.ravel()[1:])


def test_a_seed_repeats_the_reading_and_another_does_not() -> None:
    first, again, other = (read(flat(1.0), DepthNoiseConfig(), seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.mean(first != other) > 0.5
