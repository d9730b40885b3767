"""Read demonstrations: LeRobot data sets v3.0 without LeRobot and torch, and the statistics of their features.

Statistics are LeRobot's: images by channel in 0..1, and quantiles of a data set as the weighted mean of those of its
episodes, which is an approximation; everything else is exact.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from handeye.robot.datasets.format import (
    STATS_PATH,
    TASKS_PATH,
    DatasetInfo,
    Episode,
    Feature,
    read_info,
    read_table,
    to_numpy,
)
from handeye.robot.datasets.video import read_video
from handeye.vision.errors import DatasetError

Place = tuple[int, int]
"""Chunk and file index."""

Statistics = dict[str, dict[str, np.ndarray]]
"""{feature: {"min" | "max" | "mean" | "std" | "count" | "q01" ...: array}}."""
QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
IMAGES = 100
"""Images of an episode that enter its statistics, evenly spaced."""


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
        self, folder: Path, info: DatasetInfo, stats: Statistics, tasks: list[str], places: list[_EpisodePlace]
    ) -> None:
        self.folder = folder
        self.info = info
        self.stats = stats
        """Statistics by feature, as meta/stats.json has them."""
        self.tasks = tasks
        self._places = places
        self._cached: tuple[Place, Any] | None = None

    @classmethod
    def open(cls, folder: Path) -> EpisodeDataset:
        """Read meta/. Raises DatasetError with the reason unless it is a complete data set v3.0."""
        info = read_info(folder)
        rows = _read_episode_rows(folder)
        counted = [row for row in rows if row["episode_index"] < info.total_episodes]
        places = _read_places(folder, info, counted)
        # A recording killed between its last files has described an episode that info.json does not count yet;
        # stats.json may or may not include it.
        was_cut_off = len(rows) > len(counted)
        stats = _merge_rows(counted, info) if was_cut_off else _read_stats(folder, info) if places else {}
        return cls(folder, info, stats, _read_tasks(folder) if places else [], places)

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
        return {key: _column(table, key, one, path) for key, one in self.features.items() if not one.holds_images}

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


def episode_statistics(columns: Mapping[str, np.ndarray], features: Mapping[str, Feature]) -> Statistics:
    """Statistics of the arrays of one episode, one row per frame; texts have none."""
    statistics = {}
    for key, values in columns.items():
        feature = features[key]
        if feature.dtype == "string":
            continue
        statistics[key] = _image_statistics(values) if feature.holds_images else _number_statistics(values)
    return statistics


def merge_statistics(first: Statistics, second: Statistics) -> Statistics:
    """Statistics of both together; deviations by the parallel formula of Chan, Golub and LeVeque (1979)."""
    return {key: _merge(first[key], second[key]) if key in first else second[key] for key in second}


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
    def place(prefix: str) -> Place:
        return row[f"{prefix}/chunk_index"], row[f"{prefix}/file_index"]

    try:
        videos = {
            key: (place(f"videos/{key}"), float(row[f"videos/{key}/from_timestamp"])) for key in info.keys_of("video")
        }
        begin, end = row["dataset_from_index"], row["dataset_to_index"]
        return _EpisodePlace(begin, end, place("data"), place("meta/episodes"), videos)
    except KeyError as error:
        raise DatasetError(f"{folder}: meta/episodes has no column {error}") from error


def _merge_rows(rows: list[dict[str, Any]], info: DatasetInfo) -> Statistics:
    """Statistics of all episodes from those of each."""
    merged: Statistics = {}
    for row in rows:
        of_episode: Statistics = {}
        for column, value in row.items():
            if column.startswith("stats/") and value is not None:
                key, _, name = column.removeprefix("stats/").rpartition("/")
                of_episode.setdefault(key, {})[name] = np.array(value)
        known = {key: value for key, value in of_episode.items() if key in info.features}
        merged = merge_statistics(merged, known) if merged else known
    return merged


def _read_stats(folder: Path, info: DatasetInfo) -> Statistics:
    """meta/stats.json. Raises DatasetError when it belongs to other features or another number of frames."""
    path = folder / STATS_PATH
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read: {error}") from error
    stats = {key: {name: np.array(value) for name, value in row.items()} for key, row in content.items()}
    for key, feature in info.features.items():
        # Of matrices and images LeRobot keeps other shapes.
        if feature.holds_images or feature.dtype == "string" or len(feature.shape) != 1:
            continue
        if key not in stats:
            raise DatasetError(f"{path}: has no statistics of {key}: are they of another data set?")
        shape, count = stats[key]["mean"].shape, int(stats[key]["count"][0])
        if shape != feature.shape or count != info.total_frames:
            raise DatasetError(
                f"{path}: statistics of another data set: {key} has shape {shape} over {count} frames there, "
                f"{feature.shape} over {info.total_frames} frames here"
            )
    return stats


def _read_tasks(folder: Path) -> list[str]:
    """Tasks in the order of their index; older files name the column after pandas' nameless index."""
    table = read_table(folder / TASKS_PATH)
    names = next((name for name in ("task", "__index_level_0__") if name in table.column_names), None)
    if names is None or "task_index" not in table.column_names:
        raise DatasetError(f"{folder / TASKS_PATH}: expected columns task and task_index, got {table.column_names}")
    rows = zip(table.column("task_index").to_pylist(), table.column(names).to_pylist(), strict=True)
    return [name for _, name in sorted(rows)]


def _number_statistics(values: np.ndarray) -> dict[str, np.ndarray]:
    rows = values.reshape(len(values), -1).astype(np.float64)
    shape = values.shape[1:] or (1,)
    result = {
        "min": rows.min(axis=0),
        "max": rows.max(axis=0),
        "mean": rows.mean(axis=0),
        "std": rows.std(axis=0),
        **{name: np.quantile(rows, share, axis=0) for name, share in QUANTILES.items()},
    }
    return {name: value.reshape(shape) for name, value in result.items()} | {"count": np.array([len(values)])}


def _image_statistics(images: np.ndarray) -> dict[str, np.ndarray]:
    """Of colours in 0..1 with shape (3, 1, 1), of depth in mm with shape (1, 1, 1); count is that of images."""
    chosen = images[np.unique(np.linspace(0, len(images) - 1, IMAGES).round().astype(int))]
    scale = 255.0 if chosen.dtype == np.uint8 else 1.0
    channels = chosen.shape[-1] if chosen.ndim == 4 else 1
    statistics = _number_statistics(chosen.reshape(-1, channels) / scale)
    shaped = {name: value.reshape(channels, 1, 1) for name, value in statistics.items() if name != "count"}
    return shaped | {"count": np.array([len(chosen)])}


def _merge(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    n, m = float(first["count"][0]), float(second["count"][0])
    mean = (n * first["mean"] + m * second["mean"]) / (n + m)
    spread = sum(weight * (part["std"] ** 2 + (part["mean"] - mean) ** 2) for weight, part in ((n, first), (m, second)))
    merged = {
        "min": np.minimum(first["min"], second["min"]),
        "max": np.maximum(first["max"], second["max"]),
        "mean": mean,
        "std": np.sqrt(spread / (n + m)),
        "count": first["count"] + second["count"],
    }
    for name in QUANTILES.keys() & first.keys() & second.keys():
        merged[name] = (n * first[name] + m * second[name]) / (n + m)
    return merged
