"""What an arm must do, whether simulated or real. Drivers follow this protocol; nothing else knows which arm it is."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from robot.types import JointState


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
