"""Short tabletop scenarios for benchmarking trackers: cubes pushed, hidden by the arm, look-alikes passing each other.

Identities are exact, because cubes and arm are placed in each frame; nothing is left to physics.
"""

# pyright: reportAttributeAccessIssue=false
# MuJoCo is a compiled module without type information.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import mujoco
import numpy as np
from jaxtyping import Float
from typing_extensions import assert_never

from handeye.robot.config import CameraConfig, WorkCellConfig
from handeye.robot.simulator.appearance import sample_appearance
from handeye.robot.simulator.layout import move_object, yaw_quaternion
from handeye.robot.simulator.objects import CUBE_CLASSES, Profile, SceneObject, sample_cube
from handeye.robot.simulator.samples import joints_for, tool_grasping_at, tool_looking_at, tool_rotation
from handeye.robot.simulator.scene import Scene, aim_scene_camera, build_scene, place_arm, scene_camera

FRAME_S = 0.1
_EYE, _TARGET = np.array([1.25, 0.55, 0.75]), np.array([0.58, 0.0, 0.02])
_STARTS_XY = np.array([[0.52, -0.12], [0.60, -0.025], [0.50, 0.125], [0.70, -0.11], [0.69, 0.055], [0.44, 0.01]])
_SWAY_RAD = np.radians(8.0)
_FINGERTIP_HALF_X_M = 0.011


class ScenarioKind(Enum):
    """What happens in a scenario, and which camera sees it."""

    PUSH = "push"
    """The fingers push one cube along, seen by the scene camera."""
    ARM = "arm"
    """The hand comes between that camera and a cube, stays there for a while, and goes on."""
    CROSSING = "crossing"
    """Two cubes of one colour pass each other under the moving wrist camera; another one slides away."""


@dataclass(frozen=True, slots=True, eq=False)
class Keyframe:
    """One frame: joints (rad), gripper opening (m), foot point and yaw of each cube (m, rad)."""

    qpos: Float[np.ndarray, " 6"]
    opening_m: float
    feet_xy: Float[np.ndarray, "N 2"]
    yaws_rad: Float[np.ndarray, " N"]


@dataclass(frozen=True, slots=True, eq=False)
class Scenario:
    """A scene and its keyframes every FRAME_S; `camera_name` is a camera of its model."""

    kind: ScenarioKind
    cell: WorkCellConfig
    scene: Scene
    camera_name: str
    camera: CameraConfig
    keyframes: tuple[Keyframe, ...]

    def pose(self, keyframe: Keyframe) -> None:
        """Put arm and cubes where they are in this keyframe."""
        for item, foot, yaw in zip(self.scene.objects, keyframe.feet_xy, keyframe.yaws_rad, strict=True):
            place = np.array([*foot, self.cell.table.height_m + 0.5 * item.edge_m])
            move_object(self.scene, item, place, np.array(yaw_quaternion(float(yaw))))
        place_arm(self.scene, keyframe.qpos, keyframe.opening_m)

    @property
    def T_base_camera(self) -> Float[np.ndarray, "4 4"]:
        """Pose of the camera now; MuJoCo's cameras look along -z with y up."""
        camera = self.scene.data.cam(self.camera_name)
        T = np.eye(4)
        T[:3, :3], T[:3, 3] = camera.xmat.reshape(3, 3) * np.array([1.0, -1.0, -1.0]), camera.xpos
        return T


def sample_scenario(kind: ScenarioKind, cell: WorkCellConfig, seed: int) -> Scenario:
    """The scenario of this kind and seed. Raises RuntimeError where the arm cannot follow it: the cell is too small."""
    rng = np.random.default_rng([list(ScenarioKind).index(kind), seed])
    cubes = _sample_cubes(cell, rng)
    scene = build_scene(cell, cubes, sample_appearance(rng, Profile.TRAIN))
    eye = _EYE + rng.uniform(-0.08, 0.08, 3)
    aim_scene_camera(scene, eye, _TARGET)
    mujoco.mj_forward(scene.model, scene.data)
    starts = _STARTS_XY + rng.uniform(-0.004, 0.004, _STARTS_XY.shape)
    yaws = rng.uniform(-np.pi / 4, np.pi / 4, len(cubes))
    match kind:
        case ScenarioKind.PUSH:
            keyframes = _push(cell, cubes, starts, yaws)
        case ScenarioKind.ARM:
            keyframes = _pass_before(cell, starts, yaws, eye, hidden=int(rng.integers(2)))
        case ScenarioKind.CROSSING:
            return Scenario(kind, cell, scene, "wrist", cell.camera, _cross(cell, starts, yaws))
        case _:
            assert_never(kind)
    return Scenario(kind, cell, scene, "scene", scene_camera(cell.camera), keyframes)


def _sample_cubes(cell: WorkCellConfig, rng: np.random.Generator) -> list[SceneObject]:
    """Six cubes; the third and the fifth have the same colour, and so do the first two."""
    alike, other = (int(class_id) for class_id in rng.choice(len(CUBE_CLASSES), 2, replace=False))
    classes = [other, other, alike, int(rng.integers(len(CUBE_CLASSES))), alike, int(rng.integers(len(CUBE_CLASSES)))]
    return [
        sample_cube(rng, class_id, f"object_{number}", cell).placed((0.5, 0.0, 0.03 + 0.06 * number))
        for number, class_id in enumerate(classes)
    ]


def _push(
    cell: WorkCellConfig, cubes: Sequence[SceneObject], starts: Float[np.ndarray, "N 2"], yaws: Float[np.ndarray, " N"]
) -> tuple[Keyframe, ...]:
    """The closed fingers come down before the second cube, push it 0.12 m along x, and rise."""
    pushed, level = 1, yaws.copy()
    level[pushed] = 0.0
    contact = _FINGERTIP_HALF_X_M + 0.5 * cubes[pushed].edge_m
    begin = np.array([starts[pushed, 0] - contact - 0.01, starts[pushed, 1], 0.03])
    end = begin + [0.13, 0.0, 0.0]
    way = _along([begin + [0, 0, 0.25], begin, end, end + [-0.01, 0, 0.25]], [14, 18, 14])
    keyframes = []
    for tcp in way:
        feet = starts.copy()
        if keyframes:
            feet[pushed] = keyframes[-1].feet_xy[pushed]
        if tcp[2] < 0.05:
            feet[pushed, 0] = max(feet[pushed, 0], tcp[0] + contact)
        keyframes.append(Keyframe(_hand_at(cell, tcp), 0.0, feet, level))
    return tuple(keyframes)


def _pass_before(
    cell: WorkCellConfig,
    starts: Float[np.ndarray, "N 2"],
    yaws: Float[np.ndarray, " N"],
    eye: Float[np.ndarray, " 3"],
    *,
    hidden: int,
) -> tuple[Keyframe, ...]:
    """The hand sweeps across the line from the eye to a cube and waits 1.6 s in the middle of it."""
    foot = np.array([*starts[hidden], 0.025])
    # Fingertips below the line of sight, palm and wrist in it.
    middle = foot + (eye - foot) * (0.18 / (eye[2] - foot[2])) - [0.0, 0.0, 0.08]
    across = np.array([eye[1] - foot[1], foot[0] - eye[0], 0.0])
    across *= 0.24 / np.linalg.norm(across)
    way = _along([middle + across, middle, middle, middle - across], [14, 16, 14])
    return tuple(Keyframe(_hand_at(cell, tcp), cell.gripper.opening_max_m, starts, yaws) for tcp in way)


def _cross(
    cell: WorkCellConfig, starts: Float[np.ndarray, "N 2"], yaws: Float[np.ndarray, " N"]
) -> tuple[Keyframe, ...]:
    """The third and the fifth cube change places along x, 70 mm apart; the fourth slides off; the camera sways."""
    level, travel = yaws.copy(), np.zeros_like(starts)
    level[[2, 4]] *= 0.3
    travel[2], travel[4], travel[3] = [0.18, 0.0], [-0.18, 0.0], [0.0, -0.05]
    keyframes = []
    for part in _along([np.zeros(1), np.ones(1)], [36])[:, 0]:
        tilt = tool_rotation(0.4 * part, _SWAY_RAD * np.sin(np.pi * part), 2.0 * np.pi * part)
        pose = tool_looking_at(_TARGET + [0.03 * np.sin(2 * np.pi * part), 0, 0], 0.55, tilt, cell)
        keyframes.append(Keyframe(_joints(cell, pose), cell.gripper.opening_max_m, starts + part * travel, level))
    return tuple(keyframes)


def _along(points: Sequence[Float[np.ndarray, " D"]], steps: Sequence[int]) -> Float[np.ndarray, "F D"]:
    """Places on straight lines from point to point, each begun and ended at rest; three frames of rest first."""
    places = [np.array([points[0]] * 3)]
    for start, end, count in zip(points, points[1:], steps, strict=False):
        part = np.linspace(0.0, 1.0, count + 1)[1:, None]
        places.append(start + (end - start) * part * part * (3.0 - 2.0 * part))
    return np.concatenate(places)


def _hand_at(cell: WorkCellConfig, tcp: Float[np.ndarray, " 3"]) -> Float[np.ndarray, " 6"]:
    return _joints(cell, tool_grasping_at(tcp, tool_rotation(0.0, 0.0, 0.0), cell))


def _joints(cell: WorkCellConfig, T_base_tool: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, " 6"]:
    found = joints_for(T_base_tool, cell)
    if found is None:
        x, y, z = T_base_tool[:3, 3]
        raise RuntimeError(f"the arm of this cell does not reach ({x:.2f}, {y:.2f}, {z:.2f}) m")
    return found
