"""The protocols of the robot: Policy, Arm, Camera and Clock.

The control loop knows nothing else of its parts: scripted and learned policies, simulated and real arms and cameras
implement the same protocols.
"""

from __future__ import annotations

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
    """Whether a policy is running, reports success, or has given up."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class PolicyStatus:
    """How far a policy has come, by its own account.

    stage is what it does now, reason why it gave up (None otherwise), attempts the number of grasps begun.
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
    """Turns observations into action chunks. Deterministic: the same task and observations give the same chunks."""

    def reset(self, task: PickTask) -> None:
        """Forget everything and begin `task` with the next observation."""
        ...

    def act(self, observation: Observation) -> ActionChunk:
        """The targets from `observation.stamp_s` on; called once a tick, with strictly increasing stamps.

        A chunk may reach further than one tick: each replaces the one before. A policy whose
        task is over gives a chunk that holds still. Raises RuntimeError before the first `reset`.
        """
        ...

    @property
    def status(self) -> PolicyStatus:
        """The status after the latest `act`."""
        ...


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

    def command(self, qpos_command: Float[np.ndarray, " 6"], gripper_opening_m: float) -> Float[np.ndarray, " 6"]:
        """Send one set-point: joint angles in rad and the distance between the fingers in m.

        Returns the joint angles that were really sent (a driver may clamp to what its hardware accepts). Raises
        ArmError when the arm cannot take commands, and for values that are not finite: those never reach hardware.
        """
        ...

    def stop(self) -> None:
        """Bring the arm to rest as fast as it may; the gripper keeps its hold. May be called at any time."""
        ...


@runtime_checkable
class Camera(Protocol):
    """A colour-and-depth camera. Entering opens the device, leaving closes it, also after an error.

    The constructor only stores its arguments. A camera never sleeps to keep a rate: the loop decides when to read.
    Every failure of the device is a `robot.errors.CameraError`.
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


@runtime_checkable
class Clock(Protocol):
    """Monotonic time in seconds, from an arbitrary origin; tests and the simulator bring their own.

    Waiting is until an absolute stamp, never for a duration: a late tick does not delay those after it.
    """

    def now_s(self) -> float:
        """The present time, s."""
        ...

    def wait_until(self, stamp_s: float) -> None:
        """Return as soon as now_s() >= stamp_s; at once when that time has passed already."""
        ...
