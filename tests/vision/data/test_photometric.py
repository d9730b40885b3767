"""Colour changes do what their numbers say, and nothing where the numbers are zero."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest

from handeye.vision.data.transforms import HsvConfig, jitter_hsv, shift_hsv

COLOURS = np.array([[[200, 40, 40], [40, 200, 40], [40, 40, 200], [200, 200, 40], [90, 120, 60]]], np.uint8)


def hsv(image: np.ndarray) -> np.ndarray:
    return np.array([[colorsys.rgb_to_hsv(*(pixel / 255.0)) for pixel in row] for row in image])


@pytest.mark.parametrize("turn", [0.0, 0.25, -0.25, 0.5])
def test_the_hue_turns_by_that_part_of_the_circle(turn):
    shifted = shift_hsv(COLOURS, hue_turn=turn, saturation_gain=1.0, value_gain=1.0)
    gap = (hsv(shifted)[..., 0] - hsv(COLOURS)[..., 0] - turn + 0.5) % 1 - 0.5
    assert np.abs(gap).max() < 0.01
    np.testing.assert_allclose(hsv(shifted)[..., 1:], hsv(COLOURS)[..., 1:], atol=0.02)


def test_saturation_and_value_are_multiplied_and_clipped():
    shifted = hsv(shift_hsv(COLOURS, hue_turn=0.0, saturation_gain=0.5, value_gain=2.0))
    np.testing.assert_allclose(shifted[..., 1], hsv(COLOURS)[..., 1] * 0.5, atol=0.02)
    np.testing.assert_allclose(shifted[..., 2], np.minimum(hsv(COLOURS)[..., 2] * 2, 1), atol=0.01)


def test_grey_stays_grey():
    grey = np.full((4, 4, 3), 114, np.uint8)
    np.testing.assert_array_equal(shift_hsv(grey, hue_turn=0.3, saturation_gain=2.0, value_gain=1.0), grey)


def test_zero_gains_change_nothing_but_rounding():
    noise = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    same = jitter_hsv(noise, HsvConfig(hue=0, saturation=0, value=0), np.random.default_rng(1))
    assert np.abs(same.astype(int) - noise).max() <= 5


def test_the_input_is_left_alone_and_the_generator_decides():
    before = COLOURS.copy()
    first, again, other = (jitter_hsv(COLOURS, HsvConfig(), np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(COLOURS, before)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
