"""The arrays of a zarr store, version 2 or 3, in a folder or in a zip file.

The zarr library reads them, not code of ours: with version 3 came codecs in a chain, two ways to name chunks, shards
and stores of both versions, which it follows as the format goes on, and it installs on Python 3.11 to 3.13, where the
tests run.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from handeye.vision.errors import DatasetError, MissingPackageError

DESCRIPTIONS = (".zarray", "zarr.json")
"""Files that describe an array, of version 2 and 3."""


class ZarrStore:
    """A folder, or a zip file that has the store at its top or in a folder of its own."""

    def __init__(self, path: Path, marker: str = "") -> None:
        """`marker` is an array that the store has: by it the folder in a zip file is found. Raises DatasetError."""
        self.path = path
        self._prefix = _folder_in_zip(path, marker) if path.is_file() else ""

    def read(self, name: str) -> np.ndarray:
        """A whole array. Raises DatasetError when it is missing, damaged or of another kind."""
        place = self.path / name if name else self.path
        with self._opened(place) as (zarr, store):
            array = zarr.open_array(store=store, path=self._prefix + name, mode="r")
            if array.dtype.kind not in "fiub":
                raise DatasetError(f"{place}: an array of {array.dtype}, expected numbers")
            return np.asarray(array[...])

    def shapes(self, group: str) -> dict[str, tuple[int, ...]]:
        """The arrays of numbers in a group, and their shapes. Raises DatasetError."""
        with self._opened(self.path / group) as (zarr, store):
            found = zarr.open_group(store=store, path=self._prefix + group, mode="r")
            return {name: array.shape for name, array in sorted(found.arrays()) if array.dtype.kind in "fiub"}

    @contextmanager
    def _opened(self, place: Path) -> Iterator[tuple[Any, Any]]:
        """The zarr library and the store, open; its errors of any kind are told of `place`."""
        try:
            import zarr
            import zarr.storage
        except ModuleNotFoundError as error:
            raise MissingPackageError(
                f"{self.path}: replay buffers need the package zarr (Python 3.11 or later): "
                "pip install 'handeye[demonstrations]'"
            ) from error
        try:
            stores = zarr.storage
            is_zip = self.path.is_file()
            store = stores.ZipStore(self.path, mode="r") if is_zip else stores.LocalStore(self.path, read_only=True)
            try:
                yield zarr, store
            finally:
                store.close()
        except (DatasetError, MissingPackageError):
            raise
        except Exception as error:  # its codecs raise errors of their own, down to RuntimeError
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DatasetError(f"{place}: cannot be read as a zarr array: {reason}") from error


def has_zarr_array(folder: Path) -> bool:
    """Whether a folder is an array, of either version."""
    return any((folder / name).is_file() for name in DESCRIPTIONS)


def _folder_in_zip(path: Path, marker: str) -> str:
    try:
        with zipfile.ZipFile(path) as file:
            names = file.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise DatasetError(f"{path}: cannot be read as a zip file: {error}") from error
    ends = tuple(f"{marker}/{name}" for name in DESCRIPTIONS)
    found = sorted(
        {
            name[: -len(end)]
            for name in names
            for end in ends
            if name.endswith(end) and name[: -len(end)][-1:] in ("", "/") and not name.startswith("__MACOSX/")
        }
    )
    if len(found) != 1:
        some = ", ".join(found) if found else "none"
        raise DatasetError(f"{path}: expected one zarr store with {marker} in it, found {some}")
    return found[0]
