"""Read demonstrations from replay buffers of Diffusion Policy (Chi et al. 2023): zarr folders of version 2.

`data/NAME` holds all episodes one after the other, `meta/episode_ends` where each ends. An array is a folder with its
description in `.zarray` and one compressed file for each chunk, named by its place.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
from pydantic import Field

from handeye.vision.config import Config
from handeye.vision.errors import DatasetError


class ColumnConfig(Config):
    """Which array of a replay buffer a feature is, flattened for each frame; `take` picks numbers of it by place."""

    array: str
    take: tuple[int, ...] | None = None
    names: tuple[str, ...] | None = Field(default=None)
    """Of the numbers that are left; by default the array's name and their place in it."""


@dataclass(frozen=True, slots=True, eq=False)
class ReplayFeature:
    """A feature's names and shape, as LeRobot describes it."""

    dtype: str
    shape: tuple[int, ...]
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class ReplayEpisode:
    """The features of one episode by key, a row for each frame."""

    columns: Mapping[str, np.ndarray]


class ReplayBuffer:
    """An `EpisodeSource` over a replay buffer without images."""

    image_keys: tuple[str, ...] = ()

    def __init__(self, root: Path, columns: Mapping[str, ColumnConfig], fps: int) -> None:
        """Read everything; `columns` says which array is which feature, `fps` the rate, which the folder does not hold.

        Raises DatasetError where an array is missing, damaged or of another length than the episodes.
        """
        root = Path(root)
        self.fps = fps
        ends = read_zarr_array(root / "meta/episode_ends")
        self._bounds = [0, *(int(end) for end in ends)]
        if sorted(set(self._bounds)) != self._bounds:
            raise DatasetError(f"{root}: meta/episode_ends must rise from above zero, it is {ends[:8].tolist()} ...")
        self._columns: dict[str, np.ndarray] = {}
        self.features: dict[str, ReplayFeature] = {}
        for key, column in columns.items():
            values, names = _take(column, _read_column(root, column), key)
            if len(values) != self._bounds[-1]:
                raise DatasetError(f"{root}: {column.array} has {len(values)} frames, the episodes {self._bounds[-1]}")
            self._columns[key] = values
            self.features[key] = ReplayFeature("float32", (values.shape[1],), names)

    @property
    def num_episodes(self) -> int:
        """Number of episodes."""
        return len(self._bounds) - 1

    def read_episode(self, number: int) -> ReplayEpisode:
        """Episode 0, 1, ... with all its features."""
        frames = slice(self._bounds[number], self._bounds[number + 1])
        return ReplayEpisode({key: values[frames] for key, values in self._columns.items()})

    def read_images(self, number: int, key: str) -> np.ndarray:
        """Raises DatasetError: images are not read from replay buffers."""
        raise DatasetError(f"{key}: a replay buffer is read without images; convert it to a LeRobot data set")


def read_zarr_array(folder: Path) -> np.ndarray:
    """A whole array of zarr version 2. Raises DatasetError when it is missing, damaged or of another kind."""
    try:
        description = json.loads((folder / ".zarray").read_text(encoding="utf-8"))
        shape, chunks = tuple(description["shape"]), tuple(description["chunks"])
        if description["zarr_format"] != 2 or description.get("filters") or description["order"] != "C":
            raise DatasetError(f"{folder}: expected a zarr array of version 2 in C order without filters")
        dtype, separator = np.dtype(description["dtype"]), description.get("dimension_separator", ".")
        array = np.full(shape, description["fill_value"] or 0, dtype)
        for place in itertools.product(
            *(range(math.ceil(size / step)) for size, step in zip(shape, chunks, strict=True))
        ):
            path = folder / separator.join(str(number) for number in place)
            if path.is_file():  # a chunk that holds nothing but the fill value is left out
                chunk = _decode(path.read_bytes(), description["compressor"], dtype).reshape(chunks)
                corner = tuple(
                    slice(number * step, (number + 1) * step) for number, step in zip(place, chunks, strict=True)
                )
                room = array[corner].shape
                array[corner] = chunk[tuple(slice(size) for size in room)]
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{folder}: cannot be read as a zarr array: {error}") from error
    return array


def _decode(content: bytes, compressor: Mapping[str, Any] | None, dtype: np.dtype) -> np.ndarray:
    raw: Any = content if compressor is None else numcodecs.get_codec(dict(compressor)).decode(content)
    return np.frombuffer(bytes(raw), dtype)


def _read_column(root: Path, column: ColumnConfig) -> np.ndarray:
    values = read_zarr_array(root / "data" / column.array)
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
