"""Write demonstrations as a LeRobot data set v3.0, so that a crash loses the current episode only.

Every episode has its own files, written beside the data set and renamed into it; `meta/info.json`, which
says how many episodes there are, is replaced last. What a killed process leaves behind is not counted and
is overwritten by the next episode.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from handeye.robot.datasets.format import (
    BOOK_KEEPING,
    EPISODES_PATH,
    FILES_IN_CHUNK,
    INFO_PATH,
    STATS_PATH,
    TASKS_PATH,
    VERSION,
    DatasetInfo,
    Episode,
    Feature,
    book_keeping,
    check_episode,
    list_column,
    pyarrow,
    require_same_origin,
    save_origin,
)
from handeye.robot.datasets.lerobot_files import LeRobotFiles
from handeye.robot.datasets.lerobot_info import read_info
from handeye.robot.datasets.reader import EpisodeDataset
from handeye.robot.datasets.statistics import Statistics, episode_statistics, merge_statistics
from handeye.robot.datasets.video import video_info, write_video
from handeye.vision.errors import DatasetError
from handeye.vision.files import write_json

STAGING = ".staging"
"""Folder in the data set for incomplete files; readers ignore it."""


class EpisodeWriter:
    """Appends episodes to a data set, creating it if the folder holds none."""

    def __init__(
        self,
        folder: Path,
        info: DatasetInfo,
        statistics: Statistics,
        tasks: list[str],
        origin: Mapping[str, Any] | None,
    ) -> None:
        self.folder = folder
        self.info = info
        self._statistics = statistics
        self._tasks = tasks
        self._origin = origin
        self._place = (0, 0)

    @classmethod
    def open(
        cls,
        folder: Path,
        fps: int,
        features: Mapping[str, Feature],
        robot_type: str,
        origin: Mapping[str, Any] | None = None,
    ) -> EpisodeWriter:
        """Create the data set or go on with it; `origin` is what its episodes are recorded with, in JSON's values.

        Raises DatasetError when the folder holds another kind of episodes, or of another origin.
        """
        nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not nearest.is_dir():
            raise DatasetError(f"{folder}: cannot be created, {nearest} is a file")
        shutil.rmtree(folder / STAGING, ignore_errors=True)
        if not (folder / INFO_PATH).exists():
            if any(path.is_file() and ".partial" not in path.suffixes for path in folder.rglob("*")):
                raise DatasetError(f"{folder}: is neither empty nor a data set; choose an empty folder")
            info = DatasetInfo(fps, _with_video_info(features, fps) | BOOK_KEEPING, robot_type)
            return cls(folder, info, {}, [], origin)
        return cls._resume(folder, fps, features, origin)

    @classmethod
    def _resume(
        cls, folder: Path, fps: int, features: Mapping[str, Feature], origin: Mapping[str, Any] | None
    ) -> EpisodeWriter:
        info = read_info(folder)
        if info.version != VERSION or info.by_episode:
            raise DatasetError(
                f"{folder}: is a data set {info.version}, which is only read; record into another folder"
            )
        if info.fps != fps:
            raise DatasetError(f"{folder}: was recorded at {info.fps} frames per second, these have {fps}")
        if info.recorded != dict(features):
            differing = sorted(
                key for key in info.recorded.keys() | features.keys() if info.recorded.get(key) != features.get(key)
            )
            raise DatasetError(f"{folder}: its episodes differ in {', '.join(differing)}; record into another folder")
        files = LeRobotFiles.open(folder)
        if sorted(files.tasks) != list(range(len(files.tasks))):
            raise DatasetError(f"{folder}: its tasks are numbered {sorted(files.tasks)}; record into another folder")
        dataset = EpisodeDataset(files)
        writer = cls(folder, info, dataset.stats, dataset.tasks, origin)
        if info.total_episodes:
            if origin is not None:
                require_same_origin(folder, origin)
            # Never before the last file of any kind, so that files of several episodes are left alone.
            writer._place = _after(max(files.last_places))
        return writer

    def add(self, episode: Episode) -> int:
        """Write one episode and return its index. Raises DatasetError, before anything is written, if it is wrong."""
        check_episode(episode, self.info)
        index, length = self.info.total_episodes, len(episode)
        if index == 0:
            self._begin()
        if episode.task not in self._tasks:
            self._tasks.append(episode.task)
        task_index = self._tasks.index(episode.task)
        counters = book_keeping(index, self.info.total_frames, length, self.info.fps, task_index)
        columns = dict(episode.columns) | counters
        statistics = episode_statistics(columns, self.info.features)
        videos = self.info.keys_of("video")
        for key in videos:
            self._put(self.info.video_path, partial(self._write_video, columns[key]), video_key=key)
        self._put(self.info.data_path, partial(self._write_rows, columns))
        row = self._episode_row(index, length, episode.task, videos) | _flat(statistics)
        self._put(EPISODES_PATH, partial(_write_table, {key: [value] for key, value in row.items()}))
        self._commit(length, statistics)
        return index

    def _begin(self) -> None:
        """Write an empty data set, so that a crash in the first episode leaves one behind."""
        write_json(self.folder / INFO_PATH, self.info.to_json())
        if self._origin is not None:
            save_origin(self.folder, self._origin)

    def _commit(self, length: int, statistics: Statistics) -> None:
        """Tasks and statistics, then the counts that make the episode part of the data set."""
        self._put(TASKS_PATH, self._write_tasks)
        merged = merge_statistics(self._statistics, statistics) if self._statistics else statistics
        as_lists = {key: {name: value.tolist() for name, value in row.items()} for key, row in merged.items()}
        write_json(self.folder / STATS_PATH, as_lists)
        info = replace(
            self.info,
            total_episodes=self.info.total_episodes + 1,
            total_frames=self.info.total_frames + length,
            total_tasks=len(self._tasks),
        )
        write_json(self.folder / INFO_PATH, info.to_json())
        self.info, self._statistics, self._place = info, merged, _after(self._place)

    def _episode_row(self, index: int, length: int, task: str, videos: tuple[str, ...]) -> dict[str, Any]:
        chunk, file = self._place
        row: dict[str, Any] = {
            "episode_index": index,
            "tasks": [task],
            "length": length,
            "data/chunk_index": chunk,
            "data/file_index": file,
            "dataset_from_index": self.info.total_frames,
            "dataset_to_index": self.info.total_frames + length,
        }
        for key in videos:
            row |= {f"videos/{key}/chunk_index": chunk, f"videos/{key}/file_index": file}
            row |= {f"videos/{key}/from_timestamp": 0.0, f"videos/{key}/to_timestamp": length / self.info.fps}
        return row | {"meta/episodes/chunk_index": chunk, "meta/episodes/file_index": file}

    def _put(self, pattern: str, write: Callable[[Path], None], **names: str) -> None:
        """Let `write` make a file in the staging folder, then rename it into place."""
        chunk, file = self._place
        path = self.folder / pattern.format(chunk_index=chunk, file_index=file, **names)
        staged = self.folder / STAGING / path.name
        staged.parent.mkdir(parents=True, exist_ok=True)
        write(staged)
        path.parent.mkdir(parents=True, exist_ok=True)
        staged.replace(path)

    def _write_video(self, images_rgb: np.ndarray, path: Path) -> None:
        write_video(path, images_rgb, self.info.fps)

    def _write_rows(self, columns: Mapping[str, np.ndarray], path: Path) -> None:
        rows = {key: feature for key, feature in self.info.features.items() if feature.dtype != "video"}
        _write_table({key: _to_column(columns[key], feature) for key, feature in rows.items()}, path)

    def _write_tasks(self, path: Path) -> None:
        """A table with the task as pandas' index, as LeRobot reads it."""
        pa, pq = pyarrow()
        table = pa.table({"task_index": np.arange(len(self._tasks)), "task": self._tasks})
        pandas = {
            "index_columns": ["task"],
            "column_indexes": [],
            "columns": [
                {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64"},
                {"name": "task", "field_name": "task", "pandas_type": "unicode", "numpy_type": "object"},
            ],
            "pandas_version": "2.0.0",
        }
        pq.write_table(table.replace_schema_metadata({"pandas": json.dumps(pandas)}), path)


def _with_video_info(features: Mapping[str, Feature], fps: int) -> dict[str, Feature]:
    def described(feature: Feature) -> Feature:
        height, width = feature.shape[:2]
        return replace(feature, info=video_info(height, width, fps))

    return {key: described(feature) if feature.dtype == "video" else feature for key, feature in features.items()}


def _after(place: tuple[int, int]) -> tuple[int, int]:
    """The chunk and file index after `place`."""
    chunk, file = place
    return (chunk, file + 1) if file + 1 < FILES_IN_CHUNK else (chunk + 1, 0)


def _to_column(values: np.ndarray, feature: Feature) -> Any:
    """An Arrow array with one value per frame."""
    pa, _ = pyarrow()
    if feature.dtype == "image":
        kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        return pa.array([{"bytes": _png(image), "path": None} for image in values], kind)
    if feature.dtype == "string":
        return pa.array(values.tolist(), pa.string())
    if values.ndim > 2:
        raise DatasetError(f"expected numbers or lists of numbers in each frame, got shape {values.shape[1:]}")
    return pa.array(values) if values.ndim == 1 else list_column(values)


def _png(image: np.ndarray) -> bytes:
    coded, png = cv2.imencode(".png", image[..., ::-1] if image.ndim == 3 else image)
    assert coded
    return png.tobytes()


def _flat(statistics: Statistics) -> dict[str, Any]:
    return {f"stats/{key}/{name}": value.tolist() for key, row in statistics.items() for name, value in row.items()}


def _write_table(columns: Mapping[str, Any], path: Path) -> None:
    pa, pq = pyarrow()
    pq.write_table(pa.table(dict(columns)), path, compression="snappy")
