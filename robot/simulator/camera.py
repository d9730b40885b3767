"""Simulate the wrist camera: exposures at a fixed rate, rendered with sensor noise when they are read."""

# pyright: reportAttributeAccessIssue=false
# MuJoCo is a compiled module without type information.

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Annotated

import mujoco
import numpy as np
from jaxtyping import Float
from pydantic import Field

from handeye.robot.config import WorkCellConfig
from handeye.robot.errors import CameraError
from handeye.robot.simulator.renderers import Renderer, RendererKind, build_renderer
from handeye.robot.simulator.scene import Physics
from handeye.robot.simulator.sensor_noise import DepthNoiseConfig, apply_sensor_model, noisy_depth
from handeye.robot.types import Frame
from handeye.vision.config import Config

CLOSED = "the camera is closed: use it inside `with cell.camera:`"
_ROUNDING_S = 1e-6


class SensorConfig(Config):
    """How the simulated cameras render, and the errors of the sensors."""

    renderer: RendererKind = RendererKind.AUTO
    shadows: bool = False
    """Shadows in the images of the control loop: several times slower."""
    image_effects: bool = True
    """Exposure, white balance, blur and noise of the colour sensor."""
    depth_noise: DepthNoiseConfig = DepthNoiseConfig()
    scene_camera_hw: tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]] = (240, 320)
    """Height and width of the scene camera's images, px: the second camera of policies that see images."""


@dataclass(frozen=True, slots=True, eq=False)
class Exposure:
    """The state of the scene when the shutter opened."""

    number: int
    stamp_s: float
    qpos: Float[np.ndarray, " nq"]


class SimulatedCamera:
    """A robot.interfaces.Camera of the simulated cell.

    Exposure k happens at k / rate_hz. Only frames that are read are rendered; their noise depends on the episode's
    seed and k alone. While `drops_frames` is set exposures are lost, and reading returns the last frame before.
    """

    def __init__(self, physics: Physics, cell: WorkCellConfig, config: SensorConfig, *, latency_s: float = 0.0) -> None:
        """`latency_s`: from an exposure until its frame can be read."""
        self._latency_s = latency_s
        self._physics, self._camera, self._config = physics, cell.camera, config
        self._renderer: Renderer | None = None
        self._is_open = False
        self.drops_frames = False
        physics.after_step.append(self._expose_when_due)

    def __enter__(self) -> SimulatedCamera:
        """Start the renderer. Raises MissingPackageError for `gl` where OpenGL does not work."""
        self._open_renderer()
        self._is_open = True
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Free the renderer."""
        self._is_open = False
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def reset(self, seed: int) -> None:
        """Start with the scene that has just been loaded; its first frame is exposed now, at time 0."""
        self._seed, self.drops_frames = seed, False
        scene = self._physics.scene
        self._snapshot = mujoco.MjData(scene.model)
        self._cached: Frame | None = None
        self._next_number = 0
        self._exposures: list[Exposure] = []
        if self._renderer is not None:
            self._renderer.load(scene)
        self._expose_when_due(self._physics.now_s())

    def read(self) -> Frame:
        """The newest frame whose latency has passed. Raises CameraError outside `with`, and before the first frame."""
        if not self._is_open:
            raise CameraError(CLOSED)
        ready_s = self._physics.now_s() - self._latency_s + _ROUNDING_S
        ready = [exposure for exposure in self._exposures if exposure.stamp_s <= ready_s]
        if not ready:
            raise CameraError("no frame yet: the first one is exposed when the cell is reset")
        newest = ready[-1]
        self._exposures = self._exposures[len(ready) - 1 :]
        if self._cached is None or self._cached.stamp_s != newest.stamp_s:
            self._cached = self.render(newest)
        return self._cached

    @property
    def newest_exposure(self) -> Exposure | None:
        """The last one that was not lost, whether its frame can be read yet or not."""
        return self._exposures[-1] if self._exposures else None

    def _open_renderer(self) -> None:
        if self._renderer is None:
            self._renderer = build_renderer(self._config.renderer, self._camera, shadows=self._config.shadows)
            if self._physics.is_loaded:
                self._renderer.load(self._physics.scene)

    def _expose_when_due(self, stamp_s: float) -> None:
        due_s = self._next_number / self._camera.rate_hz
        if stamp_s < due_s - _ROUNDING_S:
            return
        if not self.drops_frames:
            qpos = self._physics.scene.data.qpos.copy()
            self._exposures = [*self._exposures[-8:], Exposure(self._next_number, stamp_s, qpos)]
        self._next_number += 1

    def render(self, exposure: Exposure) -> Frame:
        """The frame of an exposure of this scene. Raises CameraError outside `with`."""
        if self._renderer is None:
            raise CameraError(CLOSED)
        scene = self._physics.scene
        self._snapshot.qpos[:] = exposure.qpos
        mujoco.mj_kinematics(scene.model, self._snapshot)
        mujoco.mj_camlight(scene.model, self._snapshot)
        perfect = self._renderer.render(self._snapshot)
        rng = np.random.default_rng([self._seed, exposure.number])
        image = perfect.image_rgb
        if self._config.image_effects:
            image = apply_sensor_model(image, scene.appearance.effects, rng)
        depth = noisy_depth(perfect.depth_m, self._camera.fx_px, self._config.depth_noise, rng)
        return Frame(image, depth, self._camera.K, exposure.stamp_s)
