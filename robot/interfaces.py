"""What decides: a policy turns observations into action chunks and says how far it has come.

A policy sees an `Observation` (joints, the newest frame, tracks) and nothing else. The scripted skill and a learned
policy fill the same protocol, so the loop does not know which of them it runs.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from handeye.robot.types import ActionChunk, Frame, JointState, Observation


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


# What an arm must do, whether simulated or real. Drivers follow this protocol; nothing else knows which arm it is.


@runtime_checkable
class Arm(Protocol):
    """A six-joint arm with a parallel gripper, driven by joint set-points at the control rate.

    `with arm:` - entering touches the hardware (connects, powers, checks), leaving always stops the arm, also when
    an exception passes through, and never hides that exception. Outside the context read_state and command raise
    ArmError. No method waits for a control period: the loop owns the clock.
    """

    def __enter__(self) -> Arm:
        """Connect and take control; raises ArmError, leaving nothing half open."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the arm and release it."""
        ...

    def read_state(self) -> JointState:
        """The newest measured state, stamped with the time of its measurement; ArmError when none arrives."""
        ...

    def command(self, qpos_target: Float[np.ndarray, " 6"], gripper_opening_m: float) -> Float[np.ndarray, " 6"]:
        """Send one set-point: joint angles in rad and the distance between the fingers in m.

        Returns the joint angles that were really sent (a driver may clamp to what its hardware accepts). Raises
        ArmError when the arm cannot take commands, and for values that are not finite: those never reach hardware.
        """
        ...

    def stop(self) -> None:
        """Bring the arm to rest as fast as it may; the gripper keeps its hold. May be called at any time."""
        ...


# What every camera is to the rest of the program: a context that delivers the newest frame.
#
# Cameras never sleep for the sake of a rate: whoever ticks the loop decides when to read, through the clock.


@runtime_checkable
class Camera(Protocol):
    """A colour-and-depth camera. Entering opens the device, leaving closes it, also after an error.

    The constructor only stores its arguments. Every failure of the device is a `robot.errors.CameraError`.
    """

    def __enter__(self) -> Camera:
        """Open the device. Raises CameraError when it is absent, busy or delivers another image size than asked."""
        ...

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the device; safe to call twice."""
        ...

    def read(self) -> Frame:
        """The newest frame, never an older one kept in a queue.

        `Frame.stamp_s` is the time of exposure on the program's monotonic clock, not the time of this call; two reads
        within one exposure period may return the same frame, which the caller sees by its stamp. Raises CameraError
        when no frame arrives in time, when the device has gone, or outside of the `with` block.
        """
        ...


# Time is an argument: whoever waits or stamps asks a Clock, so tests never sleep and a simulator can own time.
#
# Waiting is until an absolute stamp, never for a duration: a late tick then does not delay all that follow it.


@runtime_checkable
class Clock(Protocol):
    """Seconds that never run backwards, from an arbitrary origin."""

    def now_s(self) -> float:
        """The present time, s."""
        ...

    def wait_until(self, stamp_s: float) -> None:
        """Return as soon as now_s() >= stamp_s; at once when that time has passed already."""
        ...


class MonotonicClock:
    """The machine's monotonic clock, for real cameras and arms."""

    def now_s(self) -> float:
        """Seconds of time.monotonic."""
        return time.monotonic()

    def wait_until(self, stamp_s: float) -> None:
        """Sleep until the absolute time `stamp_s`; a sleep that ends early is taken up again."""
        while (remaining_s := stamp_s - time.monotonic()) > 0.0:
            time.sleep(remaining_s)


class ManualClock:
    """Time that moves only when told to: waiting jumps to the deadline, `advance` plays the passing of work."""

    def __init__(self, start_s: float = 0.0) -> None:
        self._now_s = start_s

    def now_s(self) -> float:
        """The time last set by wait_until or advance, s."""
        return self._now_s

    def wait_until(self, stamp_s: float) -> None:
        """Jump to `stamp_s`; a stamp in the past changes nothing."""
        self._now_s = max(self._now_s, stamp_s)

    def advance(self, duration_s: float) -> None:
        """Let `duration_s` >= 0 pass, as work between two waits would."""
        if not duration_s >= 0.0:
            raise ValueError(f"time runs forwards only: expected a duration >= 0 s, got {duration_s}")
        self._now_s += duration_s
