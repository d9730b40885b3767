"""Arrow columns to numpy and back; the only file that knows pyarrow's types."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vision.errors import DatasetError, MissingPackageError


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
