"""Render cameras by ray casting, without a graphics library: one ray per pixel through MuJoCo's geometry.

Shading is Blinn-Phong as in fixed-function OpenGL with the same lights, so that both renderers agree.
"""

# pyright: reportAttributeAccessIssue=false
# MuJoCo is a compiled module without type information.

from __future__ import annotations

import mujoco
import numpy as np
from jaxtyping import Float, Float32, Int32

from handeye.robot.config import CameraConfig
from handeye.robot.simulator.appearance import Appearance, Light
from handeye.robot.simulator.scene import SKY_M, SPOT_CUTOFF_DEG, SPOT_EXPONENT, Rendering, Scene

_SHADOW_GAP_M = 0.003
# Distance of directional lights for shadow rays, which must start at a point.
_FAR_LAMP_M = 50.0


class RayRenderer:
    """Renders by mj_multiRay. Shadows cost one more ray per pixel and light."""

    def __init__(self, camera: CameraConfig, *, shadows: bool = False, camera_name: str = "wrist") -> None:
        self._size = (camera.height_px, camera.width_px)
        self._shadows, self._camera_name = shadows, camera_name
        x = (np.arange(camera.width_px) - camera.cx_px) / camera.fx_px
        y = (np.arange(camera.height_px) - camera.cy_px) / camera.fy_px
        grid_x, grid_y = np.meshgrid(x, y)
        # MuJoCo's camera frame: x right, y up, looking along -z. Length 1 along z, so that distances are depths.
        self._rays_camera = np.stack([grid_x, -grid_y, -np.ones_like(grid_x)]).reshape(3, -1)

    def load(self, scene: Scene) -> None:
        """Take over a scene's model and appearance."""
        self._model, self._look = scene.model, scene.appearance
        self._camera_id = scene.model.camera(self._camera_name).id
        self._table_id = scene.model.geom("table").id

    def render(self, data: mujoco.MjData) -> Rendering:
        """Colour and depth of the state `data`."""
        origin, rays = self._rays(data)
        geom_ids, depth, normals = self._cast(data, origin, rays)
        is_hit = geom_ids >= 0
        if is_hit.all():
            image = self._shade(data, geom_ids, origin, rays * depth[:, None], normals)
        else:
            image = np.empty((3, len(rays)), np.float32)
            image[:, ~is_hit] = _sky(self._look, rays[~is_hit])
            reached = rays[is_hit] * depth[is_hit, None]
            image[:, is_hit] = self._shade(data, geom_ids[is_hit], origin, reached, normals[is_hit])
        pixels = (np.clip(image, 0.0, 1.0) * np.float32(255.0) + np.float32(0.5)).astype(np.uint8)
        depth_m = np.where(is_hit, depth, np.inf).astype(np.float32)
        return Rendering(np.ascontiguousarray(pixels.T).reshape(*self._size, 3), depth_m.reshape(self._size))

    def segment(self, data: mujoco.MjData) -> Int32[np.ndarray, "H W"]:
        """The geom each ray hits first, -1 for none."""
        geom_ids, _, _ = self._cast(data, *self._rays(data))
        return geom_ids.reshape(self._size)

    def close(self) -> None:
        """Nothing to free."""

    def _rays(self, data: mujoco.MjData) -> tuple[Float[np.ndarray, " 3"], Float[np.ndarray, "N 3"]]:
        rotation = data.cam_xmat[self._camera_id].reshape(3, 3)
        return data.cam_xpos[self._camera_id].copy(), np.ascontiguousarray((rotation @ self._rays_camera).T)

    def _cast(
        self, data: mujoco.MjData, origin: Float[np.ndarray, " 3"], rays: Float[np.ndarray, "N 3"]
    ) -> tuple[Int32[np.ndarray, " N"], Float[np.ndarray, " N"], Float[np.ndarray, "N 3"]]:
        """First hits of rays from one point: geom id (-1 = none), distance in lengths of the ray, normal."""
        count = len(rays)
        geom_ids, distances = np.full(count, -1, np.int32), np.full(count, -1.0)
        normals = np.zeros(3 * count)
        flat = np.ascontiguousarray(rays).reshape(-1)
        far = 2 * (SKY_M + _FAR_LAMP_M)
        with_static = True
        mujoco.mj_multiRay(
            self._model, data, origin, flat, None, with_static, -1, geom_ids, distances, normals, count, far
        )
        return geom_ids, distances, normals.reshape(-1, 3)

    def _shade(
        self,
        data: mujoco.MjData,
        geom_ids: Int32[np.ndarray, " N"],
        eye: Float[np.ndarray, " 3"],
        way: Float[np.ndarray, "N 3"],
        normals: Float[np.ndarray, "N 3"],
    ) -> Float32[np.ndarray, "3 N"]:
        """Colours of the points eye + way. Channels first and float32, both for speed."""
        normal, points = np.ascontiguousarray(normals.T, np.float32), eye + way
        to_eye = _unit(np.ascontiguousarray(-way.T, np.float32))
        specular, shininess = self._gloss_of(geom_ids)
        head = np.clip(_dot(normal, to_eye), 0, 1) * np.float32(self._look.headlight)
        diffuse = _column(self._look.ambient) + head
        gloss = np.zeros_like(diffuse)
        for light in self._look.lights:
            to_light, reach = _incoming(light, points)
            if self._shadows:
                reach = reach * self._is_lit(data, light, points)
            facing = _dot(normal, to_light)
            diffuse += np.clip(facing, 0, 1) * reach * _column(light.diffuse)
            cosine = np.clip(_dot(normal, _unit(to_light + to_eye)), 0, 1)
            shine = np.where(facing > 0, cosine**shininess, np.float32(0)) * specular * reach
            gloss += shine * _column(light.specular)
        return self._paint(data, geom_ids, points) * diffuse + gloss

    def _gloss_of(
        self, geom_ids: Int32[np.ndarray, " N"]
    ) -> tuple[Float32[np.ndarray, " N"], Float32[np.ndarray, " N"]]:
        """Specular strength and exponent of each point; OpenGL counts shininess in 128ths."""
        material = self._model.geom_matid
        return self._model.mat_specular[material][geom_ids], 128 * self._model.mat_shininess[material][geom_ids]

    def _paint(
        self, data: mujoco.MjData, geom_ids: Int32[np.ndarray, " N"], points: Float[np.ndarray, "N 3"]
    ) -> Float32[np.ndarray, "3 N"]:
        """Base colour of each point; the table's comes from its texture."""
        paint = np.ascontiguousarray(self._model.geom_rgba[:, :3].T)[:, geom_ids]
        on_table = np.flatnonzero(geom_ids == self._table_id)
        paint[:, on_table] = _table_colour(self._look, points[on_table], data.geom_xpos[self._table_id])
        return paint

    def _is_lit(self, data: mujoco.MjData, light: Light, points: Float[np.ndarray, "N 3"]) -> Float32[np.ndarray, " N"]:
        """1 where nothing blocks the light, else 0."""
        lamp = np.array(light.pos)
        if light.is_directional:
            lamp = np.array([0.5, 0.0, 0.0]) - _FAR_LAMP_M * np.array(light.direction)
        way = points - lamp
        length = np.linalg.norm(way, axis=-1)
        geom_ids, distances, _ = self._cast(data, lamp, way / length[:, None])
        return np.where((geom_ids >= 0) & (distances < length - _SHADOW_GAP_M), np.float32(0), np.float32(1))


def _incoming(
    light: Light, points: Float[np.ndarray, "N 3"]
) -> tuple[Float32[np.ndarray, "3 #N"], Float32[np.ndarray, " #N"]]:
    """Direction to the light and attenuation by its cone at each point; a single value for directional lights."""
    axis = _column(light.direction)
    if light.is_directional:
        return -axis, np.ones(1, np.float32)
    to_light = _unit(np.ascontiguousarray((np.array(light.pos) - points).T, np.float32))
    along = np.clip(-_dot(to_light, axis), 0.0, 1.0)
    limit = np.cos(np.radians(SPOT_CUTOFF_DEG))
    return to_light, np.where(along > limit, along ** np.float32(SPOT_EXPONENT), np.float32(0))


def _table_colour(
    look: Appearance, points: Float[np.ndarray, "N 3"], centre: Float[np.ndarray, " 3"]
) -> Float32[np.ndarray, "3 N"]:
    """The texture at points of the table, repeated over its top, with the nearest texel."""
    size = look.table_texture.shape[0]
    texture = np.ascontiguousarray(look.table_texture.transpose(2, 0, 1).reshape(3, -1), np.float32) / 255
    place = (points[:, :2] - centre[:2]) * (size / look.table_texture_m)
    column, row = np.floor(place.T).astype(np.int64) % size
    return texture[:, row * size + column]


def _sky(look: Appearance, rays: Float[np.ndarray, "N 3"]) -> Float32[np.ndarray, "3 N"]:
    top, bottom = (_column(colour) for colour in look.sky_rgb)
    height = 0.5 + 0.5 * rays[:, 2] / np.linalg.norm(rays, axis=-1)
    return bottom + (top - bottom) * height.astype(np.float32)


def _column(values: tuple[float, float, float]) -> Float32[np.ndarray, "3 1"]:
    return np.array(values, np.float32)[:, None]


def _dot(a: Float32[np.ndarray, "3 #N"], b: Float32[np.ndarray, "3 #N"]) -> Float32[np.ndarray, " N"]:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _unit(vectors: Float32[np.ndarray, "3 N"]) -> Float32[np.ndarray, "3 N"]:
    return vectors / np.sqrt(np.maximum(_dot(vectors, vectors), np.float32(1e-12)))
