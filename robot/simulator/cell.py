"""The simulated work cell: clock, arm and camera like those of a real one, and a scene sampled from a seed.

Lock-step: physics moves only while someone waits on the clock, so an episode repeats exactly from its seed.
"""

# pyright: reportAttributeAccessIssue=false
# MuJoCo is a compiled module without type information.

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from pydantic import Field

from handeye.robot.config import NO_LATENCY, CameraConfig, LatencyConfig, WorkCellConfig
from handeye.robot.simulator.appearance import sample_appearance
from handeye.robot.simulator.camera import SensorConfig, SimulatedCamera
from handeye.robot.simulator.faults import Fault, FaultSchedule
from handeye.robot.simulator.layout import Area, Layout, object_pose, settle
from handeye.robot.simulator.objects import CUBE_CLASSES, Profile, SceneObject
from handeye.robot.simulator.renderers import Renderer, build_renderer
from handeye.robot.simulator.scene import Physics, Scene, build_scene, resized_camera, scene_camera
from handeye.robot.simulator.servo_arm import SimulatedArm

_ATTEMPTS = 50
_SETTLE_S = 0.3
_REACH_MARGIN_M = 0.015


class SimulatorConfig(SensorConfig):
    """What lies on the table in a pick episode, and how the cameras see it."""

    target: Literal["red_cube", "green_cube", "blue_cube", "yellow_cube"] = "red_cube"
    """The class of the cube to pick, of which there is exactly one."""
    other_cubes: tuple[int, int] = (1, 4)
    """Fewest and most cubes of the other colours."""
    distractors: tuple[int, int] = (1, 5)
    """Fewest and most distractors."""
    target_gap_m: float = Field(default=0.035, ge=0)
    """Free space around the target for the fingers."""
    gap_m: float = Field(default=0.012, ge=0)
    """Free space around everything else."""
    profile: Profile = Profile.TRAIN


class SimulatedCell:
    """`reset(seed)`, then use `clock`, `arm` and `camera` as on a real robot.

    `scene` and `target` are the true state, for success checks and videos; policies see frames and joint states.
    """

    def __init__(self, cell: WorkCellConfig, config: SimulatorConfig, latency: LatencyConfig = NO_LATENCY) -> None:
        self.cell, self.config = cell, config
        self.physics = Physics()
        self.arm = SimulatedArm(self.physics, cell, latency_s=latency.actuation_s)
        self.camera = SimulatedCamera(self.physics, cell, config, latency_s=latency.camera_s)
        self._faults = FaultSchedule(self.physics, self.arm, self.camera, cell.table)
        self._scene_renderers: dict[str, Renderer] = {}

    @property
    def clock(self) -> Physics:
        """A robot.interfaces.Clock: time since the reset; waiting on it steps the physics."""
        return self.physics

    @property
    def scene(self) -> Scene:
        """The true state."""
        return self.physics.scene

    @property
    def target(self) -> SceneObject:
        """The one object of the target class."""
        return find_target(self.scene, self.config)

    def reset(self, seed: int, faults: Sequence[Fault] = ()) -> None:
        """Sample the scene of episode `seed`, let it come to rest, put the arm at home and time to 0."""
        scene = sample_pick_scene(self.cell, self.config, seed)
        self.physics.load(scene)
        self.arm.reset()
        self.camera.reset(seed)
        self._faults.schedule(faults, self.target.name)
        for renderer in self._scene_renderers.values():
            renderer.load(scene)

    def video_frame(self) -> UInt8[np.ndarray, "H W 3"]:
        """The scene camera's view for videos: with shadows, as large as the wrist camera's images."""
        return self._render("video", scene_camera(self.cell.camera), shadows=True)

    def scene_image(self) -> UInt8[np.ndarray, "h w 3"]:
        """The scene camera's view for policies: `scene_camera_hw` large, ten times as fast without shadows."""
        camera = resized_camera(scene_camera(self.cell.camera), self.config.scene_camera_hw)
        return self._render("policy", camera, shadows=self.config.shadows)

    def close(self) -> None:
        """Free the renderers of the scene camera; wrist camera and arm are closed by their own contexts."""
        for renderer in self._scene_renderers.values():
            renderer.close()
        self._scene_renderers.clear()

    def _render(self, view: str, camera: CameraConfig, *, shadows: bool) -> UInt8[np.ndarray, "H W 3"]:
        renderer = self._scene_renderers.get(view)
        if renderer is None:
            renderer = build_renderer(self.config.renderer, camera, shadows=shadows, camera_name="scene")
            renderer.load(self.scene)
            self._scene_renderers[view] = renderer
        return renderer.render(self.scene.data).image_rgb


def sample_pick_scene(cell: WorkCellConfig, config: SimulatorConfig, seed: int) -> Scene:
    """The scene of an episode: one target within reach with free space for the fingers, other objects, all at rest."""
    for attempt in range(_ATTEMPTS):
        rng = np.random.default_rng([seed, attempt])
        scene = build_scene(cell, _sample_objects(cell, config, rng), sample_appearance(rng, config.profile))
        settle(scene, _SETTLE_S)
        if _is_fair(scene, cell, config):
            return scene
    raise RuntimeError(f"no scene within {_ATTEMPTS} attempts for seed {seed}: too many objects for the table")


def find_target(scene: Scene, config: SimulatorConfig) -> SceneObject:
    """The object of the target class."""
    wanted = CUBE_CLASSES.index(config.target)
    return next(item for item in scene.objects if item.class_id == wanted)


def _sample_objects(cell: WorkCellConfig, config: SimulatorConfig, rng: np.random.Generator) -> list[SceneObject]:
    layout = Layout(cell, rng, config.profile)
    reach = Area(cell.table.cubes_low_xy_m, cell.table.cubes_high_xy_m, config.gap_m)
    wanted = CUBE_CLASSES.index(config.target)
    others = [class_id for class_id in range(len(CUBE_CLASSES)) if class_id != wanted]
    inside = reach.grown(-_REACH_MARGIN_M)
    layout.add_cubes([wanted], Area(inside.low_xy_m, inside.high_xy_m, config.target_gap_m), keeps_gap=True)
    count = int(rng.integers(config.other_cubes[0], config.other_cubes[1] + 1))
    layout.add_cubes([int(class_id) for class_id in rng.choice(others, count)], reach.grown(0.05))
    layout.add_distractors(int(rng.integers(config.distractors[0], config.distractors[1] + 1)), reach.grown(0.05))
    return layout.objects


def _is_fair(scene: Scene, cell: WorkCellConfig, config: SimulatorConfig) -> bool:
    """Whether the target stands upright within reach and nothing has fallen off the table."""
    target = find_target(scene, config)
    pose = object_pose(scene, target)
    stands = bool(abs(pose[2, 3] - cell.table.height_m - target.edge_m / 2) < 0.002)
    heights = [float(object_pose(scene, item)[2, 3]) for item in scene.objects]
    return stands and cell.table.is_reachable(pose[:3, 3]) and min(heights) > cell.table.height_m
