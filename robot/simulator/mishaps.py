"""What goes wrong in an episode by chance: faults drawn from the episode's seed, for demonstrations and evaluations."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from robot.simulator.faults import CubeNudged, Fault, FrictionLowered, GripperStuck
from vision.config import Config

Range = tuple[float, float]


class MishapConfig(Config):
    """Chances of each fault in an episode, and when it may happen (s)."""

    nudge_chance: float = Field(default=0.0, ge=0, le=1)
    nudge_at_s: Range = (0.3, 1.3)
    nudge_m: Range = (0.04, 0.15)
    """How far the target is moved."""
    slip_chance: float = Field(default=0.0, ge=0, le=1)
    slip_at_s: Range = (1.8, 2.6)
    slip_factor: float = Field(default=0.01, gt=0)
    """What is left of the pads' friction while they are slippery."""
    slip_s: float = Field(default=1.0, gt=0)
    stuck_chance: float = Field(default=0.0, ge=0, le=1)
    stuck_at_s: Range = (0.9, 1.4)
    stuck_s: Range = (0.4, 1.2)


MIXED = MishapConfig(nudge_chance=0.25, slip_chance=0.08, stuck_chance=0.07)
"""For demonstrations: one episode in three has a mishap."""


def draw_mishaps(config: MishapConfig, seed: int) -> list[Fault]:
    """The faults of episode `seed`."""
    rng = np.random.default_rng([seed, 0xFA17])
    nudged, slips, sticks = rng.random(3) < (config.nudge_chance, config.slip_chance, config.stuck_chance)
    nudge_s, slip_s, stuck_s = (rng.uniform(*at) for at in (config.nudge_at_s, config.slip_at_s, config.stuck_at_s))
    for_s = rng.uniform(*config.stuck_s)
    faults: list[Fault] = []
    if nudged:
        faults.append(CubeNudged(float(nudge_s), config.nudge_m, seed))
    if slips:
        faults.append(FrictionLowered(float(slip_s), config.slip_factor, float(slip_s) + config.slip_s))
    if sticks:
        faults.append(GripperStuck(float(stuck_s), float(stuck_s + for_s)))
    return faults
