"""Which OpenGL backend draws without a screen here: EGL, then OSMesa, or none.

The question is answered in a child process, because a broken driver may crash instead of failing, and because a
process that has tried one backend cannot switch to the other.
"""

from __future__ import annotations

import os
import subprocess
import sys
from enum import Enum
from functools import cache

# Set by the first answer, so that worker processes need not ask again.
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
    """A way to OpenGL without a screen; the value is MuJoCo's module of that name."""

    EGL = "egl"
    OSMESA = "osmesa"

    def __str__(self) -> str:
        """The name as MuJoCo spells it."""
        return self.value


@cache
def find_gl_backend() -> GlBackend | None:
    """The first backend that renders a red plane red, None if neither does.

    The environment variable HANDEYE_GL (egl, osmesa or none) gives the answer without a trial.
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
    """Whether a child process can draw with `backend`; a crash or a hang there counts as no."""
    environment = {key: value for key, value in os.environ.items() if key not in {"MUJOCO_GL", "PYOPENGL_PLATFORM"}}
    command = [sys.executable, "-c", _PROBE.format(backend=backend.value)]
    try:
        ended = subprocess.run(command, env=environment, capture_output=True, timeout=_PROBE_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return ended.returncode == 0
