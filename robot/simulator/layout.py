"""Place objects at random without overlap, drop them, and let physics bring them to rest."""

# pyright: reportAttributeAccessIssue=false
# MuJoCo is a compiled module without type information.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np
from jaxtyping import Float

from handeye.robot.config import WorkCellConfig
from handeye.robot.simulator.objects import UPRIGHT, Profile, Quaternion, SceneObject, sample_cube, sample_distractor
from handeye.robot.simulator.scene import PHYSICS_DT_S, Scene, arm_addresses

_ATTEMPTS = 60
_DROP_M = 0.002


@dataclass(frozen=True, slots=True)
class Area:
    """A rectangle of the table (base frame, m) and the free space to keep around each object in it."""

    low_xy_m: tuple[float, float]
    high_xy_m: tuple[float, float]
    gap_m: float = 0.012

    def grown(self, by_m: float) -> Area:
        """The rectangle with a border added on each side."""
        (x0, y0), (x1, y1) = self.low_xy_m, self.high_xy_m
        return Area((x0 - by_m, y0 - by_m), (x1 + by_m, y1 + by_m), self.gap_m)

    def sample(self, rng: np.random.Generator) -> Float[np.ndarray, " 2"]:
        """A point in it, uniform."""
        return rng.uniform(self.low_xy_m, self.high_xy_m)


class Layout:
    """Places objects one after the other; those without a free place after many attempts are left out."""

    def __init__(self, cell: WorkCellConfig, rng: np.random.Generator, profile: Profile) -> None:
        self._cell, self._rng, self._profile = cell, rng, profile
        self.objects: list[SceneObject] = []
        self._kept_gap_m: dict[str, float] = {}

    def add_cubes(self, class_ids: Sequence[int], area: Area, *, keeps_gap: bool = False) -> None:
        """Cubes of these classes, standing on the table in `area`, at any yaw.

        With keeps_gap what is placed later also stays that far away.
        """
        for class_id in class_ids:
            cube = sample_cube(self._rng, class_id, self._next_name(), self._cell)
            self._stand(cube, area)
            if keeps_gap:
                self._kept_gap_m[cube.name] = area.gap_m

    def add_distractors(self, count: int, area: Area) -> None:
        """Distractors standing on the table in `area`."""
        for _ in range(count):
            self._stand(sample_distractor(self._rng, self._profile, self._next_name()), area)

    def drop(self, item: SceneObject, centre_xy_m: Float[np.ndarray, " 2"], height_m: float) -> None:
        """Place an object in the air in a random orientation, to fall."""
        quat = self._rng.standard_normal(4)
        w, x, y, z = (float(value) for value in quat / np.linalg.norm(quat))
        placed = item.placed((float(centre_xy_m[0]), float(centre_xy_m[1]), height_m), (w, x, y, z))
        self.objects.append(placed)

    def fill_bin(self, class_ids: Sequence[int]) -> None:
        """Cubes dropped into the bin, one above the other."""
        half = np.array(self._cell.bin.inside_m) / 2 - 0.04
        for level, class_id in enumerate(class_ids):
            cube = sample_cube(self._rng, class_id, self._next_name(), self._cell)
            place = np.array(self._cell.bin.centre_xy_m) + self._rng.uniform(-half, half)
            self.drop(cube, place, self._cell.table.height_m + 0.06 + 0.09 * level)

    def next_cube(self, class_id: int) -> SceneObject:
        """A cube that the caller will place."""
        return sample_cube(self._rng, class_id, self._next_name(), self._cell)

    def _next_name(self) -> str:
        return f"object_{len(self.objects)}"

    def _stand(self, item: SceneObject, area: Area) -> None:
        for _ in range(_ATTEMPTS):
            place = area.sample(self._rng)
            if self._is_free(place, item.radius_m + area.gap_m):
                z = self._cell.table.height_m + item.height_m + _DROP_M
                yaw = self._rng.uniform(-np.pi, np.pi)
                self.objects.append(item.placed((float(place[0]), float(place[1]), z), yaw_quaternion(yaw)))
                return

    def _is_free(self, place: Float[np.ndarray, " 2"], radius_m: float) -> bool:
        bin_ = self._cell.bin
        from_bin = np.abs(place - np.array(bin_.centre_xy_m)) - np.array(bin_.inside_m) / 2 - bin_.wall_thickness_m
        if np.all(from_bin < radius_m) or np.hypot(*place) < radius_m + 0.15:
            return False
        return all(self._is_apart(place, radius_m, item) for item in self.objects)

    def _is_apart(self, place: Float[np.ndarray, " 2"], radius_m: float, item: SceneObject) -> bool:
        wanted = radius_m + item.radius_m + self._kept_gap_m.get(item.name, 0.0)
        return bool(np.hypot(*(place - item.pos[:2])) > wanted)


def yaw_quaternion(yaw_rad: float) -> Quaternion:
    """Rotation about z, scalar first."""
    return (float(np.cos(yaw_rad / 2)), *UPRIGHT[1:3], float(np.sin(yaw_rad / 2)))


def settle(scene: Scene, duration_s: float) -> None:
    """Let objects fall and come to rest while the arm holds still; remaining motion is stopped."""
    for _ in range(round(duration_s / PHYSICS_DT_S)):
        mujoco.mj_step(scene.model, scene.data)
    scene.data.qvel[:] = 0.0
    scene.data.time = 0.0
    mujoco.mj_forward(scene.model, scene.data)


def object_pose(scene: Scene, item: SceneObject) -> Float[np.ndarray, "4 4"]:
    """T_base_object of an object now."""
    body = scene.data.body(item.name)
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = body.xmat.reshape(3, 3), body.xpos
    return pose


def move_object(scene: Scene, item: SceneObject, pos: Float[np.ndarray, " 3"], quat: Float[np.ndarray, " 4"]) -> None:
    """Put an object elsewhere, at rest; takes effect with the next mj_forward or step."""
    joint = scene.model.joint(item.name)
    start, velocity = joint.qposadr[0], joint.dofadr[0]
    assert start >= len(arm_addresses(scene.model))
    scene.data.qpos[start : start + 7] = np.concatenate([pos, quat])
    scene.data.qvel[velocity : velocity + 6] = 0.0
