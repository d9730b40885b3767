"""Render a camera of the scene: OpenGL where it works, ray casting everywhere, with the same geometry and lights."""

# pyright: reportAttributeAccessIssue=false
# MuJoCo is a compiled module without type information.

from __future__ import annotations

from enum import Enum
from typing import Protocol, runtime_checkable

import mujoco
import numpy as np
from jaxtyping import Int32
from typing_extensions import assert_never

from handeye.robot.config import CameraConfig
from handeye.robot.simulator.gl_renderer import GlRenderer, find_gl_backend
from handeye.robot.simulator.ray_renderer import RayRenderer
from handeye.robot.simulator.scene import Rendering, Scene
from handeye.vision.errors import MissingPackageError


class RendererKind(Enum):
    """Which renderer to use; AUTO takes OpenGL where it works."""

    AUTO = "auto"
    GL = "gl"
    RAYS = "rays"


@runtime_checkable
class Renderer(Protocol):
    """Renders one camera of a scene. `load` a scene first, `close` at the end."""

    def load(self, scene: Scene) -> None:
        """Take over a scene's model and appearance; the scene before is forgotten."""
        ...

    def render(self, data: mujoco.MjData) -> Rendering:
        """Colour and depth for the state `data` of the loaded model."""
        ...

    def segment(self, data: mujoco.MjData) -> Int32[np.ndarray, "H W"]:
        """The geom id seen in each pixel, -1 for the sky."""
        ...

    def close(self) -> None:
        """Free the renderer's resources; safe to call twice."""
        ...


def build_renderer(
    kind: RendererKind, camera: CameraConfig, *, shadows: bool = False, camera_name: str = "wrist"
) -> Renderer:
    """A renderer for one of the scene's cameras.

    Raises MissingPackageError for GL where OpenGL does not work.
    """
    match kind:
        case RendererKind.RAYS:
            return RayRenderer(camera, shadows=shadows, camera_name=camera_name)
        case RendererKind.GL:
            backend = find_gl_backend()
            if backend is None:
                raise MissingPackageError(
                    "OpenGL does not work here: install libegl1 libgl1-mesa-dri libopengl0 (or libosmesa6), "
                    "or use the renderer `rays`, which needs none"
                )
            return GlRenderer(camera, backend, shadows=shadows, camera_name=camera_name)
        case RendererKind.AUTO:
            found = RendererKind.RAYS if find_gl_backend() is None else RendererKind.GL
            return build_renderer(found, camera, shadows=shadows, camera_name=camera_name)
        case _:
            assert_never(kind)
