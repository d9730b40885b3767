"""Statistics of the features of demonstrations: measured, merged, and as meta/stats.json has them.

They are LeRobot's: images by channel in 0..1, and quantiles of a data set as the weighted mean of those of its
episodes, which is an approximation; everything else is exact.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from handeye.robot.datasets.format import STATS_PATH, DatasetInfo, Feature
from handeye.vision.errors import DatasetError

Statistics = dict[str, dict[str, np.ndarray]]
"""{feature: {"min" | "max" | "mean" | "std" | "count" | "q01" ...: array}}."""
QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
IMAGES = 100
"""Images of an episode that enter its statistics, evenly spaced."""
REQUIRED = frozenset({"min", "max", "mean", "std", "count"})


def episode_statistics(columns: Mapping[str, np.ndarray], features: Mapping[str, Feature]) -> Statistics:
    """Statistics of the arrays of one episode, one row per frame; texts have none."""
    statistics = {}
    for key, values in columns.items():
        feature = features[key]
        if feature.dtype == "string":
            continue
        statistics[key] = _image_statistics(values) if feature.holds_images else _number_statistics(values)
    return statistics


def merge_statistics(first: Statistics, second: Statistics) -> Statistics:
    """Statistics of both together; deviations by the parallel formula of Chan, Golub and LeVeque (1979)."""
    return {key: _merge(first[key], second[key]) if key in first else second[key] for key in second}


def read_statistics(folder: Path, info: DatasetInfo) -> tuple[Statistics, tuple[str, ...]]:
    """meta/stats.json, and the features whose statistics are incomplete there, to be measured again.

    Raises DatasetError when the file belongs to other features or another number of frames.
    """
    path = folder / STATS_PATH
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{path}: expected statistics by feature, got {type(content).__name__}")
    stats, incomplete = {}, []
    for key, row in content.items():
        arrays = _arrays(row)
        if arrays is not None:
            stats[key] = arrays
        elif key in info.features and info.features[key].holds_numbers:
            incomplete.append(key)
    for key, feature in info.features.items():
        if not feature.holds_numbers or key in incomplete:
            continue
        # Of matrices LeRobot keeps other shapes.
        if key not in stats and len(feature.shape) == 1:
            raise DatasetError(f"{path}: has no statistics of {key}: are they of another data set?")
        if key in stats:
            _require_same_data(key, stats[key], feature, info.total_frames, str(path))
    return stats, tuple(incomplete)


def statistics_of_episodes(
    stated: Mapping[int, Any], lengths: Mapping[int, int], info: DatasetInfo, path: Path
) -> tuple[Statistics, tuple[str, ...]]:
    """The same from the statistics of each episode that v2.1 has; incomplete where one of them is.

    Raises DatasetError where they are of other features or frames, naming the episode.
    """
    stats: Statistics = {}
    rows = {index: stated.get(index) for index in lengths}
    for key, feature in info.features.items():
        of_episodes = {index: _arrays(row.get(key) if isinstance(row, dict) else None) for index, row in rows.items()}
        for index, arrays in of_episodes.items():
            is_unlike = arrays is not None and key in stats and arrays["mean"].shape != stats[key]["mean"].shape
            if arrays is None or is_unlike:
                stats.pop(key, None)
                break
            if feature.holds_numbers:
                _require_same_data(key, arrays, feature, lengths[index], f"{path}: episode {index}")
            stats[key] = _merge(stats[key], arrays) if key in stats else arrays
    return stats, tuple(key for key, feature in info.features.items() if feature.holds_numbers and key not in stats)


def _require_same_data(
    key: str, arrays: Mapping[str, np.ndarray], feature: Feature, num_frames: int, origin: str
) -> None:
    shape, count = arrays["mean"].shape, int(arrays["count"][0])
    if len(feature.shape) == 1 and (shape != feature.shape or count != num_frames):
        raise DatasetError(
            f"{origin}: statistics of another data set: {key} has shape {shape} over {count} frames there, "
            f"{feature.shape} over {num_frames} frames here"
        )


def _arrays(row: Any) -> dict[str, np.ndarray] | None:
    """The statistics of one feature as LeRobot writes them, or None where one is missing or is not of numbers."""
    if not isinstance(row, dict):
        return None
    try:
        arrays = {name: np.array(value, dtype=np.float64) for name, value in row.items()}
    except (TypeError, ValueError):
        return None
    if not arrays.keys() >= REQUIRED or any(not np.isfinite(arrays[name]).all() for name in REQUIRED):
        return None
    if arrays["count"].size != 1 or len({arrays[name].shape for name in REQUIRED - {"count"}}) > 1:
        return None
    return arrays | {"count": arrays["count"].reshape(1).astype(np.int64)}


def statistics_of_rows(rows: list[dict[str, Any]], info: DatasetInfo) -> Statistics:
    """Statistics of all episodes from those of each in the rows of v3.0."""
    merged: Statistics = {}
    for row in rows:
        of_episode: Statistics = {}
        for column, value in row.items():
            if column.startswith("stats/") and value is not None:
                key, _, name = column.removeprefix("stats/").rpartition("/")
                of_episode.setdefault(key, {})[name] = np.array(value)
        known = {key: value for key, value in of_episode.items() if key in info.features}
        merged = merge_statistics(merged, known) if merged else known
    return merged


def _number_statistics(values: np.ndarray) -> dict[str, np.ndarray]:
    rows = values.reshape(len(values), -1).astype(np.float64)
    shape = values.shape[1:] or (1,)
    result = {
        "min": rows.min(axis=0),
        "max": rows.max(axis=0),
        "mean": rows.mean(axis=0),
        "std": rows.std(axis=0),
        **{name: np.quantile(rows, share, axis=0) for name, share in QUANTILES.items()},
    }
    return {name: value.reshape(shape) for name, value in result.items()} | {"count": np.array([len(values)])}


def _image_statistics(images: np.ndarray) -> dict[str, np.ndarray]:
    """Of colours in 0..1 with shape (3, 1, 1), of depth in mm with shape (1, 1, 1); count is that of images."""
    chosen = images[np.unique(np.linspace(0, len(images) - 1, IMAGES).round().astype(int))]
    scale = 255.0 if chosen.dtype == np.uint8 else 1.0
    channels = chosen.shape[-1] if chosen.ndim == 4 else 1
    statistics = _number_statistics(chosen.reshape(-1, channels) / scale)
    shaped = {name: value.reshape(channels, 1, 1) for name, value in statistics.items() if name != "count"}
    return shaped | {"count": np.array([len(chosen)])}


def _merge(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    n, m = float(first["count"][0]), float(second["count"][0])
    mean = (n * first["mean"] + m * second["mean"]) / (n + m)
    spread = sum(weight * (part["std"] ** 2 + (part["mean"] - mean) ** 2) for weight, part in ((n, first), (m, second)))
    merged = {
        "min": np.minimum(first["min"], second["min"]),
        "max": np.maximum(first["max"], second["max"]),
        "mean": mean,
        "std": np.sqrt(spread / (n + m)),
        "count": first["count"] + second["count"],
    }
    for name in QUANTILES.keys() & first.keys() & second.keys():
        merged[name] = (n * first[name] + m * second[name]) / (n + m)
    return merged
