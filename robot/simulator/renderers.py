"""Build the renderer that is asked for: OpenGL where it works, ray casting everywhere."""

from __future__ import annotations

from typing_extensions import assert_never

from handeye.robot.config import CameraConfig
from handeye.robot.simulator.gl_renderer import find_gl_backend
from handeye.robot.simulator.rendering import Renderer, RendererKind
from handeye.vision.errors import MissingPackageError


def build_renderer(
    kind: RendererKind, camera: CameraConfig, *, shadows: bool = False, camera_name: str = "wrist"
) -> Renderer:
    """A renderer of the kind asked for, for one of the scene's cameras.

    Raises MissingPackageError when GL is asked for and does not work.
    """
    from handeye.robot.simulator.gl_renderer import GlRenderer
    from handeye.robot.simulator.ray_renderer import RayRenderer

    match kind:
        case RendererKind.RAYS:
            return RayRenderer(camera, shadows=shadows, camera_name=camera_name)
        case RendererKind.GL:
            backend = find_gl_backend()
            if backend is None:
                raise MissingPackageError(
                    "no OpenGL works here: install libegl1 libgl1-mesa-dri libopengl0 (or libosmesa6), "
                    "or use the renderer `rays`, which needs none"
                )
            return GlRenderer(camera, backend, shadows=shadows, camera_name=camera_name)
        case RendererKind.AUTO:
            backend = find_gl_backend()
            found = RendererKind.RAYS if backend is None else RendererKind.GL
            return build_renderer(found, camera, shadows=shadows, camera_name=camera_name)
        case _:
            assert_never(kind)
