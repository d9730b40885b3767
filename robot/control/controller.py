"""The control side of a robot: reads the arm, interpolates the chunk in force, limits, gates and sends.

Nothing here waits for a camera, a network or a file. In lock-step `ControlLoop` calls it between perception and policy;
with a real clock it is alone in its process (`robot.realtime`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from handeye.robot.control.set_point_stream import GateDecision, SetPointStream
from handeye.robot.errors import StageError
from handeye.robot.interfaces import Arm, Clock
from handeye.robot.motion.set_points import SetPoint, interpolate_chunk
from handeye.robot.timing import STAMP_TOLERANCE_S, StageTimer
from handeye.robot.types import ActionChunk, CommandState, JointState

OVERRUN, WOKEN_LATE = "overrun", "woken_late"
"""Why a period is missed: by the loop's own work, or by the operating system."""


@dataclass(frozen=True, slots=True, eq=False)
class ControlStep:
    """One control period. set_point is the policy's target at the period's nominal time stamp_s.

    decision is what limits and gates made of it, qpos_command (rad) what the driver has really sent.
    """

    stamp_s: float
    joints: JointState
    set_point: SetPoint
    decision: GateDecision
    qpos_command: Float[np.ndarray, " 6"]


@contextmanager
def named_failure(culprit: str) -> Iterator[None]:
    """Turn any error of the block into a StageError: beside an arm also a fault in a program ends in a named stop."""
    try:
        yield
    except Exception as error:
        raise StageError(culprit, error) from error


class ArmController:
    """Set-points at a fixed rate: `wait`, `observe`, then `follow` or `brake`; each stage is timed.

    Set-points belong to the nominal times of their periods, however late one is done.
    """

    def __init__(self, clock: Clock, arm: Arm, stream: SetPointStream, *, control_hz: float, timer: StageTimer) -> None:
        self.dt_s = 1.0 / control_hz
        self.missed: Counter[str] = Counter()
        """Periods that were left out since `begin`: because the work before took too long, or the wait did."""
        self.lateness_s: list[float] = []
        """How much later than its nominal time each period since `begin` began."""
        self._clock, self._arm, self._stream, self._timer = clock, arm, stream, timer
        self._set_point: SetPoint | None = None
        self._is_held = False
        self._next_tick_s = 0.0

    def begin(self) -> float:
        """Take the arm at rest where it is. Returns the nominal time of the first period, s.

        Raises SafetyError when it stands where the gates would not let it go, StageError where it cannot be read.
        """
        with named_failure("arm"):
            joints = self._arm.read_state()
        self._stream.reset(joints.qpos, joints.gripper_opening_m)
        self._set_point, self._is_held = None, False
        self._next_tick_s = self._clock.now_s()
        self.missed, self.lateness_s = Counter(), []
        return self._next_tick_s

    @property
    def command(self) -> CommandState:
        """What was sent last."""
        return self._stream.command

    @property
    def is_held(self) -> bool:
        """Whether what was sent last is not what was asked for, because a gate or the driver objected."""
        return self._is_held

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing has been sent since `begin`, or the set-points have come to rest."""
        return self._set_point is None or self._stream.command.is_at_rest

    def wait(self) -> float:
        """Wait until the next period is due; its nominal time, s, leaving out periods that were missed."""
        stamp_s = self._next_tick_s
        reason = OVERRUN if self._clock.now_s() > stamp_s + STAMP_TOLERANCE_S else WOKEN_LATE
        self._clock.wait_until(stamp_s)
        late_s = self._clock.now_s() - stamp_s
        missed = int((late_s + STAMP_TOLERANCE_S) / self.dt_s)
        if missed:
            self.missed[reason] += missed
        self.lateness_s.append(late_s)
        stamp_s += missed * self.dt_s
        self._next_tick_s = stamp_s + self.dt_s
        return stamp_s

    def observe(self) -> JointState:
        """The arm's state now. Raises StageError."""
        with self.stage("observe", "arm"):
            return self._arm.read_state()

    def follow(
        self, chunk: ActionChunk | None, joints: JointState, stamp_s: float, *, observation_age_s: float
    ) -> ControlStep:
        """Send the chunk's set-point of this period as far as limits and gates let it; without a chunk stay.

        Once a gate has latched, the arm comes to rest and is stopped. Raises StageError.
        """
        with self.stage("interpolate", "policy"):
            row = np.append(self._stream.command.qpos, joints.gripper_opening_m)
            set_point = interpolate_chunk(chunk or ActionChunk(row[None], self.dt_s, stamp_s), stamp_s)
        with self._timer.stage("gate"):
            decision = self._stream.step(set_point, observation_age_s=observation_age_s)
        return self._send(stamp_s, joints, set_point, decision)

    def brake(self, joints: JointState, stamp_s: float) -> ControlStep:
        """One period along the stop that is ready. Raises StageError."""
        assert self._set_point is not None
        return self._send(stamp_s, joints, self._set_point, self._stream.hold(self._stream.latched))

    def stop(self) -> None:
        """Tell the arm to stop. Raises StageError."""
        with named_failure("arm"):
            self._arm.stop()

    def repeat(self, stamp_s: float) -> None:
        """The period at stamp_s has come to nothing: the next `wait` gives it again."""
        self._next_tick_s = stamp_s

    @contextmanager
    def stage(self, name: str, culprit: str) -> Iterator[None]:
        """Time the block as one run of stage `name`; an error in it is one of `culprit`."""
        with self._timer.stage(name), named_failure(culprit):
            yield

    def _send(self, stamp_s: float, joints: JointState, set_point: SetPoint, decision: GateDecision) -> ControlStep:
        with self.stage("command", "arm"):
            if decision.is_latched and decision.command.is_at_rest:
                self._arm.stop()
                sent = decision.qpos_command
            else:
                sent = self._arm.command(decision.qpos_command, decision.gripper_command_m)
                self._is_held = self._stream.resync(sent) or not decision.allowed
        self._set_point = set_point
        return ControlStep(stamp_s, joints, set_point, decision, sent)
