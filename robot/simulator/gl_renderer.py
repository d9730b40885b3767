"""Render cameras with headless OpenGL (EGL or OSMesa); colour and depth come from one pass.

Backends are tried in a child process: a broken driver may crash, and a process cannot switch backends.
"""

# pyright: reportAttributeAccessIssue=false
# MuJoCo is a compiled module without type information.

from __future__ import annotations

import atexit
import os
import subprocess
import sys
from contextlib import suppress
from enum import Enum
from functools import cache
from importlib import import_module

import mujoco
import numpy as np
from jaxtyping import Int32

from handeye.robot.config import CameraConfig
from handeye.robot.simulator.scene import FAR_M, NEAR_M, SKY_M, Rendering, Scene

_MAX_GEOMS = 500


# Set by the first trial, so that worker processes need no trial.
_ANSWER_VARIABLE = "HANDEYE_GL"
_PROBE_TIMEOUT_S = 300.0  # far beyond what a busy machine takes: only a hang counts as no
_PROBE = """
import mujoco, numpy
from mujoco.{backend} import GLContext
context = GLContext(32, 32)
context.make_current()
model = mujoco.MjModel.from_xml_string(
    '<mujoco><worldbody><light pos="0 0 2"/><camera name="c" pos="0 0 1"/>'
    '<geom type="plane" size="1 1 1" rgba="1 0 0 1"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
target = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50)
mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, target)
view = mujoco.MjvCamera()
view.type, view.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, 0
drawing = mujoco.MjvScene(model, 10)
mujoco.mjv_updateScene(model, data, mujoco.MjvOption(), None, view, mujoco.mjtCatBit.mjCAT_ALL, drawing)
pixels = numpy.zeros((32, 32, 3), numpy.uint8)
area = mujoco.MjrRect(0, 0, 32, 32)
mujoco.mjr_render(area, drawing, target)
mujoco.mjr_readPixels(pixels, None, area, target)
red, green, _ = pixels[16, 16].astype(int)
assert red > green + 50, pixels[16, 16]
target.free()
context.free()
"""


class GlBackend(Enum):
    """A headless OpenGL backend; the value is the name of MuJoCo's module."""

    EGL = "egl"
    OSMESA = "osmesa"

    def __str__(self) -> str:
        """The name as MuJoCo spells it."""
        return self.value


class GlRenderer:
    """Renders with EGL or OSMesa. Shadows cost about five times as much as everything else."""

    def __init__(
        self, camera: CameraConfig, backend: GlBackend, *, shadows: bool = False, camera_name: str = "wrist"
    ) -> None:
        self._size = (camera.height_px, camera.width_px)
        self._area = mujoco.MjrRect(0, 0, camera.width_px, camera.height_px)
        self._shadows, self._camera_name = shadows, camera_name
        _load_triton_first()
        self._gl = import_module(f"mujoco.{backend.value}").GLContext(camera.width_px, camera.height_px)
        self._context: mujoco.MjrContext | None = None
        # GL libraries complain when a context outlives the interpreter.
        atexit.register(self.close)

    def load(self, scene: Scene) -> None:
        """Upload the scene's textures and prepare its geoms."""
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
        """Geom ids, rendered as colours: a pixel holds the index of a geom in the list of drawn geoms plus one."""
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


@cache
def _load_triton_first() -> None:
    """Mesa's software renderer and torch's compiler each bring an LLVM; loaded after Mesa's, triton's ends the process.

    Whoever renders first and trains then would lose the process; where torch is not installed, nothing is loaded.
    """
    with suppress(ImportError):
        import_module("triton")


@cache
def find_gl_backend() -> GlBackend | None:
    """The first backend that renders a red plane red, None if neither does.

    The environment variable HANDEYE_GL (egl, osmesa or none) skips the trial.
    """
    answer = os.environ.get(_ANSWER_VARIABLE, "")
    if answer == "none":
        return None
    if answer in {backend.value for backend in GlBackend}:
        return GlBackend(answer)
    found = next((backend for backend in GlBackend if can_render(backend)), None)
    os.environ[_ANSWER_VARIABLE] = "none" if found is None else found.value
    return found


def can_render(backend: GlBackend) -> bool:
    """Whether a child process can render with `backend`; a crash or a hang counts as no."""
    environment = {key: value for key, value in os.environ.items() if key not in {"MUJOCO_GL", "PYOPENGL_PLATFORM"}}
    command = [sys.executable, "-c", _PROBE.format(backend=backend.value)]
    try:
        ended = subprocess.run(command, env=environment, capture_output=True, timeout=_PROBE_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return ended.returncode == 0
