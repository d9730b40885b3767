"""Frames of a video belong to rows by their time stamps, whatever is missing, shifted or in between."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from handeye.robot.config import WorkCellConfig
from handeye.robot.datasets import dataset_checks as checks
from handeye.robot.datasets.dataset_checks import check_demonstrations
from handeye.robot.datasets.episode_checks import CheckSettings
from handeye.robot.datasets.reader import EpisodeDataset
from handeye.robot.datasets.video import read_video
from handeye.vision.errors import DatasetError
from tests.robot.datasets.drawn_episodes import FPS, SIZE_HW, draw_episode, open_writer

PERIOD_S = 1.0 / FPS
TOP = "observation.images.top"


def write_levels(path: Path, levels_at: Iterable[tuple[int, float]], options: dict[str, str] | None = None) -> Path:
    """A video whose frames are one grey each, at times of their own (s)."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=FPS, options=options or {"crf": "10"})
        stream.height, stream.width = SIZE_HW
        stream.pix_fmt, stream.codec_context.time_base = "yuv420p", Fraction(1, 1000)
        for level, at_s in levels_at:
            frame = av.VideoFrame.from_ndarray(np.full((*SIZE_HW, 3), level, np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(1000 * at_s), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def levels_of(images: np.ndarray) -> list[int]:
    return (images.mean(axis=(1, 2, 3)) / 10).round().astype(int).tolist()


def frames(num: int) -> list[tuple[int, float]]:
    return [(10 * (number + 1), number * PERIOD_S) for number in range(num)]


def test_each_row_has_the_frame_of_its_time(tmp_path: Path) -> None:
    path = write_levels(tmp_path / "a.mp4", frames(20), {"crf": "10", "bf": "2", "g": "12"})
    for first in (0, 7, 13):
        stamps_s = first * PERIOD_S + np.arange(5) * PERIOD_S
        assert levels_of(read_video(path, stamps_s, PERIOD_S)) == [first + number + 1 for number in range(5)]


def test_stamps_of_a_clock_that_jitters_by_less_than_half_a_frame(tmp_path: Path) -> None:
    path = write_levels(tmp_path / "a.mp4", frames(10))
    late = np.arange(10) * PERIOD_S + 0.4 * PERIOD_S * np.sin(np.arange(10))
    assert levels_of(read_video(path, late, PERIOD_S)) == list(range(1, 11))


def test_a_frame_more_than_the_rows_have_shifts_nothing(tmp_path: Path) -> None:
    twice = sorted([*frames(10), (250, 0.55)], key=lambda one: one[1])
    path = write_levels(tmp_path / "a.mp4", twice)
    assert levels_of(read_video(path, np.arange(10) * PERIOD_S, PERIOD_S)) == list(range(1, 11))


@pytest.mark.parametrize("lost", [0, 4, 9])
def test_a_lost_frame_is_named_and_never_replaced_by_its_neighbour(tmp_path: Path, lost: int) -> None:
    path = write_levels(tmp_path / "a.mp4", [one for number, one in enumerate(frames(14)) if number != lost])
    with pytest.raises(DatasetError, match=rf"no frame within half a period of 0\.{lost}00 s \(row {lost}\)$"):
        read_video(path, np.arange(10) * PERIOD_S, PERIOD_S)


def test_stamps_that_are_no_numbers(tmp_path: Path) -> None:
    path = write_levels(tmp_path / "a.mp4", frames(3))
    with pytest.raises(DatasetError, match="NaN or infinity"):
        read_video(path, np.array([0.0, np.nan, 0.2]), PERIOD_S)


def test_a_data_set_with_a_lost_frame_names_episode_and_time(tmp_path: Path) -> None:
    writer = open_writer(tmp_path)
    for number in range(2):
        writer.add(draw_episode(number, 20))
    write_levels(
        tmp_path / f"videos/{TOP}/chunk-000/file-001.mp4",
        [one for number, one in enumerate(frames(20)) if number != 11],
    )
    dataset = EpisodeDataset.open(tmp_path)
    with pytest.raises(DatasetError, match=r"^episode 1: .*file-001\.mp4: no frame within half a period of 1\.100 s"):
        dataset.read_images(1, TOP)
    (found,) = check_demonstrations(dataset, WorkCellConfig(), CheckSettings()).findings
    assert (found.kind, found.episode) == (checks.NO_IMAGES, 1)
    assert "1.100 s (row 11)" in found.item
