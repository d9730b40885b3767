"""What every renderer of a scene gives: pixels of the wrist camera, by GL or by rays, with the same geometry."""

# pyright: reportAttributeAccessIssue=false
# MuJoCo is a compiled module without type information.

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol, runtime_checkable

import mujoco
import numpy as np
from jaxtyping import Float32, Int32, UInt8

from handeye.robot.simulator.scene import Scene


class RendererKind(Enum):
    """Which renderer is asked for; AUTO takes GL where it works."""

    AUTO = "auto"
    GL = "gl"
    RAYS = "rays"


@dataclass(frozen=True, slots=True, eq=False)
class Rendering:
    """A perfect camera's image. depth_m is along the camera's z axis, infinite where nothing is hit."""

    image_rgb: UInt8[np.ndarray, "H W 3"]
    depth_m: Float32[np.ndarray, "H W"]


@runtime_checkable
class Renderer(Protocol):
    """Draws what one camera of a scene sees. `load` a scene first, `close` at the end."""

    def load(self, scene: Scene) -> None:
        """Take over a scene's model and look; the scene before is forgotten."""
        ...

    def render(self, data: mujoco.MjData) -> Rendering:
        """Colour and depth for the state `data` of the loaded model."""
        ...

    def segment(self, data: mujoco.MjData) -> Int32[np.ndarray, "H W"]:
        """The geom id seen in each pixel, -1 for the sky."""
        ...

    def close(self) -> None:
        """Free what the renderer holds; safe to call twice."""
        ...
