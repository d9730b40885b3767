"""The colour sensor: neutral settings change nothing, each effect does what its name says."""

from __future__ import annotations

import numpy as np
import pytest

from handeye.robot.simulator.appearance import ImageEffects
from handeye.robot.simulator.sensor_noise import apply_sensor_model, gaussian_noise


def gradient() -> np.ndarray:
    return np.broadcast_to(np.arange(0, 240, 2, dtype=np.uint8)[None, :, None], (60, 120, 3)).copy()


def developed(effects: ImageEffects, seed: int = 0) -> np.ndarray:
    return apply_sensor_model(gradient(), effects, np.random.default_rng(seed))


def test_neutral_effects_change_nothing() -> None:
    np.testing.assert_array_equal(developed(ImageEffects()), gradient())


def test_gain_scales_channels_and_saturates() -> None:
    image = developed(ImageEffects(gain_rgb=(0.5, 1.0, 2.0)))
    expected = np.clip(gradient() * np.array([0.5, 1.0, 2.0]), 0, 255)
    assert np.abs(image - expected).max() <= 0.51


def test_gamma_keeps_black_and_darkens_or_lightens_the_middle() -> None:
    dark, light = developed(ImageEffects(gamma=1.2)), developed(ImageEffects(gamma=0.8))
    middle = (slice(None), slice(20, 100))
    assert np.all(dark[middle] < gradient()[middle])
    assert np.all(light[middle] > gradient()[middle])
    assert np.all(dark[:, 0] == 0)


def test_blur_spreads_a_point_and_keeps_its_light() -> None:
    image = np.zeros((41, 41, 3), np.uint8)
    image[20, 20] = 200
    blurred = apply_sensor_model(image, ImageEffects(blur_px=1.0), np.random.default_rng(0)).astype(float)
    assert blurred[20, 20, 0] == pytest.approx(200 / (2 * np.pi), rel=0.08)
    assert blurred.sum() == pytest.approx(image.astype(float).sum(), rel=0.05)


def test_noise_has_the_level_asked_for_no_bias_and_repeats_by_seed() -> None:
    noise = developed(ImageEffects(noise=4.0), 3).astype(float)[:, 20:100] - gradient()[:, 20:100]
    assert noise.std() == pytest.approx(4.0, rel=0.05)
    assert abs(noise.mean()) < 0.15
    np.testing.assert_array_equal(developed(ImageEffects(noise=4.0), 3), developed(ImageEffects(noise=4.0), 3))


def test_gaussian_noise_is_normal_up_to_its_cut() -> None:
    values = gaussian_noise((400, 400), 2.0, np.random.default_rng(0))
    assert values.std() == pytest.approx(2.0, rel=0.01)
    assert np.mean(np.abs(values) < 2.0) == pytest.approx(0.6827, abs=0.01)
    assert np.abs(values).max() < 6.0
