"""Inject faults into simulated episodes: moved cubes, slippery pads, a stuck gripper, lost frames.

Faults are scheduled by a test, or sampled from the episode's seed for demonstrations and evaluations.
"""

# pyright: reportAttributeAccessIssue=false
# MuJoCo is a compiled module without type information.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np
from pydantic import Field
from typing_extensions import assert_never

from handeye.robot.config import TableConfig
from handeye.robot.simulator.camera import SimulatedCamera
from handeye.robot.simulator.layout import move_object, object_pose
from handeye.robot.simulator.robot_model import PAD_NAMES
from handeye.robot.simulator.scene import Physics, Scene
from handeye.robot.simulator.servo_arm import SimulatedArm
from handeye.vision.config import Config

NUDGE_TRIES = 80
NUDGE_GAP_M = 0.03
"""Free space for the fingers around the new place."""
HAND_RADIUS_M, HAND_LOW_M = 0.09, 0.20
"""A hand below HAND_LOW_M blocks the places within HAND_RADIUS_M of it."""


@dataclass(frozen=True, slots=True)
class CubeMoved:
    """Someone pushes the target by this much over the table (base frame, m)."""

    at_s: float
    by_xy_m: tuple[float, float]


@dataclass(frozen=True, slots=True)
class CubeNudged:
    """Someone puts the target elsewhere within reach, at this distance (m) where there is room; sampled from `seed`."""

    at_s: float
    distance_m: tuple[float, float]
    seed: int


@dataclass(frozen=True, slots=True)
class FrictionLowered:
    """The pads turn slippery: their friction is multiplied by `factor` until `until_s`."""

    at_s: float
    factor: float
    until_s: float = float("inf")


@dataclass(frozen=True, slots=True)
class GripperStuck:
    """The gripper does not follow its commands between the two times."""

    at_s: float
    until_s: float


@dataclass(frozen=True, slots=True)
class FramesDropped:
    """The camera loses every frame between the two times."""

    at_s: float
    until_s: float


Fault = CubeMoved | CubeNudged | FrictionLowered | GripperStuck | FramesDropped

Range = tuple[float, float]


class RandomFaultsConfig(Config):
    """Probability of each fault in an episode, and when it may happen (s)."""

    nudge_chance: float = Field(default=0.0, ge=0, le=1)
    nudge_at_s: Range = (0.3, 1.3)
    nudge_m: Range = (0.04, 0.15)
    """How far the target is moved."""
    slip_chance: float = Field(default=0.0, ge=0, le=1)
    slip_at_s: Range = (1.8, 2.6)
    slip_factor: float = Field(default=0.01, gt=0)
    """Factor on the pads' friction while they are slippery."""
    slip_s: float = Field(default=1.0, gt=0)
    stuck_chance: float = Field(default=0.0, ge=0, le=1)
    stuck_at_s: Range = (0.9, 1.4)
    stuck_s: Range = (0.4, 1.2)


MIXED = RandomFaultsConfig(nudge_chance=0.25, slip_chance=0.08, stuck_chance=0.07)
"""For demonstrations: about one episode in three has a random fault."""


def sample_random_faults(config: RandomFaultsConfig, seed: int) -> list[Fault]:
    """The faults of episode `seed`."""
    rng = np.random.default_rng([seed, 0xFA17])
    nudged, slips, sticks = rng.random(3) < (config.nudge_chance, config.slip_chance, config.stuck_chance)
    nudge_s, slip_s, stuck_s = (rng.uniform(*at) for at in (config.nudge_at_s, config.slip_at_s, config.stuck_at_s))
    for_s = rng.uniform(*config.stuck_s)
    faults: list[Fault] = []
    if nudged:
        faults.append(CubeNudged(float(nudge_s), config.nudge_m, seed))
    if slips:
        faults.append(FrictionLowered(float(slip_s), config.slip_factor, float(slip_s) + config.slip_s))
    if sticks:
        faults.append(GripperStuck(float(stuck_s), float(stuck_s + for_s)))
    return faults


class FaultSchedule:
    """Runs faults when they are due; the cell sets them after each reset."""

    def __init__(self, physics: Physics, arm: SimulatedArm, camera: SimulatedCamera, table: TableConfig) -> None:
        self._physics, self._arm, self._camera, self._table = physics, arm, camera, table
        self._waiting: list[tuple[float, Fault, bool]] = []
        physics.before_step.append(self._run_due)

    def schedule(self, faults: Sequence[Fault], target_name: str) -> None:
        """Replace the schedule by these faults; `target_name` is the body of the target cube."""
        self._target_name = target_name
        starts = [(fault.at_s, fault, True) for fault in faults]
        ends = [(fault.until_s, fault, False) for fault in faults if not isinstance(fault, CubeMoved | CubeNudged)]
        self._waiting = sorted(starts + ends, key=lambda event: event[0])

    def _run_due(self, stamp_s: float) -> None:
        while self._waiting and self._waiting[0][0] <= stamp_s:
            _, fault, begins = self._waiting.pop(0)
            self._apply(fault, begins=begins)

    def _apply(self, fault: Fault, *, begins: bool) -> None:
        match fault:
            case CubeMoved():
                _push(self._physics.scene, self._target_name, fault.by_xy_m)
            case CubeNudged():
                by_xy_m = free_nudge(self._physics.scene, self._target_name, fault, self._table)
                _push(self._physics.scene, self._target_name, by_xy_m)
            case FrictionLowered():
                factor = fault.factor if begins else 1.0 / fault.factor
                for name in PAD_NAMES:
                    self._physics.scene.model.geom(name).friction *= factor
            case GripperStuck():
                self._arm.gripper_is_stuck = begins
            case FramesDropped():
                self._camera.drops_frames = begins
            case _:
                assert_never(fault)


def free_nudge(scene: Scene, name: str, nudge: CubeNudged, table: TableConfig) -> tuple[float, float]:
    """Displacement of the target (base frame, m) to a place free of objects and hand; (0, 0) if there is none."""
    rng = np.random.default_rng(nudge.seed)
    target = next(item for item in scene.objects if item.name == name)
    here = object_pose(scene, target)[:3, 3]
    others = [(object_pose(scene, item)[:2, 3], item.radius_m) for item in scene.objects if item is not target]
    hand = scene.data.site("tcp").xpos
    taken = [*others, (hand[:2], HAND_RADIUS_M)] if hand[2] < HAND_LOW_M else others
    for _ in range(NUDGE_TRIES):
        angle, distance = rng.uniform(-np.pi, np.pi), rng.uniform(*nudge.distance_m)
        by = distance * np.array([np.cos(angle), np.sin(angle)])
        place = here[:2] + by
        is_free = all(np.hypot(*(place - xy)) > radius + target.radius_m + NUDGE_GAP_M for xy, radius in taken)
        if is_free and table.is_reachable(np.append(place, here[2])):
            return float(by[0]), float(by[1])
    return 0.0, 0.0


def _push(scene: Scene, name: str, by_xy_m: tuple[float, float]) -> None:
    target = next(item for item in scene.objects if item.name == name)
    pose = object_pose(scene, target)
    quat = np.empty(4)
    mujoco.mju_mat2Quat(quat, pose[:3, :3].reshape(-1))
    move_object(scene, target, pose[:3, 3] + (*by_xy_m, 0.0), quat)
