"""Read demonstrations: LeRobot data sets v3.0 without LeRobot and torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from handeye.robot.datasets.format import (
    TASKS_PATH,
    DatasetInfo,
    Episode,
    Feature,
    read_info,
    read_table,
    to_numpy,
)
from handeye.robot.datasets.statistics import (
    Statistics,
    episode_statistics,
    merge_statistics,
    read_statistics,
    statistics_of_rows,
)
from handeye.robot.datasets.video import read_video
from handeye.vision.errors import DatasetError

Place = tuple[int, int]
"""Chunk and file index."""


@dataclass(frozen=True, slots=True)
class _EpisodePlace:
    """Where an episode is stored: global frames, data file, and of each video its file and start time."""

    begin: int
    end: int
    data: Place
    meta: Place
    videos: Mapping[str, tuple[Place, float]]


class EpisodeDataset:
    """A data set of demonstrations, opened by `open`; episodes are read lazily."""

    def __init__(
        self,
        folder: Path,
        info: DatasetInfo,
        stats: Statistics,
        tasks: list[str],
        places: list[_EpisodePlace],
        keys: Mapping[str, str],
    ) -> None:
        self.folder = folder
        self._keys = keys
        self.info = info
        self.stats = stats
        """Statistics by feature, as meta/stats.json has them."""
        self.tasks = tasks
        self._places = places
        self._cached: tuple[Place, Any] | None = None

    @classmethod
    def open(cls, folder: Path, keys: Mapping[str, str] | None = None) -> EpisodeDataset:
        """Read meta/. Raises DatasetError with the reason unless it is a complete data set v3.0.

        `keys` gives numbers the names that they have here, as {"observation.state": "state"}.
        """
        keys = {ours: theirs for ours, theirs in (keys or {}).items() if ours != theirs}
        info = _renamed(read_info(folder), keys, folder)
        rows = _read_episode_rows(folder)
        counted = [row for row in rows if row["episode_index"] < info.total_episodes]
        places = _read_places(folder, info, counted)
        # A recording killed between its last files has described an episode that info.json does not count yet;
        # stats.json may or may not include it.
        was_cut_off = len(rows) > len(counted)
        tasks, incomplete = _read_tasks(folder) if places else [], tuple[str, ...]()
        if was_cut_off:
            stats = statistics_of_rows(counted, info, keys)
        else:
            stats, incomplete = read_statistics(folder, info, keys) if places else ({}, ())
        dataset = cls(folder, info, stats, tasks, places, keys)
        dataset.stats |= dataset.measure(incomplete)
        return dataset

    @property
    def fps(self) -> int:
        """Frames per second."""
        return self.info.fps

    @property
    def features(self) -> Mapping[str, Feature]:
        """Features of each frame, book-keeping included."""
        return self.info.features

    @property
    def num_episodes(self) -> int:
        """Number of episodes."""
        return len(self._places)

    @property
    def num_frames(self) -> int:
        """Number of frames of all episodes."""
        return self._places[-1].end if self._places else 0

    @property
    def image_keys(self) -> tuple[str, ...]:
        """The colour cameras."""
        return tuple(
            key for key, feature in self.features.items() if feature.holds_images and feature.shape[-1] in {3, 4}
        )

    @property
    def last_places(self) -> tuple[Place, ...]:
        """Chunk and file index of the last episode's files, of each kind."""
        last = self._places[-1]
        return (last.data, last.meta, *(place for place, _ in last.videos.values()))

    def first_frame(self, index: int) -> int:
        """Number of an episode's first frame in the whole set."""
        return self._place(index).begin

    def episode_length(self, index: int) -> int:
        """Frames of an episode."""
        return self._place(index).end - self._place(index).begin

    def read_episode(self, index: int) -> Episode:
        """All columns but images, one row per frame, book-keeping included.

        Raises DatasetError for an index that does not exist, for files that disagree with what meta/ says, and for
        numbers that are not finite.
        """
        place, path, columns = self._place(index), self._data_file(index), self.read_columns(index)
        for key, values in columns.items():
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise DatasetError(f"{path}: {key} holds NaN or infinity")
        if not np.array_equal(columns["index"], np.arange(place.begin, place.end)):
            raise DatasetError(f"{path}: frames of episode {index} are not {place.begin} to {place.end - 1}")
        return Episode(columns, self._task_name(columns["task_index"], path))

    def read_columns(self, index: int) -> dict[str, np.ndarray]:
        """The columns of an episode as stored, unchecked. Raises DatasetError."""
        table, path = self._rows_of(index), self._data_file(index)
        features = {key: feature for key, feature in self.features.items() if not feature.holds_images}
        return {key: _column(table, self._keys.get(key, key), feature, path) for key, feature in features.items()}

    def measure(self, keys: Sequence[str]) -> Statistics:
        """Statistics of these features, which are no images, over all episodes. Raises DatasetError."""
        measured: Statistics = {}
        for index in range(self.num_episodes if keys else 0):
            columns = self.read_columns(index)
            of_episode = episode_statistics({key: columns[key] for key in keys}, self.features)
            measured = merge_statistics(measured, of_episode)
        return measured

    def read_images(self, index: int, key: str) -> UInt8[np.ndarray, "T H W 3"] | np.ndarray:
        """The images of one camera, RGB; depth images as (T, H, W) uint16, mm.

        Frames of a video belong to the rows by time stamps. Raises DatasetError, also for a row without a frame.
        """
        if key not in self.features or not self.features[key].holds_images:
            cameras = ", ".join(name for name, feature in self.features.items() if feature.holds_images) or "none"
            raise DatasetError(f"{self.folder}: has no camera {key!r}; its cameras: {cameras}")
        place = self._place(index)
        if self.features[key].dtype == "image":
            column = self._rows_of(index).column(key).to_pylist()
            return np.stack([self._decode(row, key) for row in column])
        (chunk, file), from_s = place.videos[key]
        path = self.folder / self.info.video_path.format(video_key=key, chunk_index=chunk, file_index=file)
        stamps_s = _column(self._rows_of(index), "timestamp", self.features["timestamp"], self._data_file(index))
        try:
            return read_video(path, from_s + stamps_s.astype(np.float64), 1.0 / self.fps)
        except DatasetError as error:
            raise DatasetError(f"episode {index}: {error}") from error

    def _place(self, index: int) -> _EpisodePlace:
        if not 0 <= index < len(self._places):
            raise DatasetError(f"{self.folder}: has no episode {index}, it has {len(self._places)}, counted from 0")
        return self._places[index]

    def _data_file(self, index: int) -> Path:
        chunk, file = self._place(index).data
        return self.folder / self.info.data_path.format(chunk_index=chunk, file_index=file)

    def _rows_of(self, index: int) -> Any:
        """The rows of one episode; the file read last is kept, because files of LeRobot's hold many episodes."""
        place = self._place(index)
        if self._cached is None or self._cached[0] != place.data:
            self._cached = (place.data, read_table(self._data_file(index)))
        table = self._cached[1]
        if "episode_index" not in table.column_names:
            raise DatasetError(f"{self._data_file(index)}: has no column episode_index")
        rows = np.flatnonzero(table.column("episode_index").to_numpy() == index)
        if len(rows) != place.end - place.begin:
            expected = place.end - place.begin
            raise DatasetError(
                f"{self._data_file(index)}: expected {expected} frames of episode {index}, found {len(rows)}"
            )
        return table.slice(int(rows[0]), len(rows))

    def _task_name(self, task_index: np.ndarray, path: Path) -> str:
        number = int(task_index[0])
        if not 0 <= number < len(self.tasks):
            raise DatasetError(f"{path}: names task {number}, but there are {len(self.tasks)}")
        return self.tasks[number]

    def _decode(self, row: Mapping[str, Any] | None, key: str) -> np.ndarray:
        coded = None if row is None else row.get("bytes")
        image = None if coded is None else cv2.imdecode(np.frombuffer(coded, np.uint8), cv2.IMREAD_UNCHANGED)
        if image is None:
            raise DatasetError(f"{self.folder}: an image of {key} is missing or broken")
        return image[..., ::-1] if image.ndim == 3 else image


def _renamed(info: DatasetInfo, keys: Mapping[str, str], folder: Path) -> DatasetInfo:
    """With the features under our names; one that already has such a name gives way."""
    ours = {theirs: key for key, theirs in keys.items()}
    for key in ours:
        if key not in info.recorded or info.features[key].holds_images:
            numbers = ", ".join(key for key, feature in info.recorded.items() if not feature.holds_images)
            raise DatasetError(f"{folder}: has no numbers {key!r}; it has {numbers}")
    kept = {key: feature for key, feature in info.features.items() if key not in keys}
    return replace(info, features={ours.get(key, key): feature for key, feature in kept.items()})


def _column(table: Any, key: str, feature: Feature, path: Path) -> np.ndarray:
    if key not in table.column_names:
        raise DatasetError(f"{path}: has no column {key}")
    try:
        values = to_numpy(table.column(key), feature.array_shape)
    except ValueError as error:
        raise DatasetError(f"{path}: {key}: {error}") from error
    return values.astype(feature.array_dtype, copy=False)


def _read_episode_rows(folder: Path) -> list[dict[str, Any]]:
    """Every row of meta/episodes, statistics included, in the order of the files."""
    paths = sorted((folder / "meta" / "episodes").glob("chunk-*/file-*.parquet"))
    return [row for path in paths for row in read_table(path).to_pylist()]


def _read_places(folder: Path, info: DatasetInfo, rows: list[dict[str, Any]]) -> list[_EpisodePlace]:
    """Where the episodes that info.json counts lie."""
    if [row["episode_index"] for row in rows] != list(range(info.total_episodes)):
        raise DatasetError(
            f"{folder}: info.json counts {info.total_episodes} episodes, meta/episodes describes {len(rows)} of them"
        )
    places = [_episode_place(row, info, folder) for row in rows]
    ends = [0, *(place.end for place in places)]
    if [place.begin for place in places] != ends[:-1] or ends[-1] != info.total_frames:
        raise DatasetError(f"{folder}: the episodes do not follow upon one another up to frame {info.total_frames}")
    return places


def _episode_place(row: Mapping[str, Any], info: DatasetInfo, folder: Path) -> _EpisodePlace:
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

    try:
        videos = {
            key: (place(f"videos/{key}"), float(row[f"videos/{key}/from_timestamp"])) for key in info.keys_of("video")
        }
        begin, end = whole("dataset_from_index"), whole("dataset_to_index")
        return _EpisodePlace(begin, end, place("data"), place("meta/episodes"), videos)
    except KeyError as error:
        raise DatasetError(f"{folder}: meta/episodes has no column {error}") from error


def _read_tasks(folder: Path) -> list[str]:
    """Tasks in the order of their index; older files name the column after pandas' nameless index."""
    table = read_table(folder / TASKS_PATH)
    names = next((name for name in ("task", "__index_level_0__") if name in table.column_names), None)
    if names is None or "task_index" not in table.column_names:
        raise DatasetError(f"{folder / TASKS_PATH}: expected columns task and task_index, got {table.column_names}")
    rows = zip(table.column("task_index").to_pylist(), table.column(names).to_pylist(), strict=True)
    return [name for _, name in sorted(rows)]
