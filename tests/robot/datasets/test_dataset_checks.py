"""Each fault of a data set is named with its episode, and nothing else is; a sound set is passed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from handeye.robot.config import WorkCellConfig
from handeye.robot.datasets import dataset_checks as checks
from handeye.robot.datasets import episode_checks as of_episode
from handeye.robot.datasets.dataset_checks import check_demonstrations
from handeye.robot.datasets.episode_checks import CheckSettings, DataProblem, is_moving, longest_run
from handeye.robot.datasets.format import Episode, numbers
from handeye.robot.datasets.reader import EpisodeDataset
from handeye.robot.datasets.video import write_video
from handeye.robot.datasets.writer import EpisodeWriter
from handeye.tools.command_line import run_command
from handeye.vision.errors import DatasetError
from tests.robot.datasets.drawn_episodes import FPS, SIZE_HW, draw_episode, open_writer

LENGTH = 24
TOP, DEPTH = "observation.images.top", "depth.top"


def write(folder: Path, *episodes: Episode) -> Path:
    writer = open_writer(folder)
    for episode in episodes:
        writer.add(episode)
    return folder


def drawn(number: int, **changed: np.ndarray) -> Episode:
    episode = draw_episode(number, LENGTH)
    return replace(episode, columns=dict(episode.columns) | {name.replace("__", "."): v for name, v in changed.items()})


def three(folder: Path) -> Path:
    return write(folder, *(drawn(number) for number in range(3)))


def rewrite(folder: Path, index: int, key: str, change: Callable[[np.ndarray], Any]) -> None:
    """Put other values into one column of an episode's file, as no writer of ours would."""
    path = folder / f"data/chunk-000/file-{index:03d}.parquet"
    table = pq.read_table(path)
    values = np.array(table.column(key).to_pylist())
    changed = change(values)
    column = pa.array(changed.tolist(), table.schema.field(key).type)
    pq.write_table(table.set_column(table.column_names.index(key), key, column), path)


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def findings(folder: Path, **settings: float) -> list[DataProblem]:
    report = check_demonstrations(EpisodeDataset.open(folder), WorkCellConfig(), CheckSettings(**settings))
    return list(report.findings)


def only(folder: Path, **settings: float) -> DataProblem:
    found = findings(folder, **settings)
    assert len(found) == 1, found
    return found[0]


def at(frame: int, value: object) -> Callable[[np.ndarray], np.ndarray]:
    def change(values: np.ndarray) -> np.ndarray:
        changed = values.copy()
        changed[frame] = value
        return changed

    return change


def test_a_sound_set_is_passed(tmp_path: Path) -> None:
    report = check_demonstrations(EpisodeDataset.open(three(tmp_path)), WorkCellConfig(), CheckSettings())
    assert not report.findings
    assert report.lengths == {0: LENGTH, 1: LENGTH, 2: LENGTH}
    assert report.statistics["action"]["count"] == [3 * LENGTH]


def test_numbers_that_are_not_finite(tmp_path: Path) -> None:
    rewrite(three(tmp_path), 1, "action", at(4, [0.5, np.nan]))
    found = only(tmp_path)
    assert (found.kind, found.episode) == (of_episode.NOT_FINITE, 1)
    assert found.item == "action: y in 1 frames, the first is 4"


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (lambda stamps: np.where(np.arange(LENGTH) == 9, stamps[7], stamps), of_episode.BACKWARDS, "in frame 9"),
        (lambda stamps: stamps + 0.4 * (np.arange(LENGTH) >= 7), of_episode.GAP, "0.500 s pass before frame 7"),
        (lambda stamps: stamps[0] + 2 * (stamps - stamps[0]), of_episode.RATE, "0.2000 s, but the data set has 10"),
    ],
)
def test_clocks_that_do_not_tick_with_the_frames(
    tmp_path: Path, change: Callable[[np.ndarray], np.ndarray], kind: str, words: str
) -> None:
    rewrite(three(tmp_path), 2, "timestamp", lambda stamps: change(stamps).astype(np.float32))
    found = findings(tmp_path)
    assert found[0].kind == kind
    assert found[0].episode == 2
    assert found[0].item.startswith("timestamp: ")
    assert words in found[0].item
    # Frames are found by these stamps.
    assert {finding.kind for finding in found} <= {kind, of_episode.GAP, checks.NO_IMAGES}


def test_a_recorded_clock_is_held_to_the_rate_too(tmp_path: Path) -> None:
    write(tmp_path, drawn(0, stamp_s=np.arange(LENGTH) / FPS / 1.5))
    assert only(tmp_path).kind == of_episode.RATE


def test_counters_that_do_not_count(tmp_path: Path) -> None:
    rewrite(three(tmp_path), 1, "frame_index", at(3, 8))
    rewrite(tmp_path, 2, "index", lambda values: values - 5)
    assert [(found.kind, found.episode, found.item) for found in findings(tmp_path)] == [
        (of_episode.BOOKS, 1, "frame_index is 8 in frame 3, expected 3"),
        (of_episode.BOOKS, 2, f"index is {2 * LENGTH - 5} in frame 0, expected {2 * LENGTH}"),
    ]


def held(values: np.ndarray, first: int, length: int) -> np.ndarray:
    values = values.copy()
    values[first : first + length] = values[first]
    return values


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("observation.state", "the same in 12 frames from frame 5 on"),
        (TOP, "one image in 12 frames from frame 5 on"),
        (DEPTH, "one image in 12 frames from frame 5 on"),
    ],
)
def test_a_stream_that_stands_still_while_others_go_on(tmp_path: Path, key: str, words: str) -> None:
    episode = drawn(0)
    columns = dict(episode.columns) | {key: held(episode.columns[key], 5, 12)}
    write(tmp_path, replace(episode, columns=columns), drawn(1))
    found = only(tmp_path)
    assert (found.kind, found.episode, found.item) == (of_episode.FROZEN, 0, f"{key}: {words}")
    assert not findings(tmp_path, frozen_s=1.3)


def test_an_image_that_changes_slowly_is_no_frozen_stream(tmp_path: Path) -> None:
    levels = np.arange(100, 100 + 2 * LENGTH, 2, dtype=np.uint16)
    write(tmp_path, drawn(0, depth__top=np.broadcast_to(levels[:, None, None], (LENGTH, *SIZE_HW)).copy()))
    assert not findings(tmp_path)


def test_an_arm_that_rests_is_no_frozen_stream(tmp_path: Path) -> None:
    episode = drawn(0)
    resting = {key: held(episode.columns[key], 5, 12) for key in ("observation.state", "action", TOP)}
    write(tmp_path, replace(episode, columns=dict(episode.columns) | resting))
    assert not findings(tmp_path)


def test_actions_that_never_change(tmp_path: Path) -> None:
    write(tmp_path, drawn(0, action=np.ones((LENGTH, 2), np.float32)))
    assert only(tmp_path).item == f"action: the same in all {LENGTH} frames"


def test_missing_streams(tmp_path: Path) -> None:
    features = {"observation.state": numbers(("a", "b"))}
    writer = EpisodeWriter.open(tmp_path, FPS, features, "test arm")
    states = np.random.default_rng(0).normal(size=(LENGTH, 2)).astype(np.float32)
    writer.add(Episode({"observation.state": states}, "lift"))
    told = "action is missing; recorded are observation.state (--action-key takes another)"
    assert only(tmp_path) == DataProblem(checks.NO_STREAM, told)


def test_missing_pictures(tmp_path: Path) -> None:
    video = three(tmp_path) / f"videos/{TOP}/chunk-000/file-001.mp4"
    write_video(video, np.zeros((LENGTH - 3, *SIZE_HW, 3), np.uint8), FPS)
    found = only(tmp_path)
    assert (found.kind, found.episode) == (checks.NO_IMAGES, 1)
    assert "episode 1: " in found.item
    assert f"no frame within half a period of 2.100 s (row {LENGTH - 3}) nor for 2 other rows" in found.item
    video.unlink()
    assert only(tmp_path).kind == checks.NO_IMAGES


def test_images_of_another_size_and_videos_of_another_rate(tmp_path: Path) -> None:
    video = three(tmp_path) / f"videos/{TOP}/chunk-000/file-001.mp4"
    write_video(video, np.zeros((LENGTH, 16, 24, 3), np.uint8), FPS)
    edit(tmp_path / "meta/info.json", lambda info: info["features"][TOP]["info"].update({"video.fps": 30}))
    assert [(found.kind, found.episode) for found in findings(tmp_path)] == [
        (checks.OTHER_RATE, None),
        (checks.OTHER_SIZE, 1),
    ]


def test_fewer_rows_than_described_and_lost_files(tmp_path: Path) -> None:
    path = three(tmp_path) / "data/chunk-000/file-001.parquet"
    pq.write_table(pq.read_table(path).slice(0, LENGTH - 1), path)
    (tmp_path / "data/chunk-000/file-002.parquet").unlink()
    found = findings(tmp_path)
    assert [(one.kind, one.episode) for one in found] == [(checks.UNREADABLE, 1), (checks.UNREADABLE, 2)]
    assert f"expected {LENGTH} frames of episode 1, found {LENGTH - 1}" in found[0].item


def test_short_and_repeated_episodes(tmp_path: Path) -> None:
    write(tmp_path, drawn(0), draw_episode(1, 6), drawn(0))
    assert findings(tmp_path) == [
        DataProblem(of_episode.SHORT, "6 frames, 0.60 s", 1),
        DataProblem(checks.DUPLICATE, "the states and actions of episode 0", 2),
    ]
    assert [found.kind for found in findings(tmp_path, shortest_s=0.5)] == [checks.DUPLICATE]


@pytest.mark.parametrize("name", ["min", "max", "mean", "std"])
def test_statistics_of_other_data(tmp_path: Path, name: str) -> None:
    def shift(stats: dict[str, Any]) -> None:
        stats["action"][name][1] += 0.01

    edit(three(tmp_path) / "meta/stats.json", shift)
    found = only(tmp_path)
    assert (found.kind, found.episode) == (checks.OTHER_STATISTICS, None)
    assert found.item.startswith(f"action: {name} of number 1 is ")


def in_float32(values: np.ndarray) -> dict[str, list[float]]:
    """Mean and deviation as LeRobot 0.4 has them: the root of a difference of two sums in float32."""
    mean = values.mean(axis=0)
    variance = (values**2).mean(axis=0) - mean**2
    return {"mean": mean.tolist(), "std": np.sqrt(np.maximum(variance, 0)).tolist()}


@pytest.mark.parametrize("length", [30, 1000])
def test_the_rounding_of_lerobots_statistics_is_no_fault(tmp_path: Path, length: int) -> None:
    """A number that stands still has a deviation of thousands of its last digit there."""
    actions = np.tile(np.array([0.459267, -2.2, 0.04], np.float32), (length, 1))
    actions[:, 1] += 0.3 * np.sin(np.arange(length) / 20).astype(np.float32)
    arm_set(tmp_path, actions)
    stated = in_float32(actions)
    assert max(stated["std"][0], stated["std"][2]) > 1e-5, "nothing was rounded"
    edit(tmp_path / "meta/stats.json", lambda stats: stats["action"].update(stated))
    assert checks.OTHER_STATISTICS not in {found.kind for found in findings(tmp_path)}
    edit(tmp_path / "meta/stats.json", lambda stats: stats["action"].update(std=[0.05, *stated["std"][1:]]))
    assert checks.OTHER_STATISTICS in {found.kind for found in findings(tmp_path)}


def test_statistics_of_other_pictures(tmp_path: Path) -> None:
    edit(three(tmp_path) / "meta/stats.json", lambda stats: stats[TOP].update(mean=[[[0.9]], [[0.9]], [[0.9]]]))
    assert only(tmp_path).kind == checks.OTHER_STATISTICS


def without_pictures(folder: Path, names: tuple[str, ...], actions: np.ndarray) -> Path:
    features = {"observation.state": numbers(("a",)), "action": numbers(names)}
    states = np.random.default_rng(0).normal(size=len(actions)).astype(np.float32)
    EpisodeWriter.open(folder, FPS, features, "ur10e").add(
        Episode({"observation.state": states, "action": actions.astype(np.float32)}, "pick")
    )
    return folder


def arm_set(folder: Path, actions: np.ndarray) -> Path:
    return without_pictures(folder, ("qpos_target_1", "qpos_target_3", "gripper_target_m"), actions)


def arm_actions() -> np.ndarray:
    time_s = np.arange(LENGTH) / FPS
    return np.stack([np.sin(time_s), 2 + np.cos(time_s), 0.085 * (time_s > 1)], axis=1)


def test_joints_out_of_range_or_too_fast(tmp_path: Path) -> None:
    assert not findings(arm_set(tmp_path / "sound", arm_actions()))
    turned, jumped, wide = arm_actions(), arm_actions(), arm_actions()
    turned[:, 1] += 0.5
    jumped[10:, 0] += 0.4
    wide[15, 2] = 0.1
    assert only(arm_set(tmp_path / "turned", turned)).item == (
        "action: qpos_target_3 is 3.5 in frame 0, allowed -3.142 to 3.142"
    )
    found = only(arm_set(tmp_path / "jumped", jumped))
    assert found.kind == of_episode.TOO_FAST
    assert "qpos_target_1 changes by 4.58 per second before frame 10, allowed 2.09" in found.item
    assert only(arm_set(tmp_path / "wide", wide)).kind == of_episode.OUT_OF_RANGE


def test_actions_that_jump_far_beyond_their_usual_steps(tmp_path: Path) -> None:
    path = np.cumsum(np.random.default_rng(2).normal(size=(300, 2)), axis=0).astype(np.float32)
    path[:, 1] = np.arange(300) // 7 % 2  # a switch: none of its steps stands out
    assert not findings(without_pictures(tmp_path / "walk", ("x", "switch"), path))
    path[150:, 0] += 40
    found = only(without_pictures(tmp_path / "jump", ("x", "switch"), path))
    assert (found.kind, found.episode) == (checks.JUMP, 0)
    assert "x jumps by" in found.item
    assert "before frame 150" in found.item


def test_the_longest_stretch_without_a_change() -> None:
    assert longest_run(np.array([], bool)) == (0, 1)
    assert longest_run(np.array([True, True])) == (0, 1)
    assert longest_run(np.array([False, False])) == (0, 3)
    assert longest_run(np.array([True, False, False, True, False])) == (1, 3)


def test_moving_is_a_notable_part_of_what_is_done() -> None:
    values = np.stack([np.linspace(0, 1, 50), np.zeros(50)], axis=1)
    assert is_moving(values, 10, 20)
    assert not is_moving(values, 10, 2)
    assert not is_moving(values, 10, 0)


def test_the_verb_tells_found_sound_and_unreadable_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, file = three(tmp_path / "set"), tmp_path / "result.json"
    assert run_command(["check-demonstrations", str(folder), "--json", str(file)]) == 0
    assert "nothing wrong found" in capsys.readouterr().out
    assert json.loads(file.read_text())["numbers"]["action y"]["max"] > 0
    rewrite(folder, 1, "action", at(4, [np.inf, 0.0]))
    assert run_command(["check-demonstrations", str(folder), "--json", str(file)]) == 1
    assert "episode 1: action: x in 1 frames, the first is 4" in capsys.readouterr().out
    result = json.loads(file.read_text())
    assert (result["episodes"], result["frames"], result["fps"]) == (3, 3 * LENGTH, FPS)
    assert result["problems"] == {of_episode.NOT_FINITE: 1}
    assert result["findings"][0]["episode"] == 1
    assert run_command(["check-demonstrations", str(tmp_path / "nowhere")]) == 2
    open_writer(tmp_path / "empty")
    assert run_command(["check-demonstrations", str(folder), "--frozen-s", "0"]) == 2
    edit(folder / "meta/info.json", lambda info: info.update(total_frames=7))
    with pytest.raises(DatasetError):
        EpisodeDataset.open(folder)
    assert run_command(["check-demonstrations", str(folder)]) == 2
