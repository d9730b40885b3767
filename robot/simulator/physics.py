# pyright: reportAttributeAccessIssue=false
"""Time of the simulated cell: the scene of the episode, stepped by 2 ms whenever the clock is waited on.

Time is a count of steps, so that an episode repeats to the last bit. Whoever acts in physical time (servos, camera
shutter, faults) is called before or after each step.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import mujoco

from handeye.robot.simulator.scene import PHYSICS_DT_S, Scene

Hook = Callable[[float], None]
_ROUNDING = 1e-6


class Physics:
    """Owns the scene. Hooks get the time in s: `before_step` the time at the step's start, `after_step` at its end."""

    def __init__(self) -> None:
        self.before_step: list[Hook] = []
        self.after_step: list[Hook] = []
        self._scene: Scene | None = None
        self._steps = 0

    @property
    def scene(self) -> Scene:
        """The present scene. Raises RuntimeError before the first reset of the cell."""
        if self._scene is None:
            raise RuntimeError("the simulated cell is empty: reset it first")
        return self._scene

    @property
    def is_loaded(self) -> bool:
        """Whether there is a scene."""
        return self._scene is not None

    def load(self, scene: Scene) -> None:
        """Begin at time 0 with another scene."""
        self._scene, self._steps = scene, 0

    def now_s(self) -> float:
        """Time since the last `load`, s."""
        return self._steps * PHYSICS_DT_S

    def wait_until(self, stamp_s: float) -> None:
        """Step until now_s() >= stamp_s; a stamp in the past changes nothing."""
        scene = self.scene
        for _ in range(math.ceil(stamp_s / PHYSICS_DT_S - _ROUNDING) - self._steps):
            for hook in self.before_step:
                hook(self.now_s())
            mujoco.mj_step(scene.model, scene.data)
            self._steps += 1
            for hook in self.after_step:
                hook(self.now_s())
