"""Where the episodes of a LeRobot data set lie, their tasks and statistics.

v3.0 describes them in parquet (`meta/episodes/`, `meta/tasks.parquet`, `meta/stats.json`) and puts many into one file;
v2 in rows of JSON (`meta/episodes.jsonl`, `meta/tasks.jsonl`, v2.1 `meta/episodes_stats.jsonl`), a file for each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handeye.robot.datasets.format import TASKS_PATH, DatasetInfo, read_table
from handeye.robot.datasets.lerobot_info import EPISODES_OF_V2
from handeye.robot.datasets.statistics import (
    Statistics,
    read_statistics,
    statistics_of_episodes,
    statistics_of_rows,
)
from handeye.vision.errors import DatasetError
from handeye.vision.images import natural_order

TASKS_OF_V2 = "meta/tasks.jsonl"
STATS_OF_V21 = "meta/episodes_stats.jsonl"
Place = tuple[int, int]
"""Chunk and file index."""


@dataclass(frozen=True, slots=True)
class EpisodePlace:
    """Where an episode is stored: its frames in the data set, its file, and of each video the file and start time."""

    begin: int
    end: int
    data: Path
    videos: Mapping[str, tuple[Path, float]]
    indices: tuple[Place, ...] = ()
    """Of its files in v3.0, of each kind."""


@dataclass(frozen=True, slots=True, eq=False)
class EpisodeIndex:
    """What meta/ says of the episodes. `incomplete` are the features, but images, that have no statistics there."""

    places: Sequence[EpisodePlace]
    tasks: Mapping[int, str]
    stats: Statistics
    incomplete: tuple[str, ...]


def read_index(folder: Path, info: DatasetInfo) -> EpisodeIndex:
    """Read meta/. Raises DatasetError with the reason unless it describes what info.json counts."""
    return _read_v2(folder, info) if info.by_episode else _read_v3(folder, info)


def _read_v3(folder: Path, info: DatasetInfo) -> EpisodeIndex:
    paths = natural_order((folder / "meta" / "episodes").glob("chunk-*/file-*.parquet"))
    rows = [row for path in paths for row in read_table(path).to_pylist()]
    counted = [row for row in rows if row["episode_index"] < info.total_episodes]
    _require_counted(counted, info, folder, "meta/episodes")
    places = [_place_of_row(row, info, folder) for row in counted]
    _require_contiguous(places, info, folder)
    if not places:
        return EpisodeIndex((), {}, {}, ())
    # A recording killed between its last files has described an episode that info.json does not count yet;
    # stats.json may or may not include it.
    was_cut_off = len(rows) > len(counted)
    stats = (statistics_of_rows(counted, info), ()) if was_cut_off else read_statistics(folder, info)
    return EpisodeIndex(places, _read_tasks(folder), *stats)


def _read_v2(folder: Path, info: DatasetInfo) -> EpisodeIndex:
    path = folder / EPISODES_OF_V2
    rows = _read_rows(path, ("episode_index", "length")) if info.total_episodes or path.exists() else []
    counted = sorted(
        (row for row in rows if row["episode_index"] < info.total_episodes), key=lambda row: row["episode_index"]
    )
    _require_counted(counted, info, folder, EPISODES_OF_V2)
    places: list[EpisodePlace] = []
    for row in counted:
        begin = places[-1].end if places else 0
        places.append(_place_by_index(row["episode_index"], begin, begin + row["length"], info, folder))
    if not places:
        return EpisodeIndex((), {}, {}, ())
    if places[-1].end != info.total_frames:
        raise DatasetError(f"{folder}: info.json counts {info.total_frames} frames, {path.name} {places[-1].end}")
    tasks = {row["task_index"]: str(row["task"]) for row in _read_rows(folder / TASKS_OF_V2, ("task_index",), "task")}
    path = folder / STATS_OF_V21
    # v2.0 has one meta/stats.json without counts in its place: measured again.
    described = _read_rows(path, ("episode_index",), "stats") if path.exists() else []
    stated = {row["episode_index"]: row["stats"] for row in described}
    lengths = {index: place.end - place.begin for index, place in enumerate(places)}
    return EpisodeIndex(places, tasks, *statistics_of_episodes(stated, lengths, info, path))


def _require_counted(rows: Sequence[Mapping[str, Any]], info: DatasetInfo, folder: Path, name: str) -> None:
    if [row["episode_index"] for row in rows] != list(range(info.total_episodes)):
        raise DatasetError(
            f"{folder}: info.json counts {info.total_episodes} episodes, {name} describes {len(rows)} of them"
        )


def _require_contiguous(places: Sequence[EpisodePlace], info: DatasetInfo, folder: Path) -> None:
    ends = [0, *(place.end for place in places)]
    if [place.begin for place in places] != ends[:-1] or ends[-1] != info.total_frames:
        raise DatasetError(f"{folder}: the episodes do not follow upon one another up to frame {info.total_frames}")


def _place_of_row(row: Mapping[str, Any], info: DatasetInfo, folder: Path) -> EpisodePlace:
    def whole(column: str) -> int:
        value = row[column]
        if isinstance(value, float) and value.is_integer():
            return int(value)  # pandas turns a column with a gap into floats
        if isinstance(value, bool) or not isinstance(value, int):
            episode = row["episode_index"]
            raise DatasetError(f"{folder}: meta/episodes: {column} of episode {episode} is {value}, expected an index")
        return value

    def place(prefix: str) -> Place:
        return whole(f"{prefix}/chunk_index"), whole(f"{prefix}/file_index")

    def file(path: str, place: Place, key: str = "") -> Path:
        return folder / path.format(video_key=key, chunk_index=place[0], file_index=place[1])

    try:
        data, videos = place("data"), {key: place(f"videos/{key}") for key in info.keys_of("video")}
        return EpisodePlace(
            begin=whole("dataset_from_index"),
            end=whole("dataset_to_index"),
            data=file(info.data_path, data),
            videos={
                key: (file(info.video_path, at, key), float(row[f"videos/{key}/from_timestamp"]))
                for key, at in videos.items()
            },
            indices=(data, place("meta/episodes"), *videos.values()),
        )
    except KeyError as error:
        raise DatasetError(f"{folder}: meta/episodes has no column {error}") from error


def _place_by_index(index: int, begin: int, end: int, info: DatasetInfo, folder: Path) -> EpisodePlace:
    def file(path: str, key: str = "") -> Path:
        return folder / path.format(video_key=key, episode_chunk=index // info.chunks_size, episode_index=index)

    videos = {key: (file(info.video_path, key), 0.0) for key in info.keys_of("video")}
    return EpisodePlace(begin, end, file(info.data_path), videos)


def _read_tasks(folder: Path) -> dict[int, str]:
    """Tasks by their index; older files name the column after pandas' nameless index."""
    table = read_table(folder / TASKS_PATH)
    names = next((name for name in ("task", "__index_level_0__") if name in table.column_names), None)
    if names is None or "task_index" not in table.column_names:
        raise DatasetError(f"{folder / TASKS_PATH}: expected columns task and task_index, got {table.column_names}")
    rows = zip(table.column("task_index").to_pylist(), table.column(names).to_pylist(), strict=True)
    return dict(sorted(rows))


def _read_rows(path: Path, whole: Sequence[str], *others: str) -> list[dict[str, Any]]:
    """The objects of a file with one in each line, which have these keys. Raises DatasetError, naming the line."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DatasetError(f"{path}: cannot be read: {reason}") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DatasetError(f"{path}, line {number}: not JSON: {error}") from error
        for key in (*whole, *others):
            if not isinstance(row, dict) or key not in row:
                raise DatasetError(f"{path}, line {number}: has no {key}")
            if key in whole and (isinstance(row[key], bool) or not isinstance(row[key], int) or row[key] < 0):
                raise DatasetError(f"{path}, line {number}: {key} is {row[key]!r}, expected a whole number")
        rows.append(row)
    return rows
