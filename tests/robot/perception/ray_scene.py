"""A numpy ray caster for boxes on a plane: exact depth to test against, and a stereo camera's noise on top of it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from handeye.robot.transforms import inverse, make_transform
from handeye.robot.types import Frame
from handeye.vision.runtime.detections import Detections

K = np.array([[386.0, 0.0, 319.5], [0.0, 386.0, 239.5], [0.0, 0.0, 1.0]])
SIZE_HW = (480, 640)
NAMES = ("red_cube", "green_cube", "blue_cube", "yellow_cube")
BASELINE_M = 0.095
SUBPIXEL_PX = 0.08


@dataclass(frozen=True)
class Box:
    """A solid box, its centre and full sizes in m, turned by yaw about base z."""

    centre: np.ndarray
    size: np.ndarray
    yaw: float = 0.0


def cube(x: float, y: float, edge: float, yaw: float = 0.0, bottom: float = 0.0) -> Box:
    return Box(np.array([x, y, bottom + 0.5 * edge]), np.full(3, edge), yaw)


def look_at(eye: np.ndarray, target: np.ndarray, roll: float = 0.0) -> np.ndarray:
    """T_base_camera of a camera at eye whose z axis points to target."""
    z = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(z, [np.sin(roll), np.cos(roll), 0.3])
    x = right / np.linalg.norm(right)
    return make_transform(np.stack([x, np.cross(z, x), z], axis=1), eye)


def cast(boxes: list[Box], T_base_camera: np.ndarray, table: float | None = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Exact depth (m, NaN where nothing is hit) and what is hit: -1 the table, else the box's index."""
    rays, eye = _rays(T_base_camera, (slice(None), slice(None))), T_base_camera[:3, 3]
    depth = np.full(SIZE_HW, np.inf)
    if table is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            below = (table - eye[2]) / rays[..., 2]
        depth = np.where(below > 0, below, np.inf)
    hit = np.full(SIZE_HW, -1)
    for index, box in enumerate(boxes):
        part = _image_part(box, T_base_camera)
        near = _enter(box, eye, rays[part])
        hit[part] = np.where(near < depth[part], index, hit[part])
        depth[part] = np.minimum(depth[part], near)
    depth[~np.isfinite(depth)] = np.nan
    return depth, hit


def count_pixels(box: Box, T_base_camera: np.ndarray) -> int:
    """How many pixels the box would cover with nothing in front of it."""
    rays = _rays(T_base_camera, _image_part(box, T_base_camera))
    return int(np.isfinite(_enter(box, T_base_camera[:3, 3], rays)).sum())


def _rays(T_base_camera: np.ndarray, part: tuple[slice, slice]) -> np.ndarray:
    """Rays of depth 1 through the pixels of a part of the image, in the base frame."""
    v, u = np.arange(SIZE_HW[0])[part[0], None], np.arange(SIZE_HW[1])[None, part[1]]
    pixels = np.stack(np.broadcast_arrays(u, v, 1.0), axis=-1)
    return pixels @ (T_base_camera[:3, :3] @ np.linalg.inv(K)).T


def _image_part(box: Box, T_base_camera: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns around the box's ball; everything when that reaches behind the camera."""
    x, y, z = inverse(T_base_camera)[:3] @ [*box.centre, 1.0]
    radius = 0.5 * float(np.linalg.norm(box.size))
    if z <= 1.5 * radius:
        return slice(None), slice(None)
    reach = K[0, 0] * 1.5 * radius / (z - radius)
    low = np.array([K[1, 1] * y / z + K[1, 2], K[0, 0] * x / z + K[0, 2]]) - 2 * reach
    rows, columns = (slice(max(int(start), 0), max(int(start + 4 * reach), 0)) for start in low)
    return rows, columns


def _enter(box: Box, eye: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Depth at which each ray enters the box (slab method), infinity where it misses."""
    c, s = np.cos(box.yaw), np.sin(box.yaw)
    R = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    origin, directions = R.T @ (eye - box.centre), rays @ R
    with np.errstate(divide="ignore", invalid="ignore"):
        a, b = (-0.5 * box.size - origin) / directions, (0.5 * box.size - origin) / directions
    near, far = np.minimum(a, b).max(axis=-1), np.maximum(a, b).min(axis=-1)
    return np.where((near < far) & (near > 0), near, np.inf)


def add_stereo_noise(depth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Disparity noise shared by patches, in steps of 1/32 px, mixed pixels and holes at edges, a few lone holes."""
    noisy = depth.copy()
    steps = cv2.morphologyEx(np.nan_to_num(depth).astype(np.float32), cv2.MORPH_GRADIENT, np.ones((3, 3)))
    edge = steps > 0.01
    mixed = edge & (rng.random(depth.shape) < 0.3)
    noisy[mixed] = cv2.blur(np.nan_to_num(depth), (3, 3))[mixed]
    scale = K[0, 0] * BASELINE_M
    patches = cv2.GaussianBlur(rng.standard_normal(depth.shape), (0, 0), 1.5) * 5.3  # unit variance again
    noise = SUBPIXEL_PX * (0.8 * patches + 0.6 * rng.standard_normal(depth.shape))
    disparity = np.maximum(np.round(32 * (scale / noisy + noise)) / 32, 1 / 32)
    noisy = scale / disparity
    noisy[(edge & (rng.random(depth.shape) < 0.3)) | (rng.random(depth.shape) < 0.005)] = np.nan
    return noisy.astype(np.float32)


def box_of(hit: np.ndarray, index: int) -> np.ndarray | None:
    """The box (pixels, from the image's corner) around what is visible of a box of the scene."""
    rows, columns = np.nonzero(hit == index)
    if not len(rows):
        return None
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], dtype=np.float64)


def frame_of(depth: np.ndarray, stamp_s: float = 0.0) -> Frame:
    return Frame(np.zeros((*SIZE_HW, 3), np.uint8), depth.astype(np.float32), K, stamp_s)


def detections_of(boxes_xyxy: list[np.ndarray], class_ids: list[int] | None = None) -> Detections:
    num = len(boxes_xyxy)
    return Detections(
        np.array(boxes_xyxy, dtype=np.float32).reshape(num, 4),
        np.full(num, 0.9, np.float32),
        np.array(class_ids if class_ids is not None else [0] * num, dtype=np.int64),
        NAMES,
    )
