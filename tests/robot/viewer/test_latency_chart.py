"""The chart of latencies: bars as high as their values, and a caption that can be checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from handeye.robot.control.episode import Punctuality
from handeye.robot.viewer.latency_chart import (
    COLOURS,
    HEIGHT_PX,
    LATE_COLOUR,
    WIDTH_PX,
    draw_latency,
    save_latency_chart,
)
from handeye.vision.errors import UserError

STAGES = ("camera", "perceive", "plan", "handover")


def punctuality(frames: list[list[float]]) -> Punctuality:
    return Punctuality(
        period_s=[0.008 * index for index in range(100)],
        lateness_ms=[0.1] * 99 + [3.0],
        missed={"woken_late": 1},
        frame_s=[0.1 * index for index in range(len(frames))],
        latency_ms=[sum(frame) for frame in frames],
        frame_ms={name: [frame[index] for frame in frames] for index, name in enumerate(STAGES)},
    )


def count(canvas: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((canvas == colour).all(axis=-1).sum())


def test_the_area_of_a_stage_is_its_part_of_the_time() -> None:
    canvas = draw_latency(punctuality([[10.0, 20.0, 5.0, 5.0], [12.0, 18.0, 6.0, 4.0], [11.0, 22.0, 4.0, 3.0]]))
    assert canvas.shape == (HEIGHT_PX, WIDTH_PX, 3)
    areas = np.array([count(canvas, colour) for colour in COLOURS])
    np.testing.assert_allclose(areas / areas.sum(), np.array([33.0, 60.0, 15.0, 12.0]) / 120.0, atol=0.03)
    assert count(canvas, LATE_COLOUR) > 50


def test_an_episode_without_a_frame_is_drawn_too() -> None:
    assert count(draw_latency(punctuality([])), COLOURS[0]) == 0


def test_it_is_saved_whole_or_not_at_all(tmp_path: Path) -> None:
    save_latency_chart(tmp_path / "latency.png", punctuality([[10.0, 20.0, 5.0, 5.0]]))
    assert (tmp_path / "latency.png").stat().st_size > 1000
    with pytest.raises(UserError, match="use .png"):
        save_latency_chart(tmp_path / "latency.txt", punctuality([]))
    assert [path.name for path in tmp_path.iterdir()] == ["latency.png"]
