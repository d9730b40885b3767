"""Label the objects in a rendered image with boxes around their visible pixels.

An object is a positive when enough of it is visible; otherwise its box is marked to be ignored.
"""

# pyright: reportAttributeAccessIssue=false
# MuJoCo is a compiled module without type information.

from __future__ import annotations

from dataclasses import dataclass

import cv2
import mujoco
import numpy as np
from jaxtyping import Bool, Float, Int32

from handeye.robot.config import CameraConfig
from handeye.robot.simulator.layout import object_pose
from handeye.robot.simulator.objects import CLUTTER_CLASS_ID, Part, SceneObject
from handeye.robot.simulator.scene import NEAR_M, Scene
from handeye.robot.transforms import quat_wxyz_to_rotation

MIN_VISIBLE_FRACTION = 0.25
MIN_SIDE_PX = 6


@dataclass(frozen=True, slots=True)
class Label:
    """One object in one image. box_xywh in pixels: left, top, width and height of the pixels seen."""

    class_id: int
    box_xywh: tuple[int, int, int, int]
    visible_px: int
    visible_fraction: float

    @property
    def is_ignored(self) -> bool:
        """Whether it is too occluded, truncated or small to count."""
        too_small = min(self.box_xywh[2:]) < MIN_SIDE_PX
        return too_small or self.visible_fraction < MIN_VISIBLE_FRACTION


def label_objects(
    scene: Scene,
    geom_ids: Int32[np.ndarray, "H W"],
    camera: CameraConfig,
    *,
    clutter: bool,
    camera_name: str = "wrist",
) -> list[Label]:
    """The cubes, and with `clutter` the other objects too, of which at least one pixel of `geom_ids` is seen.

    `geom_ids` is the segmentation image of the camera of that name.
    """
    labels = []
    for item in scene.objects:
        if item.class_id is None and not clutter:
            continue
        seen = np.isin(geom_ids, _geoms_of(scene.model, item))
        count = int(np.count_nonzero(seen))
        if count == 0:
            continue
        fraction = min(1.0, count / unoccluded_area_px(scene, item, camera, camera_name))
        class_id = CLUTTER_CLASS_ID if item.class_id is None else item.class_id
        labels.append(Label(class_id, _bounds(seen), count, fraction))
    return labels


def unoccluded_area_px(scene: Scene, item: SceneObject, camera: CameraConfig, camera_name: str = "wrist") -> float:
    """Pixels that the object would cover unoccluded in an unbounded image; infinite if it reaches the near plane.

    Exact for a cube; a round object is taken for the boxes around its parts, which cover up to twice as much.
    """
    T_base_object = object_pose(scene, item)
    corners = np.concatenate([_corners(part) for part in item.parts])
    corners_base = corners @ T_base_object[:3, :3].T + T_base_object[:3, 3]
    corners_camera = (corners_base - scene.data.cam(camera_name).xpos) @ _camera_rotation(scene, camera_name)
    if np.min(corners_camera[:, 2]) < NEAR_M:
        return float("inf")
    pixels = corners_camera @ camera.K.T
    hull = cv2.convexHull((pixels[:, :2] / pixels[:, 2:]).astype(np.float32))
    return max(1.0, float(cv2.contourArea(hull)))


def _corners(part: Part) -> Float[np.ndarray, "8 3"]:
    """Corners of the box around a part, in the frame of its object, m."""
    match part.shape:
        case "sphere":
            half = np.full(3, part.size[0])
        case "cylinder":
            half = np.array([part.size[0], part.size[0], part.size[1]])
        case "capsule":
            half = np.array([part.size[0], part.size[0], part.size[0] + part.size[1]])
        case _:
            half = np.array(part.size)
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    return (signs * half) @ quat_wxyz_to_rotation(np.array(part.quat)).T + np.array(part.pos)


def _camera_rotation(scene: Scene, camera_name: str) -> Float[np.ndarray, "3 3"]:
    """R_base_camera: our camera axes (x right, y down, z forward) as columns, from MuJoCo's (x right, y up, z back)."""
    return scene.data.cam(camera_name).xmat.reshape(3, 3) * np.array([1.0, -1.0, -1.0])


def _geoms_of(model: mujoco.MjModel, item: SceneObject) -> Int32[np.ndarray, " N"]:
    return np.array([model.geom(f"{item.name}_{number}").id for number in range(len(item.parts))], np.int32)


def _bounds(mask: Bool[np.ndarray, "H W"]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    return left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top
