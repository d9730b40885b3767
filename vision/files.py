"""Atomic file writes (temporary file, fsync, rename), JSON and HTML files written that way, and text files read."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html import escape
from pathlib import Path

from handeye.vision.errors import DatasetError

REPORT_STYLE = (
    "body{font-family:sans-serif;max-width:74em;margin:2em auto;padding:0 1em}img{max-width:100%}"
    "table{border-collapse:collapse}th{text-align:left}td,th{padding:.2em 1em .2em 0;vertical-align:top}"
    "td.number{text-align:right;font-variant-numeric:tabular-nums}pre{background:#f4f4f4;padding:1em;overflow:auto}"
    "code{font-size:.85em}figure{margin:1em 0}figcaption{color:#555}.refused{color:#a00}"
    "summary{cursor:pointer;font-weight:bold;margin:.8em 0}"
)
"""Style sheet of every HTML report."""


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


def read_text(path: Path) -> str:
    """The text of a file in UTF-8. Raises DatasetError where it cannot be read or is in another encoding."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror or str(error) if isinstance(error, OSError) else "expected UTF-8"
        raise DatasetError(f"{path}: cannot be read: {reason}") from error
    if "\0" in text:
        raise DatasetError(f"{path}: cannot be read: expected UTF-8")
    return text


def read_class_names(path: Path) -> tuple[str, ...]:
    """The names in a text file, one a line. Raises DatasetError when it cannot be read or names one twice."""
    lines = [line.strip() for line in read_text(path).rstrip().splitlines()]
    if "" in lines:
        raise DatasetError(f"{path}: line {lines.index('') + 1} is empty; class ids count the lines")
    if not lines or len(set(lines)) != len(lines):
        raise DatasetError(f"{path}: expected one class name a line, none of them twice")
    return tuple(lines)


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write `content` as indented JSON, whole or not at all."""
    with replacing(path) as beside:
        beside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_html_report(path: Path, title: str, body: str, style: str = "") -> None:
    """Write an HTML page, whole or not at all; `title` is escaped, `body` is HTML, `style` adds to REPORT_STYLE."""
    title = escape(title)
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<style>{REPORT_STYLE}{style}</style><h1>{title}</h1>{body}</html>\n"
    )
    with replacing(path) as beside:
        beside.write_text(page, encoding="utf-8")


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
