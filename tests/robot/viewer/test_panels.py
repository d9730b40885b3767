"""Pictures of a tick: depth in colours, words, and both fitted onto a canvas."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from handeye.robot.interfaces import Outcome, PolicyStatus
from handeye.robot.viewer.episode_view import (
    DEPTH_FAR_M,
    DEPTH_NEAR_M,
    GROUND,
    describe,
    draw_depth,
    draw_wrist,
    fit,
    write_lines,
)
from tests.robot.control.fake_devices import HOME, Bench, ListedPolicy


def test_nearer_is_brighter_and_no_reading_is_black() -> None:
    depths = np.linspace(DEPTH_NEAR_M, DEPTH_FAR_M, 20, dtype=np.float32)
    row = draw_depth(np.append(depths, np.float32(np.nan))[None])[0]
    brightness = row[:-1].astype(int).sum(axis=-1)
    assert (np.diff(brightness) <= 0).all()
    assert brightness[0] > brightness[-1]
    np.testing.assert_array_equal(row[-1], 0)


def test_depths_beyond_the_ends_take_the_end_colours() -> None:
    row = draw_depth(np.array([[0.01, DEPTH_NEAR_M, DEPTH_FAR_M, 5.0, np.inf]], np.float32))[0]
    np.testing.assert_array_equal(row[0], row[1])
    np.testing.assert_array_equal(row[2], row[3])


@pytest.mark.parametrize(
    ("image_hw", "size_hw"), [((480, 640), (240, 320)), ((100, 50), (240, 320)), ((3, 400), (240, 320))]
)
def test_a_fitted_image_is_whole_and_in_the_middle(image_hw: tuple[int, int], size_hw: tuple[int, int]) -> None:
    canvas = fit(np.full((*image_hw, 3), 255, np.uint8), size_hw)
    assert canvas.shape == (*size_hw, 3)
    rows, columns = np.nonzero((canvas == 255).all(axis=-1))
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert height == size_hw[0] or width == size_hw[1]
    assert abs(height / width - image_hw[0] / image_hw[1]) < 0.02
    assert abs(rows.min() - (size_hw[0] - 1 - rows.max())) <= 1


def test_words_say_the_stage_the_reason_and_the_gates() -> None:
    tick = Bench(ListedPolicy([HOME + 1.0])).run(1)[0]
    tick = replace(tick, status=PolicyStatus("grasp", Outcome.FAILED, "lost", attempts=2))
    text = "\n".join(describe(tick, ["look", "grasp"]))
    assert "[grasp]" in text
    assert "[look]" not in text
    assert "gave up: lost" in text
    assert "attempt 2" in text
    assert "gate: step" in text


def test_writing_changes_the_canvas_and_what_does_not_fit_is_left_out() -> None:
    canvas = np.full((60, 300, 3), GROUND, np.uint8)
    write_lines(canvas, ["one", "two", *["more"] * 50], top_px=0, left_px=4)
    assert (canvas != np.array(GROUND)).any()


def test_the_wrist_view_leaves_the_frame_as_it_was() -> None:
    percept = Bench(ListedPolicy([HOME])).run(1)[0].percept
    assert percept is not None
    before = percept.frame.image_rgb.copy()
    drawn = draw_wrist(percept)
    drawn[:] = 0
    np.testing.assert_array_equal(percept.frame.image_rgb, before)
