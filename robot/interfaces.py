"""What decides: a policy turns observations into action chunks and says how far it has come.

A policy sees an `Observation` (joints, the newest frame, tracks) and nothing else. The scripted skill and a learned
policy fill the same protocol, so the loop does not know which of them it runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from robot.types import ActionChunk, Observation


@dataclass(frozen=True, slots=True, eq=False)
class PickTask:
    """What to pick and where to put it.

    class_name is the object's class as the detector names it. place_p_base is the middle of the place's floor in the
    base frame, m; place_size_m is the free width there along base x and y, and place_wall_m how high its walls stand.
    """

    class_name: str
    place_name: str
    place_p_base: Float[np.ndarray, " 3"]
    place_size_m: Float[np.ndarray, " 2"]
    place_wall_m: float


class Outcome(Enum):
    """Whether a policy is still at it, believes it has done its task, or has given up."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class PolicyStatus:
    """How far a policy has come, as far as it knows itself.

    stage names what it does now; reason says why it gave up and is None otherwise; attempts counts the grasps begun.
    """

    stage: str
    outcome: Outcome
    reason: str | None = None
    attempts: int = 0

    @property
    def is_over(self) -> bool:
        """True once the policy has succeeded or failed."""
        return self.outcome is not Outcome.RUNNING


@runtime_checkable
class Policy(Protocol):
    """Anything that decides. Deterministic: the same task and observations give the same chunks."""

    def reset(self, task: PickTask) -> None:
        """Forget everything and begin `task` with the next observation."""
        ...

    def act(self, observation: Observation) -> ActionChunk:
        """What to do from `observation.stamp_s` on; called once a tick, with strictly increasing stamps.

        A chunk may reach further than one tick: it is followed until the next call gives another. A policy whose
        task is over gives a chunk that holds still. Raises RuntimeError before the first `reset`.
        """
        ...

    @property
    def status(self) -> PolicyStatus:
        """The status after the latest `act`."""
        ...
