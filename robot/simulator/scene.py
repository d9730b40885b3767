"""Build the simulated cell as one MuJoCo model (table, bin, arm, cameras, objects, lights) and step its physics.

A model is compiled for every scene, which takes a few milliseconds. Time is a count of steps of 2 ms, so that an
episode repeats to the last bit.
"""

# pyright: reportAttributeAccessIssue=false
# MuJoCo is a compiled module without type information.

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

import cv2
import mujoco
import numpy as np
from jaxtyping import Float, Float32, Int, UInt8

from handeye.robot.config import CameraConfig, WorkCellConfig
from handeye.robot.kinematics.fixtures import fixtures_of_cell
from handeye.robot.simulator.appearance import Appearance, Light
from handeye.robot.simulator.mjcf import add, camera_lens, to_xml
from handeye.robot.simulator.objects import SceneObject, add_object
from handeye.robot.simulator.robot_model import FINGER_NAMES, JOINT_NAMES, add_arm, add_exclusions, add_gripper
from handeye.robot.transforms import rotation_to_quat_wxyz

PHYSICS_DT_S = 0.002
FLOOR_BELOW_TABLE_M = 0.75
TABLE_THICKNESS_M = 0.04
NEAR_M, FAR_M = 0.02, 40.0
SKY_M = 10.0
"""Everything in the scene is nearer than this; OpenGL draws its sky at about half the far plane."""
SHADOW_MAP_PX = 2048
SPOT_CUTOFF_DEG = 60.0
SPOT_EXPONENT = 2.0
TABLE_SHININESS = 0.5
SCENE_CAMERA_EYE, SCENE_CAMERA_TARGET, SCENE_CAMERA_FOCAL_PX = (1.75, 0.95, 1.05), (0.38, -0.12, 0.25), 640.0
MATERIALS = {"paint": (0.3, 0.4), "metal": (0.4, 0.5), "rubber": (0.1, 0.2)}
"""Specular strength and shininess of everything but the table."""
_ROUNDING = 1e-6

Hook = Callable[[float], None]


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A compiled scene with its state; `objects` in the order of their bodies."""

    model: mujoco.MjModel
    data: mujoco.MjData
    objects: tuple[SceneObject, ...]
    appearance: Appearance


@dataclass(frozen=True, slots=True, eq=False)
class Rendering:
    """What an ideal camera sees of a scene; depth_m is along the camera's z axis, infinite where nothing is hit."""

    image_rgb: UInt8[np.ndarray, "H W 3"]
    depth_m: Float32[np.ndarray, "H W"]


class Physics:
    """Clock of the simulated cell: steps the scene while someone waits (follows robot.interfaces.Clock).

    Servos, camera shutter and faults are hooks: `before_step` gets the time at the start of a step in s, `after_step`
    that at its end.
    """

    def __init__(self) -> None:
        self.before_step: list[Hook] = []
        self.after_step: list[Hook] = []
        self._scene: Scene | None = None
        self._steps = 0

    @property
    def scene(self) -> Scene:
        """The present scene. Raises RuntimeError before the first reset of the cell."""
        if self._scene is None:
            raise RuntimeError("the simulated cell is empty: reset it first")
        return self._scene

    @property
    def is_loaded(self) -> bool:
        """Whether there is a scene."""
        return self._scene is not None

    def load(self, scene: Scene) -> None:
        """Begin at time 0 with another scene."""
        self._scene, self._steps = scene, 0

    def now_s(self) -> float:
        """Time since the last `load`, s."""
        return self._steps * PHYSICS_DT_S

    def wait_until(self, stamp_s: float) -> None:
        """Step until now_s() >= stamp_s; a stamp in the past changes nothing."""
        scene = self.scene
        for _ in range(math.ceil(stamp_s / PHYSICS_DT_S - _ROUNDING) - self._steps):
            for hook in self.before_step:
                hook(self.now_s())
            mujoco.mj_step(scene.model, scene.data)
            self._steps += 1
            for hook in self.after_step:
                hook(self.now_s())


def build_scene(cell: WorkCellConfig, objects: Sequence[SceneObject], appearance: Appearance) -> Scene:
    """Compile the cell with these objects; the arm stands at `cell.home_qpos`, the gripper is open."""
    root = _document(cell, objects, appearance)
    coded, png = cv2.imencode(".png", appearance.table_texture[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 0])
    assert coded
    model = mujoco.MjModel.from_xml_string(to_xml(root), {"table.png": png.tobytes()})
    scene = Scene(model, mujoco.MjData(model), tuple(objects), appearance)
    place_arm(scene, np.array(cell.home_qpos), cell.gripper.opening_max_m)
    return scene


def place_arm(scene: Scene, qpos: Float[np.ndarray, " 6"], opening_m: float) -> None:
    """Put joints (6 angles, rad) and fingers there at rest, servos included, and recompute what follows."""
    half = np.full(len(FINGER_NAMES), opening_m / 2)
    at = arm_addresses(scene.model)
    scene.data.qpos[at] = np.concatenate([qpos, half])
    scene.data.qvel[:] = 0.0
    scene.data.ctrl[:] = np.concatenate([qpos, np.zeros(len(JOINT_NAMES)), half])
    mujoco.mj_forward(scene.model, scene.data)


def arm_addresses(model: mujoco.MjModel) -> Int[np.ndarray, " 8"]:
    """Where the six joints and the two fingers lie in qpos; they come first, so the same numbers index qvel."""
    addresses = np.array([model.joint(name).qposadr[0] for name in (*JOINT_NAMES, *FINGER_NAMES)])
    assert np.array_equal(addresses, np.arange(len(addresses)))
    return addresses


def _document(cell: WorkCellConfig, objects: Sequence[SceneObject], appearance: Appearance) -> Element:
    root = Element("mujoco", model="handeye cell")
    add(root, "compiler", angle="radian", autolimits="true")
    option = add(root, "option", timestep=PHYSICS_DT_S, integrator="implicitfast", cone="elliptic", impratio="10")
    add(option, "flag", multiccd="enable")
    _add_visual(root, cell, appearance)
    _add_assets(root, appearance)
    world, actuators, equality = add(root, "worldbody"), add(root, "actuator"), add(root, "equality")
    _add_background(world, cell, appearance)
    wrist = add_arm(world, actuators, cell.joint_limits)
    add_gripper(wrist, actuators, equality, cell)
    add_exclusions(add(root, "contact"))
    _add_bin(world, cell, appearance)
    for item in objects:
        add_object(world, item)
    return root


def _add_visual(root: Element, cell: WorkCellConfig, appearance: Appearance) -> None:
    add(root, "statistic", extent="1", center="0.5 0 0")
    visual = add(root, "visual")
    add(visual, "global", offwidth=str(cell.camera.width_px), offheight=str(cell.camera.height_px))
    add(visual, "quality", shadowsize=str(SHADOW_MAP_PX), offsamples="0")
    add(visual, "map", znear=NEAR_M, zfar=FAR_M, shadowclip=1.5)
    headlight = (appearance.headlight,) * 3
    add(visual, "headlight", ambient=appearance.ambient, diffuse=headlight, specular="0 0 0")


def _add_assets(root: Element, appearance: Appearance) -> None:
    asset = add(root, "asset")
    top, bottom = appearance.sky_rgb
    add(asset, "texture", type="skybox", builtin="gradient", rgb1=top, rgb2=bottom, width="128", height="768")
    add(asset, "texture", name="table", type="2d", file="table.png")
    add(
        asset,
        "material",
        name="table",
        texture="table",
        texuniform="true",
        texrepeat=(1 / appearance.table_texture_m,) * 2,
        specular=appearance.table_gloss,
        shininess=TABLE_SHININESS,
    )
    for name, (specular, shininess) in MATERIALS.items():
        add(asset, "material", name=name, specular=specular, shininess=shininess)


def _add_background(world: Element, cell: WorkCellConfig, appearance: Appearance) -> None:
    table = cell.table
    for light in appearance.lights:
        _add_light(world, light)
    _add_scene_camera(world, cell.camera)
    low, high = np.array(table.low_xy_m), np.array(table.high_xy_m)
    middle, half = (low + high) / 2, (high - low) / 2
    floor_z = table.height_m - FLOOR_BELOW_TABLE_M
    floor = (*appearance.floor_rgb, 1.0)
    add(world, "geom", name="floor", type="plane", pos=(0, 0, floor_z), size="6 6 0.1", rgba=floor, material="rubber")
    add(
        world,
        "geom",
        name="table",
        type="box",
        pos=(*middle, table.height_m - TABLE_THICKNESS_M / 2),
        size=(*half, TABLE_THICKNESS_M / 2),
        material="table",
        friction="0.7 0.005 0.0001",
    )


def _add_light(world: Element, light: Light) -> None:
    add(
        world,
        "light",
        type="directional" if light.is_directional else "spot",
        pos=light.pos,
        dir=light.direction,
        diffuse=light.diffuse,
        specular=light.specular,
        ambient="0 0 0",
        cutoff=SPOT_CUTOFF_DEG,
        exponent=SPOT_EXPONENT,
        attenuation="1 0 0",
    )


def scene_camera(camera: CameraConfig) -> CameraConfig:
    """The scene camera beside the table: images as large as the wrist camera's, with a longer lens."""
    return camera.model_copy(update={"fx_px": SCENE_CAMERA_FOCAL_PX, "fy_px": SCENE_CAMERA_FOCAL_PX})


def resized_camera(camera: CameraConfig, size_hw: tuple[int, int]) -> CameraConfig:
    """The same view in images of another size."""
    down, across = size_hw[0] / camera.height_px, size_hw[1] / camera.width_px
    return camera.model_copy(
        update={
            "height_px": size_hw[0],
            "width_px": size_hw[1],
            "fx_px": camera.fx_px * across,
            "fy_px": camera.fy_px * down,
            "cx_px": (camera.cx_px + 0.5) * across - 0.5,
            "cy_px": (camera.cy_px + 0.5) * down - 0.5,
        }
    )


def aim_scene_camera(scene: Scene, eye: Float[np.ndarray, " 3"], target: Float[np.ndarray, " 3"]) -> None:
    """Move the scene camera to `eye`, looking at `target`; takes effect with the next mj_forward or step."""
    right, up, back = _camera_axes(eye, target)
    camera = scene.model.camera("scene")
    camera.pos[:] = eye
    camera.quat[:] = rotation_to_quat_wxyz(np.stack([right, up, back], axis=1))


def _add_scene_camera(world: Element, wrist: CameraConfig) -> None:
    """Looks at the table and the bin from the front left, over the edge of the table."""
    focal = scene_camera(wrist)
    right, up, _ = _camera_axes(np.array(SCENE_CAMERA_EYE), np.array(SCENE_CAMERA_TARGET))
    add(world, "camera", name="scene", pos=SCENE_CAMERA_EYE, xyaxes=(*right, *up), **camera_lens(focal))


def _camera_axes(eye: Float[np.ndarray, " 3"], target: Float[np.ndarray, " 3"]) -> tuple[np.ndarray, ...]:
    """Unit vectors right, up and back of a level camera: MuJoCo's camera axes."""
    back = (eye - target) / np.linalg.norm(eye - target)
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    return right, np.cross(back, right), back


def _add_bin(world: Element, cell: WorkCellConfig, appearance: Appearance) -> None:
    """Floor and four walls, standing on the table."""
    body = add(world, "body", name="bin")
    fixtures = fixtures_of_cell(cell)
    for name, pos, size in zip(fixtures.names, fixtures.middles, fixtures.half_m, strict=True):
        add(body, "geom", name=name, type="box", pos=pos, size=size, rgba=appearance.bin_rgba, material="paint")
