"""Read demonstrations as ACT and ALOHA record them (Zhao et al. 2023): an HDF5 file for each episode.

`/observations/qpos` is the state, `/action` the action, `/observations/images/NAME` a camera: arrays, or JPEG in each
row. The rate is not in the files; it is 50 Hz by convention.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from handeye.robot.datasets.format import BOOK_KEEPING, DatasetInfo, Feature, book_keeping
from handeye.robot.datasets.statistics import Statistics
from handeye.robot.types import ACTION_KEY, IMAGE_PREFIX, STATE_KEY
from handeye.vision.errors import DatasetError, MissingPackageError, SourceError
from handeye.vision.images import decode_image, natural_order

ACT_FPS = 50
SUFFIXES = (".hdf5", ".h5")
STATE, ACTION, IMAGES = "observations/qpos", "action", "observations/images"
JPEG_LENGTHS = "compress_len"


def list_act_episodes(path: Path) -> list[Path]:
    """The HDF5 files of a folder in natural order, or the one that is given."""
    candidates = path.iterdir() if path.is_dir() else (path,)
    return natural_order(
        file for file in candidates if file.suffix.lower() in SUFFIXES and file.is_file() and file.name[0] != "."
    )


class ActFiles:
    """A `Layout`: one HDF5 file for each episode."""

    def __init__(self, folder: Path, paths: Sequence[Path], fps: int = ACT_FPS) -> None:
        """Open each file once. Raises DatasetError unless all have the same numbers and cameras."""
        self.folder = folder
        self._paths = paths
        self._entries: dict[str, str] = {}
        features, robot = self._describe_first(paths[0])
        self.ends: list[int] = []
        """One beyond the last frame of each episode."""
        for path in paths:
            self.ends.append((self.ends[-1] if self.ends else 0) + self._length(path, features))
        self.tasks = {0: folder.stem}
        """The folder is named by the task."""
        self.info = DatasetInfo(fps, features | BOOK_KEEPING, robot, len(paths), self.ends[-1], 1)

    def read_statistics(self) -> tuple[Statistics, tuple[str, ...]]:
        """None are stored."""
        return {}, tuple(key for key, feature in self.info.recorded.items() if feature.holds_numbers)

    def file_of(self, index: int) -> Path:
        """The file of an episode."""
        return self._paths[index]

    def read_columns(self, index: int) -> dict[str, np.ndarray]:
        """The numbers of an episode, and the counters of its frames. Raises DatasetError."""
        begin = self.ends[index - 1] if index else 0
        with _opened(self._paths[index]) as file:
            columns = {
                key: _read(file, self._entries[key], self._paths[index]).astype(feature.array_dtype)
                for key, feature in self.info.recorded.items()
                if feature.holds_numbers
            }
        return columns | book_keeping(index, begin, self.ends[index] - begin, self.info.fps)

    def read_images(self, index: int, key: str) -> np.ndarray:
        """The images of one camera in RGB. Raises DatasetError."""
        path, entry = self._paths[index], self._entries[key]
        with _opened(path) as file:
            rows = _read(file, entry, path)
        if rows.ndim == 4:
            return rows
        images = [_decode(row, f"{path}: /{entry}, row {number}") for number, row in enumerate(rows)]
        other = next((number for number, image in enumerate(images) if image.shape != images[0].shape), None)
        if other is not None:
            sizes = f"{images[other].shape}, row 0 {images[0].shape}"
            raise DatasetError(f"{path}: /{entry}: the image of row {other} has the shape {sizes}")
        return np.stack(images)

    def _describe_first(self, path: Path) -> tuple[dict[str, Feature], str]:
        """Features by the first file, and whether the arm is simulated; entries are kept by feature."""
        with _opened(path) as file:
            if not all(_is_array(file, entry) for entry in (STATE, ACTION)):
                found = ", ".join(f"/{name}" for name in file) or "nothing"
                raise DatasetError(f"{path}: expected ACT's /{STATE} and /{ACTION}, found {found}")
            self._entries = _entries(file)
            features = {key: _feature(file, key, entry, path) for key, entry in self._entries.items()}
            return features, "simulated" if bool(file.attrs.get("sim", False)) else "unknown"

    def _length(self, path: Path, features: Mapping[str, Feature]) -> int:
        """Frames of an episode, the same in each of its arrays, which are those of the first file."""
        with _opened(path) as file:
            entries = _entries(file)
            for key in sorted(self._entries.keys() ^ entries.keys()):
                entry, has = {**self._entries, **entries}[key], "has" if key in entries else "lacks"
                raise DatasetError(f"{path}: {has} /{entry}, other than {self._paths[0].name}")
            length = len(file[ACTION])
            for key, entry in entries.items():
                feature = _feature(file, key, entry, path)
                if feature.shape != features[key].shape:
                    here, there = feature.shape, features[key].shape
                    raise DatasetError(f"{path}: /{entry} has {here} in a row, in {self._paths[0].name} {there}")
                if len(file[entry]) != length:
                    raise DatasetError(f"{path}: /{entry} has {len(file[entry])} rows, /{ACTION} {length}")
        if not length:
            raise DatasetError(f"{path}: /{ACTION} is empty")
        return length


def _entries(file: Any) -> dict[str, str]:
    """Features and the arrays that they are: observations, cameras, and what has a row for each frame beside them."""
    names = {STATE: STATE_KEY, ACTION: ACTION_KEY}
    entries = {}
    for entry in (*(f"observations/{name}" for name in file.get("observations", ())), *file):
        is_numbers = _is_array(file, entry) and file[entry].ndim in (1, 2) and file[entry].dtype.kind in "fiub"
        is_beside = "/" not in entry and is_numbers and ACTION in file and len(file[entry]) != len(file[ACTION])
        if entry in names or (is_numbers and not is_beside and entry != JPEG_LENGTHS):
            entries[names.get(entry, entry.replace("observations/", "observation."))] = entry
    return entries | {IMAGE_PREFIX + camera: f"{IMAGES}/{camera}" for camera in file.get(IMAGES, ())}


def _is_array(file: Any, entry: str) -> bool:
    return entry in file and hasattr(file[entry], "dtype")


def _feature(file: Any, key: str, entry: str, path: Path) -> Feature:
    """What an array holds. Raises DatasetError where it is neither numbers nor images."""
    if not key.startswith(IMAGE_PREFIX):
        array = file[entry]
        if array.ndim not in (1, 2) or array.dtype.kind not in "fiub":
            raise DatasetError(f"{path}: /{entry} is {array.dtype} {array.shape}, expected a row of numbers a frame")
        return Feature("float32", array.shape[1:] or (1,))
    if not _is_array(file, entry):
        raise DatasetError(f"{path}: /{entry} is no array")
    array = file[entry]
    is_coded = array.ndim == 1 or (array.ndim == 2 and array.dtype == np.uint8)
    if len(array) and is_coded:
        shape = _decode(array[0], f"{path}: /{entry}, row 0").shape
    else:
        shape = array.shape[1:]
        if len(shape) != 3 or shape[2] != 3 or array.dtype != np.uint8:
            expected = "uint8 (frames, height, width, 3) or JPEG rows"
            raise DatasetError(f"{path}: /{entry} is {array.dtype} {array.shape}, expected {expected}")
    return Feature("image", tuple(shape), ("height", "width", "channels"))


def _decode(row: Any, origin: str) -> np.ndarray:
    """A JPEG with zeros behind it, in the order of channels that was encoded: RGB.

    ACT hands RGB to OpenCV, which takes it for BGR: other decoders see red and blue exchanged.
    """
    content = row if isinstance(row, bytes) else np.asarray(row, np.uint8).tobytes()
    try:
        return np.ascontiguousarray(decode_image(content, origin)[..., ::-1])
    except SourceError as error:
        raise DatasetError(str(error)) from error


def _read(file: Any, entry: str, path: Path) -> np.ndarray:
    try:
        return file[entry][()]
    except (OSError, KeyError, ValueError) as error:
        raise DatasetError(f"{path}: /{entry} cannot be read: {error}") from error


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An HDF5 file. Raises DatasetError where it is torn, MissingPackageError without h5py."""
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise MissingPackageError(f"{path}: HDF5 needs the package h5py: pip install 'handeye[hdf5]'") from error
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read as HDF5: {error}") from error
    with file:
        yield file
