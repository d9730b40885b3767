"""What an episode leaves on disk can be read again, with and without a view from scene."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from handeye.robot.control.episode import CheckResult, EpisodeResult, run_episode
from handeye.robot.control.loop import Tick
from handeye.robot.control.recorder import read_recording
from handeye.robot.interfaces import Outcome, PolicyStatus
from handeye.robot.viewer.episode_view import (
    CAPTION_PX,
    CELL_HW,
    GAP_PX,
    ContactSheet,
    EpisodeFiles,
    SceneView,
    describe_result,
)
from handeye.vision.errors import UserError
from tests.robot.control.fake_devices import HOME, TASK, Bench, ListedPolicy


def white() -> np.ndarray:
    return np.full((480, 640, 3), 255, np.uint8)


def episode(num_ticks: int) -> tuple[list[Tick], EpisodeResult]:
    bench = Bench(ListedPolicy([HOME], ends_after=num_ticks))
    result = run_episode(bench.loop, TASK, lambda: CheckResult(success=True), seed=4, timeout_s=60.0)
    return bench.sink.ticks, result


def write(folder: Path, ticks: list[Tick], result: EpisodeResult, *, video: bool, scene: SceneView | None) -> None:
    with EpisodeFiles(folder, ["listed"], video=video, fps=10.0, scene=scene) as files:
        for tick in ticks:
            files.write(tick)
        files.finish(result)


@pytest.mark.parametrize("scene", [None, white])
def test_ticks_video_and_contact_sheet(tmp_path: Path, scene: SceneView | None) -> None:
    ticks, result = episode(30)
    write(tmp_path, ticks, result, video=True, scene=scene)
    assert len(read_recording(tmp_path / "ticks.jsonl")) == 30
    film = cv2.VideoCapture(str(tmp_path / "video.mp4"))
    images = [film.read() for _ in range(4)]
    assert [found for found, _ in images] == [True, True, True, False]
    assert images[0][1].shape == (720, 1280, 3)
    is_white = (images[0][1][:480, 640:].min(axis=-1) > 230).mean() > 0.9
    assert is_white == (scene is not None)
    sheet = cv2.imread(str(tmp_path / "contact_sheet.png"))
    assert sheet is not None
    num_rows = 2 if scene is None else 3
    assert sheet.shape == (2 * CAPTION_PX + num_rows * CELL_HW[0], CELL_HW[1], 3)


def test_without_video_only_the_ticks_are_kept_and_nothing_is_drawn(tmp_path: Path) -> None:
    def never() -> np.ndarray:
        raise AssertionError("an image was asked for")

    ticks, result = episode(15)
    write(tmp_path, ticks, result, video=False, scene=never)
    assert [path.name for path in tmp_path.iterdir()] == ["ticks.jsonl"]


def test_an_error_on_the_way_leaves_the_ticks_and_no_broken_video(tmp_path: Path) -> None:
    ticks, result = episode(15)

    def fails_later(calls: list[int]) -> np.ndarray:
        calls.append(1)
        if len(calls) > 1:
            raise RuntimeError("the camera scene is gone")
        return white()

    calls: list[int] = []
    with pytest.raises(RuntimeError, match="scene"):
        write(tmp_path, ticks, result, video=True, scene=lambda: fails_later(calls))
    assert [path.name for path in tmp_path.iterdir()] == ["ticks.jsonl"]
    assert len(read_recording(tmp_path / "ticks.jsonl")) == 14


def test_a_sheet_has_a_column_for_each_stage_seen_in_the_given_order(tmp_path: Path) -> None:
    tick = episode(1)[0][0]
    assert tick.percept is not None
    sheet = ContactSheet(["look", "grasp", "lift"])
    for stage in ("lift", "look", "look"):
        sheet.add(replace(tick, status=PolicyStatus(stage, Outcome.RUNNING)), tick.percept, None)
    sheet.save(tmp_path / "sheet.png", "two stages")
    image = cv2.imread(str(tmp_path / "sheet.png"))
    assert image is not None
    assert image.shape[1] == 2 * CELL_HW[1] + GAP_PX


def test_a_sheet_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no frame"):
        ContactSheet(["look"]).save(tmp_path / "sheet.png", "nothing")
    assert list(tmp_path.iterdir()) == []


def test_an_episode_in_one_line() -> None:
    _, result = episode(15)
    assert "placed" in describe_result(result)
    assert "failed (lost)" in describe_result(replace(result, success=False, reason="lost"))
