"""Files that are whole or absent: everything is written beside its place and renamed into it."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; on success it replaces `path`, on an error it is removed.

    The temporary name keeps the suffix, because writers choose their format by it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield beside
        _flush_to_disk(beside)
        beside.chmod(_mode_for(path))
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def whole_files(folder: Path, pattern: str) -> list[Path]:
    """The files in `folder` that match, by name, without those that a killed process left half written."""
    return sorted(path for path in folder.glob(pattern) if ".partial" not in path.suffixes)


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write `content` as indented JSON, whole or not at all."""
    with replacing(path) as beside:
        beside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _mode_for(path: Path) -> int:
    """The permissions that `path` has, or a plain new file would have: some writers allow nobody but the owner."""
    if path.exists():
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _flush_to_disk(path: Path) -> None:
    """Force the bytes out, so that a power cut after the rename cannot leave an empty file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
