"""Read demonstrations, whatever their layout: LeRobot's v3.0 and v2, ACT's HDF5, replay buffers in zarr."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from handeye.robot.datasets.act_files import ACT_FPS, ActFiles, list_act_episodes
from handeye.robot.datasets.format import INFO_PATH, DatasetInfo, Episode, Feature
from handeye.robot.datasets.lerobot_files import LeRobotFiles
from handeye.robot.datasets.replay_buffer import ENDS, ReplayBuffer, is_replay_buffer
from handeye.robot.datasets.statistics import Statistics, episode_statistics, merge_statistics
from handeye.vision.errors import DatasetError
from handeye.vision.images import natural_order

Value = TypeVar("Value")
LAYOUTS = (
    "LeRobot's (meta/info.json, v2.0 to v3.0), ACT's (episode_*.hdf5) and Diffusion Policy's replay buffers "
    f"(zarr folder or zip file with {ENDS})"
)
SHOWN = 5
"""Names that are told of a folder in no known layout."""


@runtime_checkable
class Layout(Protocol):
    """How demonstrations lie on disk. Indices are those of episodes that exist, keys those of the files."""

    @property
    def folder(self) -> Path:
        """Where they lie."""
        ...

    @property
    def info(self) -> DatasetInfo:
        """Features, book-keeping included, rate and counts."""
        ...

    @property
    def tasks(self) -> Mapping[int, str]:
        """Tasks by the index that the frames have."""
        ...

    @property
    def ends(self) -> Sequence[int]:
        """One beyond the last frame of each episode, in the whole set."""
        ...

    def read_statistics(self) -> tuple[Statistics, tuple[str, ...]]:
        """Statistics that are stored, and the features of numbers that have to be measured."""
        ...

    def file_of(self, index: int, /) -> Path:
        """Where the numbers of an episode are stored."""
        ...

    def read_columns(self, index: int, /) -> dict[str, np.ndarray]:
        """All features but images, one row for each frame, as stored. Raises DatasetError."""
        ...

    def read_images(self, index: int, key: str, /) -> np.ndarray:
        """The images of a camera, one for each frame. Raises DatasetError."""
        ...


class EpisodeDataset:
    """A data set of demonstrations, opened by `open`; episodes are read lazily."""

    def __init__(self, layout: Layout, keys: Mapping[str, str] | None = None) -> None:
        """`keys` gives numbers the names that they have here, as {"observation.state": "state"}."""
        self._layout = layout
        self._keys = {ours: theirs for ours, theirs in (keys or {}).items() if ours != theirs}
        _require_numbers(layout.info, list(self._keys.values()), layout.folder)
        self.info = replace(layout.info, features=self._renamed(layout.info.features))
        self._begins = [0, *layout.ends]
        stats, incomplete = layout.read_statistics()
        self.stats = self._renamed(stats)
        """Statistics by feature, as the files have them, measured where they do not."""
        self.stats |= self.measure(tuple(self._renamed(dict.fromkeys(incomplete))))

    @classmethod
    def open(cls, folder: Path, keys: Mapping[str, str] | None = None, fps: int | None = None) -> EpisodeDataset:
        """Recognise the layout and read what describes the episodes; `fps` is for files that do not hold their rate.

        Raises DatasetError for other layouts, and for a set that is incomplete.
        """
        return cls(_open_layout(Path(folder), fps), keys)

    @property
    def folder(self) -> Path:
        """Where the data set lies."""
        return self._layout.folder

    @property
    def tasks(self) -> list[str]:
        """The tasks in the order of their index."""
        return [name for _, name in sorted(self._layout.tasks.items())]

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
        return len(self._begins) - 1

    @property
    def num_frames(self) -> int:
        """Number of frames of all episodes."""
        return self._begins[-1]

    @property
    def image_keys(self) -> tuple[str, ...]:
        """The colour cameras."""
        return tuple(
            key for key, feature in self.features.items() if feature.holds_images and feature.shape[-1] in {3, 4}
        )

    def first_frame(self, index: int) -> int:
        """Number of an episode's first frame in the whole set."""
        self._require_episode(index)
        return self._begins[index]

    def episode_length(self, index: int) -> int:
        """Frames of an episode."""
        return self._begins[index + 1] - self.first_frame(index)

    def read_episode(self, index: int) -> Episode:
        """All columns but images, one row per frame, book-keeping included.

        Raises DatasetError for an index that does not exist, for files that disagree with what describes them, and for
        numbers that are not finite.
        """
        columns = self.read_columns(index)
        path = self._layout.file_of(index)
        for key, values in columns.items():
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise DatasetError(f"{path}: {key} holds NaN or infinity")
        begin, end = self._begins[index], self._begins[index + 1]
        if not np.array_equal(columns["index"], np.arange(begin, end)):
            raise DatasetError(f"{path}: frames of episode {index} are not {begin} to {end - 1}")
        task = int(columns["task_index"][0])
        if task not in self._layout.tasks:
            raise DatasetError(f"{path}: names task {task}, but there are {len(self._layout.tasks)}")
        return Episode(columns, self._layout.tasks[task])

    def read_columns(self, index: int) -> dict[str, np.ndarray]:
        """The columns of an episode as stored, unchecked. Raises DatasetError."""
        self._require_episode(index)
        return self._renamed(self._layout.read_columns(index))

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
        self._require_episode(index)
        try:
            return self._layout.read_images(index, key)
        except DatasetError as error:
            raise DatasetError(f"episode {index}: {error}") from error

    def _require_episode(self, index: int) -> None:
        if not 0 <= index < self.num_episodes:
            raise DatasetError(f"{self.folder}: has no episode {index}, it has {self.num_episodes}, counted from 0")

    def _renamed(self, by_key: Mapping[str, Value]) -> dict[str, Value]:
        """The values under our names; one that already has such a name gives way."""
        ours = {theirs: key for key, theirs in self._keys.items()}
        return {ours.get(key, key): value for key, value in by_key.items() if key not in self._keys}


def _open_layout(folder: Path, fps: int | None) -> Layout:
    if fps is not None and fps < 1:
        raise DatasetError(f"{folder}: a rate of {fps} frames per second; expected at least 1")
    if (folder / INFO_PATH).exists():
        files = LeRobotFiles.open(folder)
        if fps is not None:
            raise DatasetError(f"{folder / INFO_PATH}: states {files.info.fps} frames per second; leave fps out")
        return files
    if paths := list_act_episodes(folder):
        return ActFiles(folder, paths, ACT_FPS if fps is None else fps)
    if is_replay_buffer(folder):
        if fps is None:
            raise DatasetError(f"{folder}: a replay buffer does not hold its rate: give --fps, in training data.fps")
        return ReplayBuffer(folder, None, fps)
    found = "a file of another kind" if folder.is_file() else "no such folder"
    if folder.is_dir():
        names = [path.name for path in natural_order(folder.iterdir())]
        found = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "") if names else "an empty folder"
    raise DatasetError(f"{folder}: not a data set of demonstrations: {found}; layouts that are read: {LAYOUTS}")


def _require_numbers(info: DatasetInfo, keys: Sequence[str], folder: Path) -> None:
    for key in keys:
        if key not in info.recorded or info.features[key].holds_images:
            numbers = ", ".join(key for key, feature in info.recorded.items() if not feature.holds_images)
            raise DatasetError(f"{folder}: has no numbers {key!r}; it has {numbers}")
