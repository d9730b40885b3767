"""LeRobot's data sets v2.1 and v2.0: the same episodes as in v3.0, and what is broken told by file and entry."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from handeye.robot.config import WorkCellConfig
from handeye.robot.datasets.dataset_checks import check_demonstrations
from handeye.robot.datasets.episode_checks import CheckSettings
from handeye.robot.datasets.format import BOOK_KEEPING, Episode
from handeye.robot.datasets.reader import EpisodeDataset
from handeye.robot.datasets.video import write_video
from handeye.robot.learning.data import read_frames, signature_of
from handeye.tools.command_line import run_command
from handeye.vision.errors import DatasetError
from tests.robot.datasets.drawn_episodes import FEATURES, FPS, SIZE_HW, draw_episode, open_writer

LENGTHS = (12, 10, 15)
TOP, DEPTH = "observation.images.top", "depth.top"
TASKS = ("lift", "push")
CHUNK = 2
"""Episodes in a folder."""


def episodes() -> list[Episode]:
    return [draw_episode(index, length, TASKS[index % 2]) for index, length in enumerate(LENGTHS)]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def edit_lines(path: Path, change: Callable[[list[dict[str, Any]]], object]) -> None:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    change(rows)
    write_lines(path, rows)


def counters(index: int) -> dict[str, np.ndarray]:
    length, begin = LENGTHS[index], sum(LENGTHS[:index])
    return {
        "timestamp": (np.arange(length) / FPS).astype(np.float32),
        "frame_index": np.arange(length),
        "episode_index": np.full(length, index),
        "index": begin + np.arange(length),
        "task_index": np.full(length, index % 2),
    }


def to_arrow(key: str, values: np.ndarray) -> pa.Array:
    if key == DEPTH:
        return pa.array([{"bytes": cv2.imencode(".png", image)[1].tobytes(), "path": None} for image in values])
    return pa.array(values.tolist(), pa.list_(pa.float32()) if values.ndim == 2 else None)


def statistics(columns: dict[str, np.ndarray]) -> dict[str, dict[str, list[Any]]]:
    """As v2.1 has them: of every number, and of images by channel."""
    stats = {}
    for key, values in columns.items():
        if values.dtype == object:
            continue
        rows = values.reshape(len(values), -1).astype(np.float64)
        if key in (TOP, DEPTH):
            rows = values.reshape(-1, values.shape[3] if values.ndim == 4 else 1) / (255.0 if key == TOP else 1.0)
        found = {"min": rows.min(0), "max": rows.max(0), "mean": rows.mean(0), "std": rows.std(0)}
        shape = (-1, 1, 1) if key in (TOP, DEPTH) else (-1,)
        stats[key] = {name: value.reshape(shape).tolist() for name, value in found.items()} | {"count": [len(values)]}
    return stats


def write_v2(folder: Path, version: str = "v2.1") -> None:
    described, stated = [], []
    for index, episode in enumerate(episodes()):
        columns = dict(episode.columns) | counters(index)
        chunk = f"chunk-{index // CHUNK:03d}"
        video = folder / f"videos/{chunk}/{TOP}/episode_{index:06d}.mp4"
        video.parent.mkdir(parents=True, exist_ok=True)
        write_video(video, columns[TOP], FPS)
        table = pa.table({key: to_arrow(key, values) for key, values in columns.items() if key != TOP})
        (folder / f"data/{chunk}").mkdir(parents=True, exist_ok=True)
        pq.write_table(table, folder / f"data/{chunk}/episode_{index:06d}.parquet")
        described.append({"episode_index": index, "tasks": [episode.task], "length": len(episode)})
        stated.append({"episode_index": index, "stats": statistics(columns)})
    write_lines(folder / "meta/episodes.jsonl", described)
    write_lines(folder / "meta/tasks.jsonl", [{"task_index": k, "task": task} for k, task in enumerate(TASKS)])
    if version == "v2.1":
        write_lines(folder / "meta/episodes_stats.jsonl", stated)
    features = {
        key: {"dtype": feature.dtype, "shape": list(feature.shape), "names": feature.names and list(feature.names)}
        for key, feature in (FEATURES | BOOK_KEEPING).items()
    }
    # As LeRobot's first converters named the axes of a camera.
    features[TOP] |= {
        "shape": [3, *SIZE_HW],
        "names": ["channels", "height", "width"],
        "video_info": {"video.fps": FPS},
    }
    info = {
        "codebase_version": version,
        "robot_type": "test arm",
        "total_episodes": len(LENGTHS),
        "total_frames": sum(LENGTHS),
        "total_tasks": len(TASKS),
        "total_videos": len(LENGTHS),
        "total_chunks": 2,
        "chunks_size": CHUNK,
        "fps": FPS,
        "splits": {"train": f"0:{len(LENGTHS)}"},
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": features,
    }
    (folder / "meta/info.json").write_text(json.dumps(info))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_v2(tmp_path / "set")
    return tmp_path / "set"


@pytest.mark.parametrize("version", ["v2.1", "v2.0"])
def test_the_same_episodes_are_read_as_from_v3(tmp_path: Path, version: str) -> None:
    writer = open_writer(tmp_path / "new")
    for episode in episodes():
        writer.add(episode)
    write_v2(tmp_path / "old", version)
    old, new = (EpisodeDataset.open(tmp_path / name) for name in ("old", "new"))
    assert (old.num_episodes, old.num_frames, old.fps, old.tasks) == (3, sum(LENGTHS), FPS, list(TASKS))
    assert old.features == new.features
    for index in range(3):
        one, other = old.read_episode(index), new.read_episode(index)
        assert one.task == other.task
        assert one.columns.keys() == other.columns.keys()
        for key, values in other.columns.items():
            np.testing.assert_array_equal(one.columns[key], values)
            assert one.columns[key].dtype == values.dtype
        for key in (TOP, DEPTH):
            np.testing.assert_array_equal(old.read_images(index, key), new.read_images(index, key))
    for key, row in new.stats.items():
        if old.features[key].holds_images and version == "v2.0":
            continue  # not stored with counts, and not measured
        for name in ("min", "max", "mean", "std", "count"):
            np.testing.assert_allclose(old.stats[key][name], row[name], rtol=1e-9, atol=1e-12)
    assert not check_demonstrations(old, WorkCellConfig(), CheckSettings()).findings
    signature = signature_of(old, ("top",), SIZE_HW)
    assert signature == signature_of(new, ("top",), SIZE_HW)
    for name in ("state", "actions", "ends"):
        frames = [getattr(read_frames(dataset, (0, 2), signature), name) for dataset in (old, new)]
        np.testing.assert_array_equal(*frames)


def test_frames_belong_to_rows_by_time(folder: Path) -> None:
    write_video(folder / f"videos/chunk-000/{TOP}/episode_000001.mp4", draw_episode(1, 9).columns[TOP], FPS)
    with pytest.raises(DatasetError, match=r"episode 1: .*episode_000001\.mp4: no frame within .* 0\.900 s \(row 9\)"):
        EpisodeDataset.open(folder).read_images(1, TOP)


def test_lines_in_any_order_and_names_beyond_ascii(folder: Path) -> None:
    edit_lines(folder / "meta/episodes.jsonl", lambda rows: rows.reverse())
    edit_lines(folder / "meta/episodes_stats.jsonl", lambda rows: rows.reverse())
    # U+2028 ends a line in Python's eyes, and not in JSON's.
    edit_lines(folder / "meta/tasks.jsonl", lambda rows: rows[1].update(task="schieben\u2028links", task_index=7))
    dataset = EpisodeDataset.open(folder)
    assert [dataset.episode_length(index) for index in range(3)] == list(LENGTHS)
    assert dataset.tasks == ["lift", "schieben\u2028links"]
    with pytest.raises(DatasetError, match=r"episode_000001\.parquet: names task 1, but there are 2"):
        dataset.read_episode(1)


@pytest.mark.parametrize("change", [lambda rows: rows.pop(1), lambda rows: rows[2]["stats"].clear()])
def test_statistics_that_lack_an_episode_are_measured(folder: Path, change: Callable[[list], object]) -> None:
    before = EpisodeDataset.open(folder).stats
    edit_lines(folder / "meta/episodes_stats.jsonl", change)
    after = EpisodeDataset.open(folder).stats
    for name, value in before["action"].items():
        np.testing.assert_allclose(after["action"][name], value, rtol=1e-9)


def test_statistics_of_another_episode_are_refused(folder: Path) -> None:
    edit_lines(folder / "meta/episodes_stats.jsonl", lambda rows: rows[2]["stats"].update(rows[0]["stats"]))
    with pytest.raises(DatasetError, match=r"episodes_stats\.jsonl: episode 2: .*over 12 frames there, .* 15 frames"):
        EpisodeDataset.open(folder)


def test_the_files_decide_where_the_version_is_untrue(folder: Path, tmp_path: Path) -> None:
    """Editors write v2.1 into a set in the layout of v3.0, and the other way round."""
    writer = open_writer(tmp_path / "new")
    for episode in episodes():
        writer.add(episode)
    for place, version in ((folder, "v3.0"), (tmp_path / "new", "v2.1")):
        path = place / "meta/info.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"codebase_version": version}))
        columns = EpisodeDataset.open(place).read_episode(2).columns
        np.testing.assert_array_equal(columns["action"], draw_episode(2, 15).columns["action"])


def test_a_set_of_v2_is_not_recorded_into(folder: Path) -> None:
    with pytest.raises(DatasetError, match=r"is a data set v2\.1, which is only read; record into another folder"):
        open_writer(folder)


EPISODES, STATS, ROWS = "meta/episodes.jsonl", "meta/episodes_stats.jsonl", "data/chunk-001/episode_000002.parquet"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        (EPISODES, '{"episode_index": 0, "length": 12}\n{"episode', "episodes.jsonl, line 2: not JSON"),
        (EPISODES, '{"episode_index": 0}\n', "episodes.jsonl, line 1: has no length"),
        (EPISODES, '{"episode_index": 0, "length": "12"}\n', "line 1: length is '12', expected a whole number"),
        (
            EPISODES,
            '{"episode_index": 0, "length": 12}\n',
            "counts 3 episodes, meta/episodes.jsonl describes 1 of them",
        ),
        (EPISODES, "".join(f'{{"episode_index": {k}, "length": 9}}\n' for k in range(3)), "counts 37 frames, "),
        ("meta/tasks.jsonl", None, "tasks.jsonl: cannot be read: No such file"),
        ("meta/tasks.jsonl", '{"task_index": 0}\n', "tasks.jsonl, line 1: has no task"),
        (STATS, "[]\n", "episodes_stats.jsonl, line 1: has no episode_index"),
    ],
)
def test_broken_descriptions_are_told_by_file_and_line(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, content: str | None, told: str
) -> None:
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    assert run_command(["check-demonstrations", str(folder)]) == 2
    error = capsys.readouterr().err.strip()
    assert told in error
    assert "\n" not in error


def test_a_missing_or_swapped_file_of_an_episode_is_told(folder: Path) -> None:
    dataset = EpisodeDataset.open(folder)
    (folder / ROWS).write_bytes((folder / "data/chunk-000/episode_000000.parquet").read_bytes())
    with pytest.raises(DatasetError, match=r"episode_000002\.parquet: expected 15 frames of episode 2, found 0"):
        dataset.read_episode(2)
    (folder / ROWS).unlink()
    with pytest.raises(DatasetError, match=r"episode_000002\.parquet: cannot be read as parquet"):
        EpisodeDataset.open(folder).read_episode(2)
