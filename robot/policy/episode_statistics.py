"""Minimum, maximum, mean, deviation and quantiles of each feature: of an episode, and of many put together.

As LeRobot keeps them: pictures by channel in 0..1, and quantiles of the whole as the weighted mean of the episodes'
quantiles, which is an approximation; everything else is exact.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from robot.datasets.format import Feature

Statistics = dict[str, dict[str, np.ndarray]]
"""{feature: {"min" | "max" | "mean" | "std" | "count" | "q01" ...: array}}."""
QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
PICTURES = 100
"""Pictures of an episode that are looked at, evenly spread; more change the figures little and cost time."""


def episode_statistics(columns: Mapping[str, np.ndarray], features: Mapping[str, Feature]) -> Statistics:
    """Statistics of the arrays of one episode, one row a frame; texts have none."""
    statistics = {}
    for key, values in columns.items():
        feature = features[key]
        if feature.dtype == "string":
            continue
        statistics[key] = _picture_statistics(values) if feature.is_picture else _number_statistics(values)
    return statistics


def merge_statistics(first: Statistics, second: Statistics) -> Statistics:
    """Statistics of both together; deviations by the parallel formula of Chan, Golub and LeVeque (1979)."""
    return {key: _merge(first[key], second[key]) if key in first else second[key] for key in second}


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


def _picture_statistics(pictures: np.ndarray) -> dict[str, np.ndarray]:
    """Of colours in 0..1 with shape (3, 1, 1), of depth in mm with shape (1, 1, 1); count is that of pictures."""
    chosen = pictures[np.unique(np.linspace(0, len(pictures) - 1, PICTURES).round().astype(int))]
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
