"""Episodes of a LeRobot data set, v3.0 or v2: rows in parquet, images in rows or in videos, found by time stamps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from handeye.robot.datasets.format import DatasetInfo, read_column, read_table
from handeye.robot.datasets.lerobot_index import EpisodeIndex, EpisodePlace, Place, read_index
from handeye.robot.datasets.lerobot_info import read_info
from handeye.robot.datasets.statistics import Statistics
from handeye.robot.datasets.video import read_video
from handeye.vision.errors import DatasetError


class LeRobotFiles:
    """A `Layout`: the files of LeRobot, opened by `open`."""

    def __init__(self, folder: Path, info: DatasetInfo, index: EpisodeIndex) -> None:
        self.folder = folder
        self.info = info
        self._index = index
        self._cached: tuple[Path, Any] | None = None

    @classmethod
    def open(cls, folder: Path) -> LeRobotFiles:
        """Read meta/. Raises DatasetError with the reason unless it is complete."""
        info = read_info(folder)
        return cls(folder, info, read_index(folder, info))

    @property
    def tasks(self) -> Mapping[int, str]:
        """Tasks by the index that the rows have."""
        return self._index.tasks

    @property
    def ends(self) -> Sequence[int]:
        """One beyond the last frame of each episode."""
        return [place.end for place in self._index.places]

    @property
    def last_places(self) -> tuple[Place, ...]:
        """Chunk and file index of the last episode's files, of each kind; none in v2."""
        return self._index.places[-1].indices

    def read_statistics(self) -> tuple[Statistics, tuple[str, ...]]:
        """What meta/ states, and the features that have to be measured."""
        return self._index.stats, self._index.incomplete

    def file_of(self, index: int) -> Path:
        """The file of an episode's rows."""
        return self._place(index).data

    def read_columns(self, index: int) -> dict[str, np.ndarray]:
        """The columns of an episode as stored, but images. Raises DatasetError."""
        table, path = self._rows_of(index), self.file_of(index)
        features = {key: feature for key, feature in self.info.features.items() if not feature.holds_images}
        return {key: read_column(table, key, feature, path) for key, feature in features.items()}

    def read_images(self, index: int, key: str) -> np.ndarray:
        """The images of one camera. Raises DatasetError, also for a row without a frame."""
        if self.info.features[key].dtype == "image":
            if key not in self._rows_of(index).column_names:
                raise DatasetError(f"{self.file_of(index)}: has no column {key}")
            column = self._rows_of(index).column(key).to_pylist()
            return np.stack([self._decode(row, key) for row in column])
        path, from_s = self._place(index).videos[key]
        stamps = read_column(self._rows_of(index), "timestamp", self.info.features["timestamp"], self.file_of(index))
        return read_video(path, from_s + stamps.astype(np.float64), 1.0 / self.info.fps)

    def _place(self, index: int) -> EpisodePlace:
        return self._index.places[index]

    def _rows_of(self, index: int) -> Any:
        """The rows of one episode; the file read last is kept, because files of v3.0 hold many episodes."""
        place, path = self._place(index), self.file_of(index)
        if self._cached is None or self._cached[0] != path:
            self._cached = (path, read_table(path))
        table = self._cached[1]
        if "episode_index" not in table.column_names:
            raise DatasetError(f"{path}: has no column episode_index")
        rows = np.flatnonzero(table.column("episode_index").to_numpy() == index)
        if len(rows) != place.end - place.begin:
            raise DatasetError(
                f"{path}: expected {place.end - place.begin} frames of episode {index}, found {len(rows)}"
            )
        return table.slice(int(rows[0]), len(rows))

    def _decode(self, row: Mapping[str, Any] | None, key: str) -> np.ndarray:
        coded = None if row is None else row.get("bytes")
        image = None if coded is None else cv2.imdecode(np.frombuffer(coded, np.uint8), cv2.IMREAD_UNCHANGED)
        if image is None:
            raise DatasetError(f"{self.folder}: an image of {key} is missing or broken")
        return image[..., ::-1] if image.ndim == 3 else image
