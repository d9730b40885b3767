"""Makes joint set-points that the gates let pass out of wishes that come from anywhere, one control period at a time.

Wishes within the bounds pass unchanged. Where they ask for more, each joint catches up on its own: in the distance d
that is left it goes faster than the wish by min(k d, sqrt(a d)), which it can brake again in time, and its velocity
changes by at most a dt.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

CATCH_UP_S = 20.0
"""k, speed per distance left, 1/s."""


class SetPointLimiter:
    """Call `restart` once, then `follow` once every dt_s. Bounds in rad/s and rad/s^2, one for each joint."""

    def __init__(
        self, velocity_max: Float[np.ndarray, " D"], acceleration_max: Float[np.ndarray, " D"], dt_s: float
    ) -> None:
        self._velocity_max = velocity_max
        self._acceleration_max = acceleration_max
        self._dt_s = dt_s
        self.restart(np.zeros_like(velocity_max))

    def restart(self, qpos: Float[np.ndarray, " D"]) -> None:
        """Be at rest at `qpos` (rad)."""
        self.qpos = qpos.copy()
        self._wished = qpos.copy()
        self._velocity = np.zeros_like(qpos)

    def follow(self, wished: Float[np.ndarray, " D"]) -> Float[np.ndarray, " D"]:
        """The set-point for this period on the way to `wished` (rad)."""
        left = self._wished - self.qpos
        catch_up = np.minimum(CATCH_UP_S * np.abs(left), np.sqrt(self._acceleration_max * np.abs(left)))
        velocity = (wished - self._wished) / self._dt_s + np.sign(left) * catch_up
        self._wished = wished.copy()
        velocity = np.clip(velocity, -self._velocity_max, self._velocity_max)
        most = self._acceleration_max * self._dt_s
        self._velocity = np.clip(velocity, self._velocity - most, self._velocity + most)
        self.qpos = self.qpos + self._velocity * self._dt_s
        return self.qpos
