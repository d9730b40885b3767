"""What demonstrations were recorded with, kept beside them: a recording that goes on with something else is a mixture.

LeRobot's data sets and those of before have no such file; nothing can be held against them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vision.errors import DatasetError
from vision.files import write_json

ORIGIN_PATH = "meta/recorded_with.json"
ABSENT = "nothing"
TOLD = 3
"""So many of the differences are told."""


def save_origin(folder: Path, origin: Mapping[str, Any]) -> None:
    """Write it down; values as JSON has them."""
    write_json(folder / ORIGIN_PATH, origin)


def require_same_origin(folder: Path, origin: Mapping[str, Any]) -> None:
    """Raise DatasetError, with the keys that differ, where the data set was recorded with something else."""
    path = folder / ORIGIN_PATH
    if not path.exists():
        return
    try:
        then = _flat(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError) as error:
        raise DatasetError(f"{path}: cannot be read: {error}") from error
    now = _flat(json.loads(json.dumps(origin)))
    changed = [key for key in {**then, **now} if then.get(key, ABSENT) != now.get(key, ABSENT)]
    if changed:
        told = ", ".join(f"{key} {then.get(key, ABSENT)}, now {now.get(key, ABSENT)}" for key in changed[:TOLD])
        more = f" and {len(changed) - TOLD} more" if len(changed) > TOLD else ""
        raise DatasetError(f"{folder}: was recorded with {told}{more}; record into another folder")


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
