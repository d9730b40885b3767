"""Small episodes with every kind of feature, different for each number, to write and to read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from handeye.robot.datasets.format import Episode, Feature, colour_video, depth_image, numbers
from handeye.robot.datasets.writer import EpisodeWriter

FPS = 10
SIZE_HW = (32, 48)
FEATURES = {
    "observation.state": numbers(("a", "b", "c")),
    "action": numbers(("x", "y")),
    "stamp_s": Feature("float64", (1,)),
    "is_held": Feature("bool", (1,)),
    "note": Feature("string", (1,)),
    "observation.images.top": colour_video(*SIZE_HW),
    "depth.top": depth_image(*SIZE_HW),
}


def draw_episode(number: int, length: int = 6, task: str = "lift") -> Episode:
    rng = np.random.default_rng(number)
    level = np.linspace(20, 200, length).astype(np.uint8)
    images = np.broadcast_to(level[:, None, None, None], (length, *SIZE_HW, 3)).copy()
    images[..., 0] = min(10 * number, 250)
    columns = {
        "observation.state": rng.normal(size=(length, 3)).astype(np.float32),
        "action": rng.normal(size=(length, 2)).astype(np.float32),
        "stamp_s": 1e5 + np.arange(length) / FPS + 1e-7 * number,
        "is_held": rng.random(length) < 0.5,
        "note": np.array([f"frame {frame}" for frame in range(length)], object),
        "observation.images.top": images,
        "depth.top": rng.integers(0, 10_000, (length, *SIZE_HW)).astype(np.uint16),
    }
    return Episode(columns, task)


def open_writer(folder: Path) -> EpisodeWriter:
    return EpisodeWriter.open(folder, FPS, FEATURES, "test arm")
