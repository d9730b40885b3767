"""Read meta/info.json of LeRobot's data sets, v3.0 and v2: features, counts, rate and where the files lie."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from handeye.robot.datasets.format import (
    BOOK_KEEPING,
    DATA_PATH,
    FILES_IN_CHUNK,
    INFO_PATH,
    VERSION,
    VIDEO_PATH,
    DatasetInfo,
    Feature,
)
from handeye.vision.errors import DatasetError

VERSIONS = ("v2.0", "v2.1", VERSION)
EPISODES_OF_V2 = "meta/episodes.jsonl"
DATA_OF_V2 = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
VIDEO_OF_V2 = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
INDICES = {False: ("chunk_index", "file_index"), True: ("episode_chunk", "episode_index")}
"""In the paths of files; true for v2."""


def read_info(folder: Path) -> DatasetInfo:
    """Read meta/info.json. Raises DatasetError for a folder that is no data set of VERSIONS, saying what it is."""
    path = folder / INFO_PATH
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DatasetError(f"{folder}: not a data set of demonstrations, {INFO_PATH} is missing") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read: {error}") from error
    version = content.get("codebase_version") if isinstance(content, dict) else None
    if version not in VERSIONS:
        raise DatasetError(
            f"{path}: codebase_version is {version!r}, expected {', '.join(VERSIONS)}; convert it with LeRobot first"
        )
    try:
        return _info_from_json(content, version, by_episode=_is_by_episode(folder, version))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DatasetError(f"{path}: not what LeRobot {version} writes: {error!r}") from error


def _is_by_episode(folder: Path, version: str) -> bool:
    """Whether the files lie as in v2: by what describes the episodes, because editors keep versions that are untrue."""
    old, new = (folder / EPISODES_OF_V2).is_file(), (folder / "meta" / "episodes").is_dir()
    return old if old != new else version != VERSION


def _info_from_json(content: Mapping[str, Any], version: str, *, by_episode: bool) -> DatasetInfo:
    features = {key: _feature_from_json(row) for key, row in content["features"].items()}
    absent = BOOK_KEEPING.keys() - features.keys()
    if absent:
        raise ValueError(f"features {sorted(absent)} are missing")
    fps = content["fps"]
    # LeRobot's own converter from v2.1 wrote 10.0.
    if isinstance(fps, bool) or not (isinstance(fps, int | float) and fps > 0 and float(fps).is_integer()):
        raise ValueError(f"fps: expected a whole number above 0, got {fps!r}")
    chunks_size = int(content.get("chunks_size", FILES_IN_CHUNK))
    if chunks_size < 1:
        raise ValueError(f"chunks_size: expected at least 1, got {chunks_size}")
    data_path, video_path = (DATA_OF_V2, VIDEO_OF_V2) if by_episode else (DATA_PATH, VIDEO_PATH)
    return DatasetInfo(
        fps=int(fps),
        features=features,
        robot_type=content.get("robot_type") or "unknown",
        total_episodes=int(content["total_episodes"]),
        total_frames=int(content["total_frames"]),
        total_tasks=int(content["total_tasks"]),
        data_path=_template(content["data_path"], data_path, INDICES[by_episode]),
        video_path=_template(content.get("video_path") or video_path, video_path, INDICES[by_episode]),
        chunks_size=chunks_size,
        version=version,
        by_episode=by_episode,
    )


def _feature_from_json(row: Mapping[str, Any]) -> Feature:
    shape = tuple(int(size) for size in row["shape"])
    names = _flat_names(row.get("names"))
    labels = None if names is None else tuple(names)
    if row["dtype"] in ("video", "image") and labels is not None and labels[0] in ("channel", "channels"):
        shape, labels = (*shape[1:], shape[0]), (*labels[1:], labels[0])  # frames come with the channels last
    if labels is not None and len(shape) == 1:
        labels = _distinct(labels) if len(labels) == shape[0] else None
    return Feature(row["dtype"], shape, labels, row.get("info") or row.get("video_info") or {})


def _flat_names(names: Any) -> list[str] | None:
    """Names from a list, from groups of lists as {"motors": [...]}, or from places by name as {"x": 0, "y": 1}.

    With several groups a name is preceded by that of its group: both arms may have a joint of one name.
    """
    if isinstance(names, list):
        return [str(name) for name in names]
    if not isinstance(names, dict):
        return None
    if all(isinstance(group, list) for group in names.values()):
        return [f"{group}_{name}" if len(names) > 1 else str(name) for group, row in names.items() for name in row]
    if sorted(map(str, names.values())) == sorted(map(str, range(len(names)))):
        return sorted(names, key=lambda name: int(names[name]))
    return None


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names that occur twice get their place, as "gripper[6]" and "gripper[7]"."""
    return tuple(f"{name}[{place}]" if names.count(name) > 1 else name for place, name in enumerate(names))


def _template(given: str, ours: str, indices: tuple[str, str]) -> str:
    """The path of a file by its indices; `ours` for one by those of another version, which some writers keep."""
    try:
        given.format(video_key="", **dict.fromkeys(indices, 0))
    except KeyError:
        return ours
    except IndexError:
        raise ValueError(f"path {given!r}: expected one as {ours!r}") from None
    return given
