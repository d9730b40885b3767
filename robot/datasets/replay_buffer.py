"""Read demonstrations from replay buffers of Diffusion Policy (Chi et al. 2023): zarr stores, as folders or zip files.

`data/NAME` holds all episodes one after the other, `meta/episode_ends` where each ends. The rate is not in the files.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pydantic import Field

from handeye.robot.datasets.format import BOOK_KEEPING, DatasetInfo, Feature, book_keeping
from handeye.robot.datasets.statistics import Statistics
from handeye.robot.datasets.zarr_store import ZarrStore, has_zarr_array
from handeye.robot.types import ACTION_KEY, STATE_KEY
from handeye.vision.config import Config
from handeye.vision.errors import DatasetError

ENDS = "meta/episode_ends"
KEYS = {"state": STATE_KEY, "action": ACTION_KEY}
"""Arrays by the features that they are, where nothing else is said."""
NUM_AXES_OF_IMAGES = 4


class ColumnConfig(Config):
    """Which array of a replay buffer a feature is, flattened for each frame; `take` picks numbers of it by place."""

    array: str
    take: tuple[int, ...] | None = None
    names: tuple[str, ...] | None = Field(default=None)
    """Of the numbers that are left; by default the array's name and their place in it."""


class ReplayBuffer:
    """A `Layout`: a replay buffer, read whole, without images."""

    def __init__(self, folder: Path, columns: Mapping[str, ColumnConfig] | None, fps: int) -> None:
        """`columns` says which array is which feature, None takes every array of numbers; `fps` is the rate.

        Raises DatasetError where an array is missing, damaged or of another length than the episodes.
        """
        self.folder = folder
        store = ZarrStore(folder, ENDS)
        ends = store.read(ENDS).reshape(-1)
        bounds = [0, *(int(end) for end in ends)]
        if sorted(set(bounds)) != bounds or len(bounds) == 1:
            raise DatasetError(f"{folder}: {ENDS} must rise from above zero, it is {ends[:8].tolist()} ...")
        self.ends = bounds[1:]
        """One beyond the last frame of each episode."""
        self.tasks = {0: folder.name.removesuffix(".zip").removesuffix(".zarr")}
        self._columns: dict[str, np.ndarray] = {}
        features: dict[str, Feature] = {}
        for key, column in (_every_column(store) if columns is None else columns).items():
            values, names = _take(column, _read_column(store, column), key)
            if len(values) != bounds[-1]:
                raise DatasetError(f"{folder}: {column.array} has {len(values)} frames, the episodes {bounds[-1]}")
            self._columns[key] = values
            features[key] = Feature("float32", (values.shape[1],), names)
        self.info = DatasetInfo(fps, features | BOOK_KEEPING, "unknown", len(self.ends), bounds[-1], 1)

    def read_statistics(self) -> tuple[Statistics, tuple[str, ...]]:
        """None are stored."""
        return {}, tuple(self._columns)

    def file_of(self, index: int) -> Path:
        """All episodes are in one."""
        return self.folder

    def read_columns(self, index: int) -> dict[str, np.ndarray]:
        """The numbers of an episode, and the counters of its frames."""
        begin, end = self.ends[index - 1] if index else 0, self.ends[index]
        # A feature of one number has no axis for it.
        rows = {
            key: values[begin:end].reshape(end - begin, *self.info.features[key].array_shape)
            for key, values in self._columns.items()
        }
        return rows | book_keeping(index, begin, end - begin, self.info.fps)

    def read_images(self, index: int, key: str) -> np.ndarray:
        """Raises DatasetError: images are not read from replay buffers."""
        raise DatasetError(f"{self.folder}: {key}: a replay buffer is read without images")


def is_replay_buffer(path: Path) -> bool:
    """Whether a folder is one, or a file may be."""
    return has_zarr_array(path / ENDS) or (path.is_file() and path.suffix.lower() == ".zip")


def _every_column(store: ZarrStore) -> dict[str, ColumnConfig]:
    shapes = store.shapes("data")
    arrays = [name for name, shape in shapes.items() if 1 <= len(shape) < NUM_AXES_OF_IMAGES]
    return {KEYS.get(name, name): ColumnConfig(array=name) for name in arrays}


def _read_column(store: ZarrStore, column: ColumnConfig) -> np.ndarray:
    values = store.read(f"data/{column.array}")
    return values.reshape(len(values), -1).astype(np.float32)


def _take(column: ColumnConfig, values: np.ndarray, key: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """The numbers that are asked for and their names."""
    take = tuple(range(values.shape[1])) if column.take is None else column.take
    if any(not 0 <= place < values.shape[1] for place in take):
        raise DatasetError(f"{key}: take {take} reaches beyond the {values.shape[1]} numbers of {column.array}")
    names = column.names or tuple(f"{column.array}_{place}" for place in take)
    if len(names) != len(take):
        raise DatasetError(f"{key}: {len(names)} names are given for {len(take)} numbers")
    return np.ascontiguousarray(values[:, take]), names
