"""Sample the objects on the table: cubes in four colours, and distractors.

The distractor shapes of `train` and `held_out` are disjoint: the detector never sees the latter in training.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, replace
from enum import Enum
from xml.etree.ElementTree import Element

import numpy as np
from typing_extensions import assert_never

from handeye.robot.config import WorkCellConfig
from handeye.robot.simulator.mjcf import add

CUBE_CLASSES = ("red_cube", "green_cube", "blue_cube", "yellow_cube")
CLUTTER_CLASS = "clutter"
"""Name of everything else on the table, for data sets that label it: a detector trains faster with it."""
CLUTTER_CLASS_ID = len(CUBE_CLASSES)

# Hue range in turns for each cube class, wide enough for paints and narrow enough for names.
_CUBE_HUES = ((-0.02, 0.02), (0.30, 0.41), (0.57, 0.65), (0.125, 0.165))
_CUBE_MASS_KG = (0.05, 0.12)
_DISTRACTOR_KG_M3 = 450.0
_ROUND = ("sphere", "capsule", "cylinder", "ellipsoid")

Rgba = tuple[float, float, float, float]
Vector3 = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]
UPRIGHT: Quaternion = (1.0, 0.0, 0.0, 0.0)


class Profile(Enum):
    """Which appearances and distractor shapes are sampled; the two share none."""

    TRAIN = "train"
    HELD_OUT = "held_out"


@dataclass(frozen=True, slots=True)
class Part:
    """One primitive of an object: MuJoCo's half sizes in metres, placed in the object's frame."""

    shape: str
    size: tuple[float, ...]
    pos: Vector3 = (0.0, 0.0, 0.0)
    quat: Quaternion = UPRIGHT


@dataclass(frozen=True, slots=True)
class SceneObject:
    """A free body. class_id counts in CUBE_CLASSES, None is a distractor.

    height_m is the height of its centre when it stands upright on a plane, radius_m that of a circle around its foot.
    """

    name: str
    parts: tuple[Part, ...]
    rgba: Rgba
    mass_kg: float
    height_m: float
    radius_m: float
    class_id: int | None = None
    pos: Vector3 = (0.0, 0.0, 0.0)
    quat: Quaternion = UPRIGHT

    def placed(self, pos: Vector3, quat: Quaternion = UPRIGHT) -> SceneObject:
        """The same object with its centre at `pos` (base frame, m), turned by `quat` (scalar first)."""
        return replace(self, pos=pos, quat=quat)

    @property
    def edge_m(self) -> float:
        """Edge of a cube."""
        return 2.0 * self.parts[0].size[0]


def sample_cube(rng: np.random.Generator, class_id: int, name: str, cell: WorkCellConfig) -> SceneObject:
    """A cube of one of the four classes; edge, mass and shade vary."""
    low, high = _CUBE_HUES[class_id]
    colour = _hsv(rng.uniform(low, high), rng.uniform(0.72, 1.0), rng.uniform(0.55, 0.95))
    return _cube(name, float(rng.uniform(*cell.cube_edge_m)), colour, float(rng.uniform(*_CUBE_MASS_KG)), class_id)


def sample_distractor(rng: np.random.Generator, profile: Profile, name: str) -> SceneObject:
    """An object that is not one of the four cubes, often in the colour of one."""
    match profile:
        case Profile.TRAIN:
            # Half are random composites: a detector memorises six shapes, and takes a seventh for a cube.
            simple = (_cylinder, _ball, _capsule, _slab, _disc, _odd_cube)
            builders = (*simple, *(len(simple) * (_composite,)))
        case Profile.HELD_OUT:
            builders = (_egg, _dumbbell, _cross, _mug, _bracket, _cone)
        case _:
            assert_never(profile)
    return builders[rng.integers(len(builders))](rng, name)


def add_object(world: Element, item: SceneObject) -> None:
    """Add a free body; geoms are called `name_0`, `name_1`, ..."""
    body = add(world, "body", name=item.name, pos=item.pos, quat=item.quat)
    add(body, "freejoint", name=item.name)
    for number, part in enumerate(item.parts):
        rolls = part.shape in _ROUND
        add(
            body,
            "geom",
            name=f"{item.name}_{number}",
            type=part.shape,
            size=part.size,
            pos=part.pos,
            quat=part.quat,
            rgba=item.rgba,
            material="paint",
            mass=item.mass_kg / len(item.parts),
            condim="6" if rolls else "3",
            friction="0.7 0.01 0.002" if rolls else "0.7 0.005 0.0001",
        )


def _cube(name: str, edge_m: float, rgba: Rgba, mass_kg: float, class_id: int | None) -> SceneObject:
    half = edge_m / 2
    return SceneObject(name, (Part("box", (half, half, half)),), rgba, mass_kg, half, half * 1.42, class_id)


def _cylinder(rng: np.random.Generator, name: str) -> SceneObject:
    radius, half = rng.uniform(0.014, 0.034), rng.uniform(0.015, 0.06)
    return _simple(name, Part("cylinder", (radius, half)), _paint(rng), half, radius)


def _ball(rng: np.random.Generator, name: str) -> SceneObject:
    radius = rng.uniform(0.015, 0.034)
    return _simple(name, Part("sphere", (radius,)), _paint(rng), radius, radius)


def _capsule(rng: np.random.Generator, name: str) -> SceneObject:
    radius, half = rng.uniform(0.011, 0.024), rng.uniform(0.015, 0.05)
    lying = Part("capsule", (radius, half), quat=(0.7071067811865476, 0.0, 0.7071067811865476, 0.0))
    return _simple(name, lying, _paint(rng), radius, radius + half)


def _slab(rng: np.random.Generator, name: str) -> SceneObject:
    """A brick whose faces are all at least twice as long as wide, or thin: never mistaken for a cube."""
    width = rng.uniform(0.009, 0.022)
    length, height = width * rng.uniform(2.2, 4.0), width * rng.uniform(0.3, 0.7)
    return _simple(name, Part("box", (length, width, height)), _paint(rng), height, float(np.hypot(length, width)))


def _disc(rng: np.random.Generator, name: str) -> SceneObject:
    radius, half = rng.uniform(0.025, 0.055), rng.uniform(0.003, 0.009)
    return _simple(name, Part("cylinder", (radius, half)), _paint(rng), half, radius)


def _odd_cube(rng: np.random.Generator, name: str) -> SceneObject:
    """A cube in a colour that none of the four names covers: violet, pink, brown, white, grey or black."""
    palette = (
        _hsv(rng.uniform(0.76, 0.84), rng.uniform(0.5, 1.0), rng.uniform(0.4, 0.8)),
        _hsv(rng.uniform(0.87, 0.92), rng.uniform(0.25, 0.5), rng.uniform(0.8, 1.0)),
        _hsv(rng.uniform(0.06, 0.08), rng.uniform(0.5, 0.7), rng.uniform(0.25, 0.4)),
        _hsv(rng.uniform(0, 1), rng.uniform(0.0, 0.06), rng.uniform(0.1, 1.0)),
    )
    return _cube(name, rng.uniform(0.03, 0.06), palette[rng.integers(len(palette))], rng.uniform(0.04, 0.12), None)


def _composite(rng: np.random.Generator, name: str) -> SceneObject:
    """Two to four primitives of different kinds that overlap at random; the first is the foot, none reaches below."""
    kinds = rng.permutation(4)[: rng.integers(2, 5)]
    foot, foot_reach, foot_half = _some_part(rng, int(kinds[0]))
    parts, reach = [foot], foot_reach
    for kind in kinds[1:]:
        part, part_reach, part_half = _some_part(rng, int(kind))
        angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.8) * (foot_reach + part_reach)
        lift = rng.uniform(0.0, 1.8) * foot_half
        pos = (float(distance * np.cos(angle)), float(distance * np.sin(angle)), float(part_half + lift - foot_half))
        parts.append(replace(part, pos=pos))
        reach = max(reach, distance + part_reach)
    return _composed(name, tuple(parts), _paint(rng), foot_half, reach)


def _some_part(rng: np.random.Generator, kind: int) -> tuple[Part, float, float]:
    """One of four primitives, none a cube; its reach from the centre in the plane, and half its height (m)."""
    turn = rng.uniform(0, np.pi) / 2
    cosine, sine = float(np.cos(turn)), float(np.sin(turn))
    match kind:
        case 0:
            width = rng.uniform(0.006, 0.016)
            length, height = width * rng.uniform(2.0, 4.0), width * rng.uniform(0.4, 2.5)
            return (
                Part("box", (length, width, height), quat=(cosine, 0.0, 0.0, sine)),
                float(np.hypot(length, width)),
                height,
            )
        case 1:
            radius, half = rng.uniform(0.008, 0.032), rng.uniform(0.006, 0.035)
            return Part("cylinder", (radius, half)), radius, half
        case 2:
            radius, half = rng.uniform(0.008, 0.02), rng.uniform(0.012, 0.035)
            half_turn = 0.7071067811865476
            lying = (half_turn * cosine, -half_turn * sine, half_turn * cosine, half_turn * sine)
            return Part("cylinder", (radius, half), quat=lying), float(np.hypot(half, radius)), radius
        case _:
            radius = rng.uniform(0.008, 0.024)
            return Part("sphere", (radius,)), radius, radius


def _egg(rng: np.random.Generator, name: str) -> SceneObject:
    a, b, c = rng.uniform(0.025, 0.05), rng.uniform(0.016, 0.024), rng.uniform(0.014, 0.022)
    return _simple(name, Part("ellipsoid", (a, b, c)), _paint(rng), c, a)


def _dumbbell(rng: np.random.Generator, name: str) -> SceneObject:
    ball, bar, half = rng.uniform(0.015, 0.024), rng.uniform(0.006, 0.01), rng.uniform(0.03, 0.05)
    parts = (
        Part("capsule", (bar, half), quat=(0.7071067811865476, 0.0, 0.7071067811865476, 0.0)),
        Part("sphere", (ball,), pos=(half, 0.0, 0.0)),
        Part("sphere", (ball,), pos=(-half, 0.0, 0.0)),
    )
    return _composed(name, parts, _paint(rng), ball, half + ball)


def _cross(rng: np.random.Generator, name: str) -> SceneObject:
    width, length, height = rng.uniform(0.006, 0.010), rng.uniform(0.035, 0.05), rng.uniform(0.006, 0.012)
    parts = (Part("box", (length, width, height)), Part("box", (width, length, height * 0.94)))
    return _composed(name, parts, _paint(rng), height, length)


def _mug(rng: np.random.Generator, name: str) -> SceneObject:
    radius, half = rng.uniform(0.025, 0.036), rng.uniform(0.035, 0.05)
    parts = (
        Part("cylinder", (radius, half)),
        Part("capsule", (0.005, half * 0.5), pos=(radius + 0.016, 0.0, 0.0)),
        Part("box", (0.010, 0.005, 0.005), pos=(radius + 0.006, 0.0, half * 0.5)),
        Part("box", (0.010, 0.005, 0.005), pos=(radius + 0.006, 0.0, -half * 0.5)),
    )
    return _composed(name, parts, _paint(rng), half, radius + 0.025)


def _bracket(rng: np.random.Generator, name: str) -> SceneObject:
    length, wide, thick = rng.uniform(0.035, 0.05), rng.uniform(0.010, 0.016), 0.005
    parts = (
        Part("box", (length, wide, thick)),
        Part("box", (thick, wide, length * 0.7), pos=(length - thick, 0.0, length * 0.7 + thick)),
    )
    return _composed(name, parts, _paint(rng), thick, length)


def _cone(rng: np.random.Generator, name: str) -> SceneObject:
    radius, step = rng.uniform(0.028, 0.04), rng.uniform(0.007, 0.011)
    parts = tuple(
        Part("cylinder", (radius * (1 - 0.28 * level), step), pos=(0.0, 0.0, 2 * step * level)) for level in range(3)
    )
    return _composed(name, parts, _paint(rng), step, radius)


def _simple(name: str, part: Part, rgba: Rgba, height_m: float, radius_m: float) -> SceneObject:
    return _composed(name, (part,), rgba, height_m, radius_m)


def _composed(name: str, parts: tuple[Part, ...], rgba: Rgba, height_m: float, radius_m: float) -> SceneObject:
    mass = float(np.clip(_DISTRACTOR_KG_M3 * height_m * radius_m**2 * 4, 0.02, 0.25))
    return SceneObject(name, parts, rgba, mass, float(height_m), float(radius_m))


def _paint(rng: np.random.Generator) -> Rgba:
    """Half of the distractors wear a cube's colour, red most often; the others any colour."""
    if rng.random() < 0.5:
        low, high = _CUBE_HUES[rng.choice(4, p=(0.4, 0.2, 0.2, 0.2))]
        return _hsv(rng.uniform(low, high), rng.uniform(0.72, 1.0), rng.uniform(0.55, 0.95))
    return _hsv(rng.uniform(0, 1), rng.uniform(0.0, 1.0), rng.uniform(0.1, 1.0))


def _hsv(hue: float, saturation: float, value: float) -> Rgba:
    return (*colorsys.hsv_to_rgb(hue % 1.0, saturation, value), 1.0)
