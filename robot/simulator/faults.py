# pyright: reportAttributeAccessIssue=false
"""What can go wrong in an episode, on schedule: for tests of how a policy copes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np
from typing_extensions import assert_never

from robot.simulator.camera import SimulatedCamera
from robot.simulator.gripper import PAD_NAMES
from robot.simulator.layout import move_object, object_pose
from robot.simulator.physics import Physics
from robot.simulator.scene import Scene
from robot.simulator.servo_arm import SimulatedArm


@dataclass(frozen=True, slots=True)
class CubeMoved:
    """Someone pushes the target by this much over the table (base frame, m)."""

    at_s: float
    by_xy_m: tuple[float, float]


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


Fault = CubeMoved | FrictionLowered | GripperStuck | FramesDropped


class FaultSchedule:
    """Makes faults happen. The cell arms it with an episode's faults after each reset."""

    def __init__(self, physics: Physics, arm: SimulatedArm, camera: SimulatedCamera) -> None:
        self._physics, self._arm, self._camera = physics, arm, camera
        self._waiting: list[tuple[float, Fault, bool]] = []
        physics.before_step.append(self._run_due)

    def arm(self, faults: Sequence[Fault], target_name: str) -> None:
        """Replace what was planned by these faults; `target_name` is the body that CubeMoved moves."""
        self._target_name = target_name
        starts = [(fault.at_s, fault, True) for fault in faults]
        ends = [(fault.until_s, fault, False) for fault in faults if not isinstance(fault, CubeMoved)]
        self._waiting = sorted(starts + ends, key=lambda event: event[0])

    def _run_due(self, stamp_s: float) -> None:
        while self._waiting and self._waiting[0][0] <= stamp_s:
            _, fault, begins = self._waiting.pop(0)
            self._apply(fault, begins=begins)

    def _apply(self, fault: Fault, *, begins: bool) -> None:
        match fault:
            case CubeMoved():
                _push(self._physics.scene, self._target_name, fault.by_xy_m)
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


def _push(scene: Scene, name: str, by_xy_m: tuple[float, float]) -> None:
    target = next(item for item in scene.objects if item.name == name)
    pose = object_pose(scene, target)
    quat = np.empty(4)
    mujoco.mju_mat2Quat(quat, pose[:3, :3].reshape(-1))
    move_object(scene, target, pose[:3, 3] + (*by_xy_m, 0.0), quat)
