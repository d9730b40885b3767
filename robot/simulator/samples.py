"""Render labelled sample images for detector training: a random scene, viewpoint, appearance and renderer.

Image i depends on (seed, i) alone, not on the process or the order of rendering.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from jaxtyping import Float, UInt8
from typing_extensions import assert_never

from handeye.robot.config import WorkCellConfig
from handeye.robot.errors import KinematicsError
from handeye.robot.kinematics.limits import joint_limits_from_config
from handeye.robot.kinematics.ur10e_ik import choose_solution, inverse_kinematics
from handeye.robot.simulator.appearance import sample_appearance
from handeye.robot.simulator.labels import Label, label_objects
from handeye.robot.simulator.layout import Area, Layout, move_object, object_pose, settle
from handeye.robot.simulator.objects import CUBE_CLASSES, Profile, SceneObject
from handeye.robot.simulator.renderers import Renderer, RendererKind, build_renderer
from handeye.robot.simulator.scene import Scene, build_scene, place_arm
from handeye.robot.simulator.sensor_noise import apply_sensor_model
from handeye.robot.transforms import inverse, rotation_to_quat_wxyz

_ATTEMPTS = 30
_GRIPPER_GEOMS = ("palm", "finger", "pad", "camera", "wrist", "coupling")
_MAY_TOUCH_M = 0.002


class View(Enum):
    """Viewpoints of the wrist camera in the course of a pick."""

    OVERVIEW = "overview"
    OBLIQUE = "oblique"
    APPROACH = "approach"
    BIN = "bin"
    HELD = "held"


_VIEW_SHARES = {View.OVERVIEW: 0.40, View.OBLIQUE: 0.12, View.APPROACH: 0.22, View.BIN: 0.13, View.HELD: 0.13}
# With AUTO where GL works: GL with shadows, GL without, rays.
_RENDERER_SHARES = (0.52, 0.35, 0.13)


# Tool pointing straight down, fingers opening along base y.
_DOWN = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])


@dataclass(frozen=True, slots=True, eq=False)
class LabelledSample:
    """An image and its labels."""

    image_rgb: UInt8[np.ndarray, "H W 3"]
    labels: tuple[Label, ...]
    view: View


class SampleRenderer:
    """Renders samples with the renderers of one process."""

    def __init__(
        self, cell: WorkCellConfig, profile: Profile, kind: RendererKind, *, label_clutter: bool = False
    ) -> None:
        self._cell, self._profile, self._kind = cell, profile, kind
        self._label_clutter = label_clutter
        self._renderers: dict[tuple[RendererKind, bool], Renderer] = {}

    def render(self, seed: int, index: int) -> LabelledSample:
        """Sample `index` of the series `seed`."""
        rng = np.random.default_rng([seed, index])
        renderer = self._choose_renderer(rng)
        view = list(View)[rng.choice(len(View), p=[_VIEW_SHARES[view] for view in View])]
        scene = pose_scene(self._cell, self._profile, view, rng)
        renderer.load(scene)
        image = renderer.render(scene.data).image_rgb
        labels = label_objects(scene, renderer.segment(scene.data), self._cell.camera, clutter=self._label_clutter)
        return LabelledSample(apply_sensor_model(image, scene.appearance.effects, rng), tuple(labels), view)

    def close(self) -> None:
        """Free the renderers."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()

    def _choose_renderer(self, rng: np.random.Generator) -> Renderer:
        draw = rng.choice(3, p=_RENDERER_SHARES)
        with_shadows = bool(draw == 0)
        match self._kind:
            case RendererKind.AUTO:
                kind = RendererKind.RAYS if draw == 2 else RendererKind.AUTO
            case RendererKind.GL | RendererKind.RAYS:
                kind = self._kind
            case _:
                assert_never(self._kind)
        key = (kind, with_shadows and kind is not RendererKind.RAYS)
        if key not in self._renderers:
            self._renderers[key] = build_renderer(kind, self._cell.camera, shadows=key[1])
        return self._renderers[key]


def pose_scene(cell: WorkCellConfig, profile: Profile, view: View, rng: np.random.Generator) -> Scene:
    """A settled scene with the arm posed for this view."""
    appearance = sample_appearance(rng, profile)
    layout = Layout(cell, rng, profile)
    falls = _sample_objects(layout, cell, view, rng)
    scene = build_scene(cell, layout.objects, appearance)
    settle(scene, 0.5 if falls else 0.08)
    held = next((item for item in scene.objects if item.class_id is not None), None) if view is View.HELD else None
    for _ in range(_ATTEMPTS):
        tool = _sample_tool_pose(scene, cell, view, rng)
        joints = joints_for(tool, cell)
        if joints is None:
            continue
        if held is not None:
            _put_between_fingers(scene, held, tool, cell, rng)
        opening = held.edge_m if held is not None else _sample_opening(cell, view, rng)
        place_arm(scene, joints, opening)
        if not _arm_hits_something(scene, held):
            return scene
    place_arm(scene, np.array(cell.home_qpos), cell.gripper.opening_max_m)
    return scene


def tool_rotation(yaw_rad: float, tilt_rad: float, tilt_azimuth_rad: float) -> Float[np.ndarray, "3 3"]:
    """R_base_tool: pointing down, turned by yaw about base z, then tilted about a horizontal axis."""
    c, s = np.cos(yaw_rad), np.sin(yaw_rad)
    yaw = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    axis = np.array([np.cos(tilt_azimuth_rad), np.sin(tilt_azimuth_rad), 0.0])
    cross = np.cross(np.eye(3), axis)
    tilt = np.eye(3) - np.sin(tilt_rad) * cross + (1 - np.cos(tilt_rad)) * cross @ cross
    return tilt @ yaw @ _DOWN


def tool_looking_at(
    p_base: Float[np.ndarray, " 3"], height_m: float, R_base_tool: Float[np.ndarray, "3 3"], cell: WorkCellConfig
) -> Float[np.ndarray, "4 4"]:
    """T_base_tool with the camera `height_m` above `p_base`, which lies on its optical axis."""
    R_base_camera = R_base_tool @ cell.T_tool_camera[:3, :3]
    direction = R_base_camera[:, 2]
    T_base_camera = np.eye(4)
    T_base_camera[:3, :3] = R_base_camera
    T_base_camera[:3, 3] = p_base - direction * (height_m / -direction[2])
    return T_base_camera @ inverse(cell.T_tool_camera)


def tool_grasping_at(
    p_base: Float[np.ndarray, " 3"], R_base_tool: Float[np.ndarray, "3 3"], cell: WorkCellConfig
) -> Float[np.ndarray, "4 4"]:
    """T_base_tool with the grasp point at `p_base`."""
    T_base_tcp = np.eye(4)
    T_base_tcp[:3, :3] = R_base_tool @ cell.T_tool_tcp[:3, :3]
    T_base_tcp[:3, 3] = p_base
    return T_base_tcp @ inverse(cell.T_tool_tcp)


def joints_for(T_base_tool: Float[np.ndarray, "4 4"], cell: WorkCellConfig) -> Float[np.ndarray, " 6"] | None:
    """The IK solution nearest to home, None where the pose is out of reach or outside the workspace."""
    tcp = (T_base_tool @ cell.T_tool_tcp)[:3, 3]
    if not cell.workspace.contains(tcp):
        return None
    home = np.array(cell.home_qpos)
    try:
        solutions = inverse_kinematics(T_base_tool, q6_hint=home[5])
        return choose_solution(solutions, home, joint_limits_from_config(cell.joint_limits))
    except KinematicsError:
        return None


def _sample_objects(layout: Layout, cell: WorkCellConfig, view: View, rng: np.random.Generator) -> bool:
    """Put objects on the table and into the bin; True if some of them still have to fall."""
    table = Area(cell.table.cubes_low_xy_m, cell.table.cubes_high_xy_m).grown(0.08)
    is_bare = view is not View.HELD and rng.random() < 0.08
    count = 0 if is_bare else int(rng.integers(1, 9))
    classes = [int(class_id) for class_id in rng.integers(len(CUBE_CLASSES), size=count)]
    in_bin: list[int] = []
    if view is View.BIN:
        split = int(rng.integers(0, min(count, 4) + 1))
        in_bin, classes = classes[:split], classes[split:]
    layout.add_cubes(classes, table)
    layout.add_distractors(int(rng.integers(0, 9)), table)
    layout.fill_bin(in_bin)
    falling = int(rng.integers(1, 4)) if rng.random() < 0.2 else 0
    for level in range(falling):
        layout.drop(layout.next_cube(int(rng.integers(4))), table.sample(rng), 0.12 + 0.08 * level)
    return bool(in_bin) or falling > 0


def _sample_tool_pose(
    scene: Scene, cell: WorkCellConfig, view: View, rng: np.random.Generator
) -> Float[np.ndarray, "4 4"]:
    table_z = cell.table.height_m
    area = Area(cell.table.cubes_low_xy_m, cell.table.cubes_high_xy_m)
    on_table = np.array([*area.sample(rng), table_z])
    over_bin = np.array([*(np.array(cell.bin.centre_xy_m) + rng.normal(0, 0.05, 2)), table_z])
    yaw, azimuth = rng.uniform(-np.pi, np.pi), rng.uniform(-np.pi, np.pi)
    steady = tool_rotation(yaw, abs(rng.normal(0, np.radians(3.0))), azimuth)
    match view:
        case View.OVERVIEW:
            return tool_looking_at(on_table, rng.uniform(0.35, 0.75), steady, cell)
        case View.OBLIQUE:
            tilted = tool_rotation(yaw, np.radians(rng.uniform(10, 35)), azimuth)
            return tool_looking_at(on_table, rng.uniform(0.30, 0.70), tilted, cell)
        case View.APPROACH:
            return tool_grasping_at(_above_something(scene, on_table, rng), steady, cell)
        case View.BIN:
            if rng.random() < 0.5:
                return tool_looking_at(over_bin, rng.uniform(0.30, 0.65), steady, cell)
            return tool_grasping_at(over_bin + (0, 0, rng.uniform(0.14, 0.35)), steady, cell)
        case View.HELD:
            place = over_bin if rng.random() < 0.3 else on_table
            return tool_grasping_at(place + (0, 0, rng.uniform(0.05, 0.45)), steady, cell)
        case _:
            assert_never(view)


def _above_something(
    scene: Scene, fallback: Float[np.ndarray, " 3"], rng: np.random.Generator
) -> Float[np.ndarray, " 3"]:
    """A grasp point at or above one of the objects, a little beside it."""
    beside = np.array([*rng.normal(0, 0.012, 2), rng.uniform(0.0, 0.28)])
    if not scene.objects:
        return fallback + beside
    chosen = scene.objects[rng.integers(len(scene.objects))]
    return object_pose(scene, chosen)[:3, 3] + beside


def _sample_opening(cell: WorkCellConfig, view: View, rng: np.random.Generator) -> float:
    """Open when approaching, otherwise sometimes partly closed."""
    if view is View.APPROACH or rng.random() < 0.7:
        return cell.gripper.opening_max_m
    return float(rng.uniform(cell.gripper.opening_min_m, cell.gripper.opening_max_m))


def _put_between_fingers(
    scene: Scene,
    item: SceneObject,
    T_base_tool: Float[np.ndarray, "4 4"],
    cell: WorkCellConfig,
    rng: np.random.Generator,
) -> None:
    """The cube between the pads, faces on them, a little off the grasp point and rotated about the opening axis."""
    T_tcp_object = np.eye(4)
    turn = rng.normal(0, 0.06) + rng.integers(4) * np.pi / 2
    c, s = np.cos(turn), np.sin(turn)
    T_tcp_object[:3, :3] = [[1, 0, 0], [0, c, -s], [0, s, c]]
    T_tcp_object[1:3, 3] = rng.normal(0, 0.004, 2)
    pose = T_base_tool @ cell.T_tool_tcp @ T_tcp_object
    move_object(scene, item, pose[:3, 3], rotation_to_quat_wxyz(pose[:3, :3]))


def _arm_hits_something(scene: Scene, held: SceneObject | None) -> bool:
    """Whether a part of the arm is inside table, bin or an object; a held cube may touch the pads only."""
    for contact in scene.data.contact[: scene.data.ncon]:
        if contact.dist > -_MAY_TOUCH_M:
            continue
        names = {scene.model.geom(int(geom)).name for geom in contact.geom}
        if held is not None and any(name.startswith(f"{held.name}_") for name in names):
            if not any(
                name.startswith(("table", "bin", "object")) and not name.startswith(held.name) for name in names
            ):
                continue
            return True
        if any(name.startswith(_GRIPPER_GEOMS) for name in names):
            return True
    return False
