"""Table tops painted by arithmetic. The patterns of `train` and of `held_out` are different functions."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from typing_extensions import assert_never

from robot.simulator.objects import Profile

TEXTURE_PX = 512

Colour = Float[np.ndarray, " 3"]
Pattern = Float[np.ndarray, "P P"]


def draw_table_texture(rng: np.random.Generator, profile: Profile) -> UInt8[np.ndarray, "P P 3"]:
    """A square table texture: a pattern in 0..1 mixes two related colours."""
    match profile:
        case Profile.TRAIN:
            patterns = (_plain, _wood, _speckle, _tiles, _weave, _clouds)
        case Profile.HELD_OUT:
            patterns = (_marble, _dots, _scratches)
        case _:
            assert_never(profile)
    pattern = patterns[rng.integers(len(patterns))](rng)
    base = _table_colour(rng)
    other = np.clip(base * rng.uniform(0.45, 1.45) + rng.normal(0, 0.03, 3), 0.02, 1.0)
    image = base + (other - base) * pattern[..., None]
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _table_colour(rng: np.random.Generator) -> Colour:
    """Mostly pale or woody; saturated tables are rare, but a table may be any colour."""
    if rng.random() < 0.15:
        return np.array(colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.3, 0.7), rng.uniform(0.25, 0.9)))
    hue = rng.uniform(0.05, 0.14) if rng.random() < 0.5 else rng.uniform()
    return np.array(colorsys.hsv_to_rgb(hue, rng.uniform(0.0, 0.35), rng.uniform(0.2, 0.95)))


def _noise(rng: np.random.Generator, cells_y: int, cells_x: int) -> Pattern:
    """Smooth noise in 0..1 with about so many bumps along each side."""
    coarse = rng.random((cells_y, cells_x)).astype(np.float32)
    fine = cv2.resize(coarse, (TEXTURE_PX, TEXTURE_PX), interpolation=cv2.INTER_CUBIC)
    return np.clip(fine, 0, 1).astype(np.float64)


def _grid() -> tuple[Pattern, Pattern]:
    axis = np.arange(TEXTURE_PX) / TEXTURE_PX
    x, y = np.meshgrid(axis, axis)
    return x, y


def _plain(rng: np.random.Generator) -> Pattern:
    return np.clip(0.06 * rng.standard_normal((TEXTURE_PX, TEXTURE_PX)), 0, 1)


def _wood(rng: np.random.Generator) -> Pattern:
    grain = _noise(rng, 4, int(rng.integers(40, 140)))
    rings = np.sin(2 * np.pi * (rng.uniform(2, 8) * _noise(rng, 2, 6) + grain))
    boards = np.floor(_grid()[0] * rng.integers(1, 6)) % 2
    return np.clip(0.5 * grain + 0.25 * (rings + 1) / 2 + 0.12 * boards, 0, 1)


def _speckle(rng: np.random.Generator) -> Pattern:
    size = int(rng.integers(100, 400))
    return (_noise(rng, size, size) > rng.uniform(0.6, 0.85)).astype(np.float64)


def _tiles(rng: np.random.Generator) -> Pattern:
    x, y = _grid()
    count, joint = int(rng.integers(2, 9)), rng.uniform(0.02, 0.06)
    in_joint = ((x * count) % 1 < joint) | ((y * count) % 1 < joint)
    checks = (np.floor(x * count) + np.floor(y * count)) % 2 * rng.choice([0.0, 0.5])
    return np.clip(in_joint + checks, 0, 1)


def _weave(rng: np.random.Generator) -> Pattern:
    x, y = _grid()
    threads = int(rng.integers(20, 80))
    return 0.5 + 0.25 * np.sin(2 * np.pi * threads * x) + 0.25 * np.sin(2 * np.pi * threads * y)


def _clouds(rng: np.random.Generator) -> Pattern:
    return 0.6 * _noise(rng, 4, 4) + 0.3 * _noise(rng, 12, 12) + 0.1 * _noise(rng, 60, 60)


def _marble(rng: np.random.Generator) -> Pattern:
    x, y = _grid()
    warp = 2.5 * _noise(rng, 5, 5) + 0.8 * _noise(rng, 14, 14)
    return np.abs(np.sin(np.pi * (rng.uniform(1, 3) * x + rng.uniform(1, 3) * y + warp))) ** 0.5


def _dots(rng: np.random.Generator) -> Pattern:
    x, y = _grid()
    count, radius = int(rng.integers(6, 24)), rng.uniform(0.15, 0.35)
    return (np.hypot((x * count) % 1 - 0.5, (y * count) % 1 - 0.5) < radius).astype(np.float64)


def _scratches(rng: np.random.Generator) -> Pattern:
    canvas = np.zeros((TEXTURE_PX, TEXTURE_PX), np.float32)
    for _ in range(int(rng.integers(60, 200))):
        start, length = rng.integers(0, TEXTURE_PX, 2), rng.normal(0, 60, 2)
        end = np.round(start + length).astype(int)
        cv2.line(canvas, start.tolist(), end.tolist(), float(rng.uniform(0.3, 1.0)), 1, cv2.LINE_AA)
    return canvas.astype(np.float64)
