"""How a scene looks, drawn at random: lights, table top, floor, sky, bin, and what the sensor makes of the light."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from typing_extensions import assert_never

from robot.simulator.objects import Profile, Rgba, Vector3
from robot.simulator.textures import draw_table_texture


@dataclass(frozen=True, slots=True)
class Light:
    """A lamp far away (directional) or a spot at `pos` (m, base frame); colours are intensities per channel."""

    is_directional: bool
    pos: Vector3
    direction: Vector3
    diffuse: Vector3
    specular: Vector3


@dataclass(frozen=True, slots=True)
class ImageEffects:
    """What the sensor does to the light: gain and white balance, gamma, blur in px, noise in grey levels of 255."""

    gain_rgb: Vector3 = (1.0, 1.0, 1.0)
    gamma: float = 1.0
    blur_px: float = 0.0
    noise: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Appearance:
    """Everything about a scene that changes pixels but not physics."""

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


def draw_appearance(rng: np.random.Generator, profile: Profile) -> Appearance:
    """A random look. `train` has one to three lamps from above, `held_out` low, tinted or many lamps."""
    lights = _draw_lights(rng, profile)
    ambient = rng.uniform(0.2, 0.45) * _tint(rng, 0.06)
    bin_value = rng.uniform(0.08, 0.9)
    return Appearance(
        lights=lights,
        ambient=_vector(ambient),
        headlight=float(rng.uniform(0.0, 0.2)),
        table_texture=draw_table_texture(rng, profile),
        table_texture_m=float(rng.uniform(0.4, 1.2)),
        table_gloss=float(rng.uniform(0.0, 0.3)),
        floor_rgb=_grey_or_tinted(rng),
        sky_rgb=(_grey_or_tinted(rng), _grey_or_tinted(rng)),
        bin_rgba=(*colorsys.hsv_to_rgb(rng.uniform(), rng.choice([0.05, 0.35]), bin_value), 1.0),
        effects=draw_effects(rng),
    )


def draw_effects(rng: np.random.Generator) -> ImageEffects:
    """Exposure within +-25 %, white balance within a few percent, a little blur and noise."""
    gain = rng.uniform(0.8, 1.25) * _tint(rng, 0.05)
    return ImageEffects(
        gain_rgb=_vector(gain),
        gamma=float(rng.uniform(0.85, 1.15)),
        blur_px=float(rng.uniform(0.3, 1.0)),
        noise=float(rng.uniform(0.5, 5.0)),
    )


def _draw_lights(rng: np.random.Generator, profile: Profile) -> tuple[Light, ...]:
    match profile:
        case Profile.TRAIN:
            count, lowest, strength, tint = int(rng.integers(1, 4)), 40.0, rng.uniform(0.4, 0.78), 0.08
        case Profile.HELD_OUT:
            count, lowest, strength, tint = int(rng.choice([1, 4, 5])), 22.0, rng.uniform(0.6, 0.9), 0.18
        case _:
            assert_never(profile)
    shares = rng.dirichlet(np.full(count, 2.0))
    return tuple(_draw_light(rng, lowest, strength * share, tint) for share in shares)


def _draw_light(rng: np.random.Generator, lowest_deg: float, strength: float, tint: float) -> Light:
    """Somewhere on the sky above `lowest_deg`, aimed at about the middle of the table."""
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
