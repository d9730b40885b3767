"""The control loop in lock-step: each tick observes, perceives, decides, interpolates, gates, commands and records.

The clock waits for the loop, so an episode repeats exactly from its seed. Only values pass between the stages, and each
stage is timed with the machine's own clock. However a task ends, the arm is brought to rest within its limits. With a
real clock the same `Agent` and `ArmController` run in processes of their own (`robot.realtime`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from handeye.robot.config import NO_LATENCY, LatencyConfig
from handeye.robot.control.agent import Agent, Plan, observation_age_s
from handeye.robot.control.controller import ArmController
from handeye.robot.control.gates import GateViolation
from handeye.robot.control.set_point_stream import GateDecision, SetPointStream
from handeye.robot.errors import StageError
from handeye.robot.interfaces import Arm, Camera, Clock, PickTask, Policy, PolicyStatus
from handeye.robot.motion.set_points import SetPoint
from handeye.robot.perception.pipeline import Percept, Perception
from handeye.robot.timing import STAMP_TOLERANCE_S, Delayed, StageTimer
from handeye.robot.types import JointState


@dataclass(frozen=True, slots=True, eq=False)
class Tick:
    """All values of one tick. percept is None in ticks without a new frame.

    set_point is the policy's target at stamp_s, from a chunk that begins at chunk_stamp_s; decision is what limits and
    gates made of it, qpos_command (rad) what the driver has really sent to the arm. While the arm is brought to rest
    chunk, set_point and status are the last ones.
    """

    stamp_s: float
    joints: JointState
    percept: Percept | None
    chunk_stamp_s: float
    set_point: SetPoint
    decision: GateDecision
    qpos_command: Float[np.ndarray, " 6"]
    status: PolicyStatus

    @property
    def violations(self) -> tuple[GateViolation, ...]:
        """What the gates objected to in this tick."""
        return self.decision.violations


@runtime_checkable
class TickSink(Protocol):
    """Receives ticks: a recorder, a video. It must not change what it is given."""

    def write(self, tick: Tick) -> None:
        """Called once a tick, after the command was sent."""
        ...


class ControlLoop:
    """The parts of a robot joined into ticks of a fixed period. `timer` collects the times of all stages."""

    def __init__(
        self,
        clock: Clock,
        arm: Arm,
        camera: Camera,
        perception: Perception,
        policy: Policy,
        stream: SetPointStream,
        *,
        control_hz: float,
        camera_hz: float,
        timer: StageTimer,
        sinks: Sequence[TickSink] = (),
        latency: LatencyConfig = NO_LATENCY,
    ) -> None:
        """`latency`: what perception and policy are charged by a clock that waits for the loop."""
        self.timer = timer
        self._latency = latency
        self._clock = clock
        self._camera = camera
        self._agent = Agent(perception, policy, timer)
        self._controller = ArmController(clock, arm, stream, control_hz=control_hz, timer=timer)
        self._sinks = tuple(sinks)
        self._frame_period_s = 1.0 / camera_hz
        self._last: Tick | None = None

    def begin(self, task: PickTask) -> float:
        """Start a task with the arm at rest where it is; forgets the last one. Returns when it begins, s.

        Raises SafetyError when the arm stands where the gates would not let it go, StageError where the arm or the
        policy fails.
        """
        self._last = None
        began_s = self._next_frame_s = self._controller.begin()
        # Frames exposed before the task began show a past that the joint history does not reach.
        self._read_frame_s = began_s - STAMP_TOLERANCE_S
        self._agent.begin(task, self._read_frame_s)
        self._percepts: Delayed[Percept] = Delayed()
        self._plans: Delayed[Plan] = Delayed()
        self._plan: Plan | None = None
        return began_s

    def tick(self) -> Tick:
        """Wait for the next tick and do it. Once a gate has latched, the arm comes to rest and is stopped.

        Raises StageError where a device, the perception or the policy fails; the arm has been brought to rest by then.
        """
        stamp_s = self._controller.wait()
        try:
            with self.timer.stage("tick"):
                return self._do_tick(stamp_s)
        except StageError as failure:
            self._stop_after(failure, stamp_s)
            raise

    def finish(self) -> None:
        """Bring the arm to rest within its limits and stop it; the gripper keeps its hold. Raises StageError."""
        while self._last is not None and not self._controller.is_at_rest:
            stamp_s = self._controller.wait()
            step = self._controller.brake(self._controller.observe(), stamp_s)
            braking = replace(
                self._last, stamp_s=stamp_s, joints=step.joints, decision=step.decision, qpos_command=step.qpos_command
            )
            self._write(replace(braking, percept=None))
        self._controller.stop()

    def _stop_after(self, failure: StageError, stamp_s: float) -> None:
        """An arm that fails can only be told to stop; after any other failure it still follows, in this tick too."""
        if failure.stage == "arm":
            self._controller.stop()
        else:
            self._controller.repeat(stamp_s)
            self.finish()

    def _do_tick(self, stamp_s: float) -> Tick:
        joints = self._controller.observe()
        self._agent.history.add(joints)
        percept = self._perceive(stamp_s)
        self._decide(stamp_s, joints)
        now_s = self._clock.now_s()
        age_s = observation_age_s(joints, self._agent.frame_stamp_s, now_s, self._frame_period_s)
        chunk = None if self._plan is None else self._plan.chunk
        step = self._controller.follow(chunk, joints, stamp_s, observation_age_s=age_s)
        return self._write(
            Tick(
                stamp_s,
                joints,
                percept,
                stamp_s if chunk is None else chunk.stamp_s,
                step.set_point,
                step.decision,
                step.qpos_command,
                self._agent.status if self._plan is None else self._plan.status,
            )
        )

    def _decide(self, stamp_s: float, joints: JointState) -> None:
        """Take the plan whose time has come; a policy that is at work is not asked again."""
        self._plan = self._plans.take(stamp_s) or self._plan
        if not self._plans.is_busy:
            command = None if self._last is None else self._controller.command
            plan = self._agent.decide(stamp_s, joints, command, is_held=self._controller.is_held)
            self._plans.begin(plan, stamp_s + self._latency.policy_s)
            self._plan = self._plans.take(stamp_s) or self._plan

    def _perceive(self, stamp_s: float) -> Percept | None:
        """The result of a frame in the tick in which it is there; the ticks between use its tracks.

        A frame is read every 1 / camera_hz, unless the perception is still at work. A camera without a new frame gives
        the last one again, which is not processed twice.
        """
        if not self._percepts.is_busy and stamp_s >= self._next_frame_s - STAMP_TOLERANCE_S:
            self._next_frame_s = max(self._next_frame_s + self._frame_period_s, stamp_s - self._frame_period_s)
            with self._controller.stage("camera", "camera"):
                frame = self._camera.read()
            if frame.stamp_s > self._read_frame_s:
                self._read_frame_s = frame.stamp_s
                self._percepts.begin(self._agent.perceive(frame), stamp_s + self._latency.perception_s)
        percept = self._percepts.take(stamp_s)
        if percept is not None:
            self._agent.take(percept)
        return percept

    def _write(self, tick: Tick) -> Tick:
        self._last = tick
        with self.timer.stage("record"):
            for sink in self._sinks:
                sink.write(tick)
        return tick
