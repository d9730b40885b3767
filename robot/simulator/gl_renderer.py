"""The wrist camera drawn by OpenGL, without a screen. Colour and depth come from one pass."""

# pyright: reportAttributeAccessIssue=false
# MuJoCo is a compiled module without type information.

from __future__ import annotations

import atexit
from importlib import import_module

import mujoco
import numpy as np
from jaxtyping import Int32

from robot.config import CameraConfig
from robot.simulator.gl_backend import GlBackend
from robot.simulator.rendering import Rendering
from robot.simulator.scene import FAR_M, NEAR_M, SKY_M, Scene

_MAX_GEOMS = 500


class GlRenderer:
    """Renders with EGL or OSMesa. Shadows cost about five times as much as everything else."""

    def __init__(
        self, camera: CameraConfig, backend: GlBackend, *, shadows: bool = False, camera_name: str = "wrist"
    ) -> None:
        self._size = (camera.height_px, camera.width_px)
        self._area = mujoco.MjrRect(0, 0, camera.width_px, camera.height_px)
        self._shadows, self._camera_name = shadows, camera_name
        self._gl = import_module(f"mujoco.{backend.value}").GLContext(camera.width_px, camera.height_px)
        self._context: mujoco.MjrContext | None = None
        # GL libraries complain when a context outlives the interpreter.
        atexit.register(self.close)

    def load(self, scene: Scene) -> None:
        """Upload the scene's textures and prepare its drawing list."""
        self._gl.make_current()
        if self._context is not None:
            self._context.free()
        self._model = scene.model
        context = mujoco.MjrContext(scene.model, mujoco.mjtFontScale.mjFONTSCALE_50)
        context.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, context)
        self._context = context
        self._drawing = mujoco.MjvScene(scene.model, _MAX_GEOMS)
        self._view = mujoco.MjvCamera()
        self._view.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._view.fixedcamid = scene.model.camera(self._camera_name).id
        self._options = mujoco.MjvOption()

    def render(self, data: mujoco.MjData) -> Rendering:
        """Colour and depth of the state `data`."""
        image = np.empty((*self._size, 3), np.uint8)
        buffer = np.empty(self._size, np.float32)
        self._draw(data, identity_colours=False)
        mujoco.mjr_readPixels(image, buffer, self._area, self._context)
        # Reversed depth buffer: 1 at the near plane, 0 at the far plane, linear in 1 / z.
        depth = np.float32(NEAR_M * FAR_M) / (np.float32(FAR_M - NEAR_M) * buffer + np.float32(NEAR_M))
        depth[depth > SKY_M] = np.inf
        return Rendering(np.ascontiguousarray(image[::-1]), np.ascontiguousarray(depth[::-1]))

    def segment(self, data: mujoco.MjData) -> Int32[np.ndarray, "H W"]:
        """Geom ids, drawn as colours: a pixel holds the place of a geom in the drawing list plus one."""
        colours = np.empty((*self._size, 3), np.uint8)
        self._draw(data, identity_colours=True)
        mujoco.mjr_readPixels(colours, None, self._area, self._context)
        places = colours.astype(np.int32) @ np.array([1, 1 << 8, 1 << 16], np.int32)
        geom_of_place = np.full(_MAX_GEOMS + 1, -1, np.int32)
        for drawn in self._drawing.geoms[: self._drawing.ngeom]:
            if drawn.objtype == mujoco.mjtObj.mjOBJ_GEOM:
                geom_of_place[drawn.segid + 1] = drawn.objid
        return np.ascontiguousarray(geom_of_place[places[::-1]])

    def close(self) -> None:
        """Free the GL context."""
        if self._context is not None:
            self._gl.make_current()
            self._context.free()
            self._context = None
        self._gl.free()
        atexit.unregister(self.close)

    def _draw(self, data: mujoco.MjData, *, identity_colours: bool) -> None:
        self._gl.make_current()
        flags = self._drawing.flags
        flags[mujoco.mjtRndFlag.mjRND_SHADOW] = self._shadows and not identity_colours
        flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = identity_colours
        flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = identity_colours
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self._model, data, self._options, None, self._view, everything, self._drawing)
        mujoco.mjr_render(self._area, self._drawing, self._context)
