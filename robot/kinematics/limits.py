"""Joint limits: position, velocity, acceleration and jerk, checked when built.

Software limits like these prevent accidents of our own making; they are no safety function in the sense of ISO 13849.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from handeye.robot.config import JointLimitsConfig
from handeye.robot.types import NUM_JOINTS
from handeye.vision.errors import ConfigError


@dataclass(frozen=True, slots=True, eq=False)
class JointLimits:
    """Bounds of each joint: rad, rad/s, rad/s^2 and rad/s^3; speed, acceleration and jerk hold in both directions.

    Raises ConfigError for bounds that are not finite, not positive, or in the wrong order: a NaN limit would
    otherwise pass every comparison unseen.
    """

    qpos_low: Float[np.ndarray, " 6"]
    qpos_high: Float[np.ndarray, " 6"]
    qvel_max: Float[np.ndarray, " 6"]
    qacc_max: Float[np.ndarray, " 6"]
    qjerk_max: Float[np.ndarray, " 6"]

    def __post_init__(self) -> None:
        for name in ("qpos_low", "qpos_high", "qvel_max", "qacc_max", "qjerk_max"):
            bound = getattr(self, name)
            if bound.shape != (NUM_JOINTS,) or not np.all(np.isfinite(bound)):
                raise ConfigError(f"joint limits: {name}: expected {NUM_JOINTS} finite numbers, got {bound.tolist()}")
        for name in ("qvel_max", "qacc_max", "qjerk_max"):
            if not np.all(getattr(self, name) > 0.0):
                raise ConfigError(f"joint limits: {name}: must be above 0, got {getattr(self, name).tolist()}")
        if not np.all(self.qpos_low < self.qpos_high):
            low, high = self.qpos_low.tolist(), self.qpos_high.tolist()
            raise ConfigError(f"joint limits: qpos_low {low} must lie below qpos_high {high}")

    def slowed(self, fraction: float) -> JointLimits:
        """The same limits on a clock that runs at `fraction` in (0, 1]: 0.5 takes twice as long on the same path.

        Speed scales with the fraction, acceleration with its square, jerk with its cube.
        """
        if not 0.0 < fraction <= 1.0:
            raise ConfigError(f"joint limits: expected a speed fraction in (0, 1], got {fraction}")
        return JointLimits(
            self.qpos_low,
            self.qpos_high,
            self.qvel_max * fraction,
            self.qacc_max * fraction**2,
            self.qjerk_max * fraction**3,
        )

    def contain(self, qpos: Float[np.ndarray, "*batch 6"], margin_rad: float = 0.0) -> Bool[np.ndarray, "*batch"]:
        """Whether every joint lies inside, at least margin_rad away from its ends. NaN does not."""
        inside = (qpos >= self.qpos_low + margin_rad) & (qpos <= self.qpos_high - margin_rad)
        return np.asarray(np.all(inside, axis=-1))


def joint_limits_from_config(config: JointLimitsConfig) -> JointLimits:
    """The limits of a work cell's configuration as arrays."""
    return JointLimits(
        qpos_low=np.array(config.qpos_low_rad),
        qpos_high=np.array(config.qpos_high_rad),
        qvel_max=np.array(config.qvel_rad_s),
        qacc_max=np.array(config.qacc_rad_s2),
        qjerk_max=np.array(config.qjerk_rad_s3),
    )


UR10E_LIMITS = joint_limits_from_config(JointLimitsConfig())
"""Published: +-360 deg (the elbow kept to +-180 deg), 120 deg/s for joints 1 and 2, 180 deg/s for the others.

Accelerations and jerks are not published; those here are choices of this project, written in robot/config.py.
"""
