"""Sample the appearance of a scene: lights, table texture, floor, sky, bin, and the colour sensor's errors.

Table textures are procedural; `train` and `held_out` use different patterns.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from typing_extensions import assert_never

from handeye.robot.simulator.objects import Profile, Rgba, Vector3

TEXTURE_PX = 512

Colour = Float[np.ndarray, " 3"]
Pattern = Float[np.ndarray, "P P"]


@dataclass(frozen=True, slots=True)
class Light:
    """A directional light or a spot at `pos` (m, base frame); colours are intensities per channel."""

    is_directional: bool
    pos: Vector3
    direction: Vector3
    diffuse: Vector3
    specular: Vector3


@dataclass(frozen=True, slots=True)
class ImageEffects:
    """Errors of the colour sensor: gain and white balance, gamma, blur in px, noise in grey levels of 255."""

    gain_rgb: Vector3 = (1.0, 1.0, 1.0)
    gamma: float = 1.0
    blur_px: float = 0.0
    noise: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Appearance:
    """What changes the pixels of a scene but not its physics."""

    lights: tuple[Light, ...]
    ambient: Vector3
    headlight: float
    table_texture: UInt8[np.ndarray, "P P 3"]
    table_texture_m: float
    table_gloss: float
    floor_rgb: Vector3
    sky_rgb: tuple[Vector3, Vector3]
    bin_rgba: Rgba
    effects: ImageEffects


def sample_appearance(rng: np.random.Generator, profile: Profile) -> Appearance:
    """A random appearance. `train` has one to three lights from above, `held_out` low, tinted or many lights."""
    lights = _sample_lights(rng, profile)
    ambient = rng.uniform(0.2, 0.45) * _tint(rng, 0.06)
    bin_value = rng.uniform(0.08, 0.9)
    return Appearance(
        lights=lights,
        ambient=_vector(ambient),
        headlight=float(rng.uniform(0.0, 0.2)),
        table_texture=sample_table_texture(rng, profile),
        table_texture_m=float(rng.uniform(0.4, 1.2)),
        table_gloss=float(rng.uniform(0.0, 0.3)),
        floor_rgb=_grey_or_tinted(rng),
        sky_rgb=(_grey_or_tinted(rng), _grey_or_tinted(rng)),
        bin_rgba=(*colorsys.hsv_to_rgb(rng.uniform(), rng.choice([0.05, 0.35]), bin_value), 1.0),
        effects=sample_effects(rng),
    )


def sample_effects(rng: np.random.Generator) -> ImageEffects:
    """Exposure within +-25 %, white balance within a few percent, a little blur and noise."""
    gain = rng.uniform(0.8, 1.25) * _tint(rng, 0.05)
    return ImageEffects(
        gain_rgb=_vector(gain),
        gamma=float(rng.uniform(0.85, 1.15)),
        blur_px=float(rng.uniform(0.3, 1.0)),
        noise=float(rng.uniform(0.5, 5.0)),
    )


def sample_table_texture(rng: np.random.Generator, profile: Profile) -> UInt8[np.ndarray, "P P 3"]:
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


def _sample_lights(rng: np.random.Generator, profile: Profile) -> tuple[Light, ...]:
    match profile:
        case Profile.TRAIN:
            count, lowest, strength, tint = int(rng.integers(1, 4)), 40.0, rng.uniform(0.4, 0.78), 0.08
        case Profile.HELD_OUT:
            count, lowest, strength, tint = int(rng.choice([1, 4, 5])), 22.0, rng.uniform(0.6, 0.9), 0.18
        case _:
            assert_never(profile)
    shares = rng.dirichlet(np.full(count, 2.0))
    return tuple(_sample_light(rng, lowest, strength * share, tint) for share in shares)


def _sample_light(rng: np.random.Generator, lowest_deg: float, strength: float, tint: float) -> Light:
    """A light above `lowest_deg` of elevation, aimed at about the middle of the table."""
    elevation, azimuth = np.radians(rng.uniform(lowest_deg, 88.0)), rng.uniform(0, 2 * np.pi)
    away = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    aim = np.array([0.5, -0.1, 0.0]) + rng.normal(0, 0.15, 3) * (1, 1, 0)
    place = aim + rng.uniform(1.6, 3.0) * away
    diffuse = strength * _tint(rng, tint)
    specular = rng.uniform(0.0, 0.35) * diffuse
    return Light(bool(rng.random() < 0.75), _vector(place), _vector(-away), _vector(diffuse), _vector(specular))


def _tint(rng: np.random.Generator, spread: float) -> Float[np.ndarray, " 3"]:
    return np.clip(1.0 + rng.normal(0, spread, 3), 0.6, 1.4)


def _grey_or_tinted(rng: np.random.Generator) -> Vector3:
    saturation = rng.choice([0.03, 0.3], p=(0.7, 0.3))
    return colorsys.hsv_to_rgb(rng.uniform(), saturation, rng.uniform(0.15, 0.9))


def _vector(values: Float[np.ndarray, " 3"]) -> Vector3:
    x, y, z = (float(value) for value in values)
    return x, y, z


def _table_colour(rng: np.random.Generator) -> Colour:
    """Mostly pale or woody; saturated tables are rare, but a table may be any colour."""
    if rng.random() < 0.15:
        return np.array(colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.3, 0.7), rng.uniform(0.25, 0.9)))
    hue = rng.uniform(0.05, 0.14) if rng.random() < 0.5 else rng.uniform()
    return np.array(colorsys.hsv_to_rgb(hue, rng.uniform(0.0, 0.35), rng.uniform(0.2, 0.95)))


def _noise(rng: np.random.Generator, cells_y: int, cells_x: int) -> Pattern:
    """Smooth noise in 0..1 with about `cells` bumps along each side."""
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
