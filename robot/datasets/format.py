"""The data set format of demonstrations: features, episodes, parquet columns, and their checks.

What is written is LeRobot's data set v3.0 (huggingface/lerobot): `meta/info.json` names features and counts,
`data/` has a row for each frame, `videos/` the cameras, `meta/episodes/` where each episode lies. Older versions and
other layouts are read into the same features and episodes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from handeye.vision.errors import DatasetError, MissingPackageError
from handeye.vision.files import write_json

VERSION = "v3.0"
INFO_PATH = "meta/info.json"
STATS_PATH = "meta/stats.json"
TASKS_PATH = "meta/tasks.parquet"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
ORIGIN_PATH = "meta/recorded_with.json"
FILES_IN_CHUNK = 1000
DATA_MB, VIDEO_MB = 100, 200
"""Sizes at which LeRobot begins a new file; ours are smaller, one for each episode."""
RENAMED_KEYS = {"mishaps": "random_faults", "picture_height": "image_height", "picture_width": "image_width"}
"""Keys of ORIGIN_PATH that earlier versions wrote, and today's."""
ABSENT = "nothing"
SHOWN = 3
"""Differences that an error message names."""


@dataclass(frozen=True, slots=True)
class Feature:
    """One thing recorded in every frame.

    dtype is a numpy name, "string", "video" (RGB in an mp4) or "image" (PNG in the row: 16-bit depth in mm). shape is
    that of one frame, (1,) for a number, (H, W, 3) or (H, W, 1) for images. names label its last axis, or all axes
    of an image; a row of numbers has a different name for each, or none. info is what else the file says about it.
    """

    dtype: str
    shape: tuple[int, ...]
    names: tuple[str, ...] | None = None
    info: Mapping[str, Any] = field(default_factory=dict, hash=False, compare=False)

    @property
    def holds_images(self) -> bool:
        """Whether it is a video or images."""
        return self.dtype in {"video", "image"}

    @property
    def holds_numbers(self) -> bool:
        """Whether it is numbers: neither images nor text."""
        return not self.holds_images and self.dtype != "string"

    @property
    def array_shape(self) -> tuple[int, ...]:
        """Shape of one frame in an `Episode`: numbers and depth images have no axis of length 1."""
        if self.dtype == "image" and self.shape[-1:] == (1,):
            return self.shape[:-1]
        return () if self.shape == (1,) else self.shape

    @property
    def array_dtype(self) -> np.dtype:
        """Type of its values in an `Episode`."""
        if self.dtype == "image" and self.shape[-1:] == (1,):
            return np.dtype(np.uint16)
        return np.dtype(np.uint8 if self.holds_images else object if self.dtype == "string" else self.dtype)


def numbers(names: Sequence[str], dtype: str = "float32") -> Feature:
    """A feature of named numbers; a single name gives a plain column."""
    return Feature(dtype, (len(names),), tuple(names))


def colour_video(height: int, width: int) -> Feature:
    """A colour camera."""
    return Feature("video", (height, width, 3), ("height", "width", "channels"))


def depth_image(height: int, width: int) -> Feature:
    """Depth in whole millimetres, 0 where the sensor has no reading; lossless (PNG)."""
    return Feature("image", (height, width, 1), ("height", "width", "channels"), {"depth_unit": "mm"})


BOOK_KEEPING = {
    "timestamp": Feature("float32", (1,)),
    "frame_index": Feature("int64", (1,)),
    "episode_index": Feature("int64", (1,)),
    "index": Feature("int64", (1,)),
    "task_index": Feature("int64", (1,)),
}
"""Features that every data set has and the writer fills; timestamp is frame_index / fps, not a clock's time."""


@dataclass(frozen=True, slots=True, eq=False)
class Episode:
    """One demonstration: an array of T frames for each feature, images included, and the task in words."""

    columns: Mapping[str, np.ndarray]
    task: str

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """Content of meta/info.json; features include the BOOK_KEEPING."""

    fps: int
    features: Mapping[str, Feature]
    robot_type: str
    total_episodes: int = 0
    total_frames: int = 0
    total_tasks: int = 0
    data_path: str = DATA_PATH
    video_path: str = VIDEO_PATH
    chunks_size: int = FILES_IN_CHUNK
    version: str = VERSION
    """codebase_version; what is written is VERSION."""
    by_episode: bool = False
    """Whether each episode has its own files, which rows of JSON describe: LeRobot's v2."""

    @property
    def recorded(self) -> dict[str, Feature]:
        """The features that an `Episode` has: all but the book-keeping."""
        return {key: feature for key, feature in self.features.items() if key not in BOOK_KEEPING}

    def keys_of(self, dtype: str) -> tuple[str, ...]:
        """Names of the features of one dtype."""
        return tuple(key for key, feature in self.features.items() if feature.dtype == dtype)

    def to_json(self) -> dict[str, Any]:
        """As the file holds it."""
        return {
            "codebase_version": VERSION,
            "robot_type": self.robot_type,
            "total_episodes": self.total_episodes,
            "total_frames": self.total_frames,
            "total_tasks": self.total_tasks,
            "chunks_size": self.chunks_size,
            "data_files_size_in_mb": DATA_MB,
            "video_files_size_in_mb": VIDEO_MB,
            "fps": self.fps,
            "splits": {"train": f"0:{self.total_episodes}"},
            "data_path": self.data_path,
            "video_path": self.video_path if self.keys_of("video") else None,
            "features": {key: _feature_to_json(feature) for key, feature in self.features.items()},
        }


def book_keeping(index: int, begin: int, length: int, fps: int, task_index: int = 0) -> dict[str, np.ndarray]:
    """The BOOK_KEEPING of an episode whose first frame is frame `begin` of the data set."""
    frames = np.arange(length, dtype=np.int64)
    return {
        "timestamp": (frames / fps).astype(np.float32),
        "frame_index": frames,
        "episode_index": np.full(length, index, np.int64),
        "index": begin + frames,
        "task_index": np.full(length, task_index, np.int64),
    }


def check_episode(episode: Episode, info: DatasetInfo) -> None:
    """Raise DatasetError unless the episode has exactly the features of the data set, finite and of their shapes."""
    expected = info.recorded
    missing, extra = expected.keys() - episode.columns.keys(), episode.columns.keys() - expected.keys()
    if missing or extra:
        raise DatasetError(
            f"episode with other features than its data set: missing {sorted(missing) or 'none'}, "
            f"too many {sorted(extra) or 'none'}"
        )
    if len(episode) == 0:
        raise DatasetError("episode without frames")
    for key, feature in expected.items():
        _check_column(key, feature, episode.columns[key], len(episode))


def _check_column(key: str, feature: Feature, values: np.ndarray, num_frames: int) -> None:
    expected = (num_frames, *feature.array_shape)
    if values.shape != expected:
        raise DatasetError(f"{key}: expected shape {expected}, got {values.shape}")
    if values.dtype != feature.array_dtype:
        raise DatasetError(f"{key}: expected {feature.array_dtype}, got {values.dtype}")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        frame = int(np.flatnonzero(~np.isfinite(values).reshape(num_frames, -1).all(axis=1))[0])
        raise DatasetError(f"{key}: NaN or infinity in frame {frame}")


def _feature_to_json(feature: Feature) -> dict[str, Any]:
    names = None if feature.names is None else list(feature.names)
    row: dict[str, Any] = {"dtype": feature.dtype, "shape": list(feature.shape), "names": names}
    return row | ({"info": dict(feature.info)} if feature.info else {})


def pyarrow() -> tuple[Any, Any]:
    """The modules pyarrow and pyarrow.parquet. Raises MissingPackageError."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            "demonstrations need the package pyarrow: pip install 'handeye[demonstrations]'"
        ) from error
    return pa, pq


def read_table(path: Path) -> Any:
    """A parquet file. Raises DatasetError where it is missing or torn."""
    pa, pq = pyarrow()
    try:
        return pq.ParquetFile(path).read()
    except (OSError, pa.ArrowInvalid) as error:
        raise DatasetError(f"{path}: cannot be read as parquet: {error}") from error


def read_column(table: Any, key: str, feature: Feature, path: Path) -> np.ndarray:
    """A feature's column of a table that was read from `path`. Raises DatasetError, naming both."""
    if key not in table.column_names:
        raise DatasetError(f"{path}: has no column {key}")
    try:
        values = to_numpy(table.column(key), feature.array_shape)
    except ValueError as error:
        raise DatasetError(f"{path}: {key}: {error}") from error
    return values.astype(feature.array_dtype, copy=False)


def list_column(values: np.ndarray) -> Any:
    """Rows of N numbers as an Arrow array of lists of fixed length."""
    pa, _ = pyarrow()
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def to_numpy(column: Any, shape: tuple[int, ...]) -> np.ndarray:
    """A column of numbers or nested lists as an array (T, *shape).

    Raises ValueError for a null or a list of another length.
    """
    pa, _ = pyarrow()
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    num_rows = len(array)
    while isinstance(array, pa.ExtensionArray) or pa.types.is_nested(array.type):
        if array.null_count:
            raise ValueError(f"{array.null_count} rows are null")
        array = array.storage if isinstance(array, pa.ExtensionArray) else array.flatten()
    if array.null_count:
        raise ValueError(f"{array.null_count} values are null")
    values = array.to_numpy(zero_copy_only=False)
    if values.size != num_rows * int(np.prod(shape)):
        raise ValueError(f"expected {shape} in each of {num_rows} rows, found {values.size} values in all")
    return values.reshape(num_rows, *shape)


def save_origin(folder: Path, origin: Mapping[str, Any]) -> None:
    """Write the configuration that the episodes are recorded with, in JSON's values, beside them."""
    write_json(folder / ORIGIN_PATH, origin)


def require_same_origin(folder: Path, origin: Mapping[str, Any]) -> None:
    """Raise DatasetError, naming the keys that differ, if the data set was recorded with another configuration.

    Data sets without the file (LeRobot's, and older ones of ours) pass.
    """
    path = folder / ORIGIN_PATH
    if not path.exists():
        return
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        then = _flat({RENAMED_KEYS.get(key, key): value for key, value in content.items()})
    except (OSError, ValueError, AttributeError) as error:
        raise DatasetError(f"{path}: cannot be read: {error}") from error
    now = _flat(json.loads(json.dumps(origin)))
    changed = [key for key in {**then, **now} if then.get(key, ABSENT) != now.get(key, ABSENT)]
    if changed:
        shown = ", ".join(f"{key} {then.get(key, ABSENT)}, now {now.get(key, ABSENT)}" for key in changed[:SHOWN])
        more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        raise DatasetError(f"{folder}: was recorded with {shown}{more}; record into another folder")


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
