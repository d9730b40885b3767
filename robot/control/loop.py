"""The control loop: each tick observes, perceives, decides, interpolates, gates, commands and records.

In lock-step the clock waits for the loop, so an episode repeats exactly from its seed. Only values pass between the
stages, and each stage is timed with the machine's own clock. Set-points belong to the nominal times of their ticks,
however late one is done. However a task ends, the arm is brought to rest within its limits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from handeye.robot.config import NO_LATENCY, LatencyConfig
from handeye.robot.control.gates import GateViolation
from handeye.robot.control.set_point_stream import GateDecision, SetPointStream
from handeye.robot.errors import StageError
from handeye.robot.interfaces import Arm, Camera, Clock, PickTask, Policy, PolicyStatus
from handeye.robot.motion.set_points import SetPoint, interpolate_chunk
from handeye.robot.perception.pipeline import JointHistory, Percept, Perception
from handeye.robot.timing import STAMP_TOLERANCE_S, Delayed, StageTimer
from handeye.robot.types import ActionChunk, JointState, Observation, Track


@dataclass(frozen=True, slots=True, eq=False)
class Tick:
    """All values of one tick. percept is None in ticks without a new frame.

    set_point is the policy's target at stamp_s, decision what limits and gates made of it, qpos_command (rad) what the
    driver has really sent to the arm. While the arm is brought to rest chunk, set_point and status are the last ones.
    """

    stamp_s: float
    joints: JointState
    percept: Percept | None
    chunk: ActionChunk
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


@contextmanager
def named_failure(culprit: str) -> Iterator[None]:
    """Turn any error of the block into a StageError: beside an arm also a fault in a program ends in a named stop."""
    try:
        yield
    except Exception as error:
        raise StageError(culprit, error) from error


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
        self._arm = arm
        self._camera = camera
        self._perception = perception
        self._policy = policy
        self._stream = stream
        self._sinks = tuple(sinks)
        self._dt_s = 1.0 / control_hz
        self._frame_period_s = 1.0 / camera_hz
        self._last: Tick | None = None
        self._next_tick_s = 0.0

    def begin(self, task: PickTask) -> float:
        """Start a task with the arm at rest where it is; forgets the last one. Returns when it begins, s.

        Raises SafetyError when the arm stands where the gates would not let it go, StageError where the arm or the
        policy fails.
        """
        with named_failure("arm"):
            joints = self._arm.read_state()
        self._stream.reset(joints.qpos, joints.gripper_opening_m)
        self._perception.reset()
        with named_failure("policy"):
            self._policy.reset(task)
        self._history = JointHistory()
        self._tracks: tuple[Track, ...] = ()
        self._percepts: Delayed[Percept] = Delayed()
        self._chunks: Delayed[tuple[ActionChunk, PolicyStatus]] = Delayed()
        self._plan: tuple[ActionChunk, PolicyStatus] | None = None
        self._unseen: Percept | None = None
        self._last, self._is_held = None, False
        self._next_tick_s = self._next_frame_s = self._clock.now_s()
        # Frames exposed before the task began show a past that the joint history does not reach.
        self._read_frame_s = self._newest_frame_s = self._next_frame_s - STAMP_TOLERANCE_S
        return self._next_tick_s

    def tick(self) -> Tick:
        """Wait for the next tick and do it. Once a gate has latched, the arm comes to rest and is stopped.

        Raises StageError where a device, the perception or the policy fails; the arm has been brought to rest by then.
        """
        stamp_s = self._wait_for_tick()
        try:
            with self.timer.stage("tick"):
                return self._do_tick(stamp_s)
        except StageError as failure:
            self._stop_after(failure, stamp_s)
            raise

    def finish(self) -> None:
        """Bring the arm to rest within its limits and stop it; the gripper keeps its hold. Raises StageError."""
        while self._last is not None and not self._stream.command.is_at_rest:
            stamp_s = self._wait_for_tick()
            with self._stage("observe", "arm"):
                joints = self._arm.read_state()
            decision = self._stream.hold(self._stream.latched)
            with self._stage("command", "arm"):
                sent = self._send(decision)
            self._write(
                replace(self._last, stamp_s=stamp_s, joints=joints, percept=None, decision=decision, qpos_command=sent)
            )
        with named_failure("arm"):
            self._arm.stop()

    def _stop_after(self, failure: StageError, stamp_s: float) -> None:
        """An arm that fails can only be told to stop; after any other failure it still follows, in this tick too."""
        if failure.stage == "arm":
            with named_failure("arm"):
                self._arm.stop()
        else:
            self._next_tick_s = stamp_s
            self.finish()

    def _wait_for_tick(self) -> float:
        """Wait until the next tick is due and return its nominal time, s, leaving out periods that were missed."""
        stamp_s = self._next_tick_s
        self._clock.wait_until(stamp_s)
        missed = int((self._clock.now_s() - stamp_s + STAMP_TOLERANCE_S) / self._dt_s)
        stamp_s += missed * self._dt_s
        self._next_tick_s = stamp_s + self._dt_s
        return stamp_s

    def _do_tick(self, stamp_s: float) -> Tick:
        with self._stage("observe", "arm"):
            joints = self._arm.read_state()
            self._history.add(joints)
        percept = self._perceive(stamp_s)
        plan = self._decide(stamp_s, joints, percept)
        if plan is None:
            chunk, status = self._standing_chunk(stamp_s, joints), self._policy.status
        else:
            chunk, status = plan
        with self._stage("interpolate", "policy"):
            set_point = interpolate_chunk(chunk, stamp_s)
        with self.timer.stage("gate"):
            decision = self._stream.step(set_point, observation_age_s=self._observation_age_s(joints))
        with self._stage("command", "arm"):
            sent = self._send(decision)
        return self._write(Tick(stamp_s, joints, percept, chunk, set_point, decision, sent, status))

    def _decide(
        self, stamp_s: float, joints: JointState, percept: Percept | None
    ) -> tuple[ActionChunk, PolicyStatus] | None:
        """The newest chunk whose time has come, None before the first; a policy that is at work is not asked again."""
        self._plan = self._chunks.take(stamp_s) or self._plan
        self._unseen = percept or self._unseen
        if not self._chunks.is_busy:
            with self._stage("decide", "policy"):
                chunk = self._policy.act(self._observation(stamp_s, joints))
            self._chunks.begin((chunk, self._policy.status), stamp_s + self._latency.policy_s)
            self._plan = self._chunks.take(stamp_s) or self._plan
        return self._plan

    def _observation(self, stamp_s: float, joints: JointState) -> Observation:
        """What the policy is shown now; a frame that came while it was at work is shown the next time."""
        percept, self._unseen = self._unseen, None
        return Observation(
            joints,
            None if percept is None else percept.frame,
            self._tracks,
            stamp_s,
            command=None if self._last is None else self._stream.command,
            is_held=self._is_held,
            T_base_camera=None if percept is None else percept.T_base_camera,
        )

    def _standing_chunk(self, stamp_s: float, joints: JointState) -> ActionChunk:
        """Stay where the task begins."""
        row = np.append(self._stream.command.qpos, joints.gripper_opening_m)
        return ActionChunk(row[None], self._dt_s, stamp_s)

    def _write(self, tick: Tick) -> Tick:
        self._last = tick
        with self.timer.stage("record"):
            for sink in self._sinks:
                sink.write(tick)
        return tick

    def _perceive(self, stamp_s: float) -> Percept | None:
        """The result of a frame in the tick in which it is there; the ticks between use its tracks.

        A frame is read every 1 / camera_hz, unless the perception is still at work. A camera without a new frame gives
        the last one again, which is not processed twice.
        """
        if not self._percepts.is_busy and stamp_s >= self._next_frame_s - STAMP_TOLERANCE_S:
            self._next_frame_s = max(self._next_frame_s + self._frame_period_s, stamp_s - self._frame_period_s)
            with self._stage("camera", "camera"):
                frame = self._camera.read()
            if frame.stamp_s > self._read_frame_s:
                self._read_frame_s = frame.stamp_s
                with named_failure("perception"):
                    percept = self._perception.perceive(frame, self._history.state_at(frame.stamp_s))
                self._percepts.begin(percept, stamp_s + self._latency.perception_s)
        percept = self._percepts.take(stamp_s)
        if percept is not None:
            self._newest_frame_s = percept.frame.stamp_s
            self._tracks = percept.tracks
        return percept

    def _observation_age_s(self, joints: JointState) -> float:
        """Age of the older of joints and frame, beyond the one period that a frame may be old.

        Negative where one of the two is stamped ahead of now.
        """
        now_s = self._clock.now_s()
        newest_s = max(joints.stamp_s, self._newest_frame_s)
        if newest_s > now_s + STAMP_TOLERANCE_S:
            return now_s - newest_s
        return max(now_s - joints.stamp_s, now_s - self._newest_frame_s - self._frame_period_s, 0.0)

    @contextmanager
    def _stage(self, name: str, culprit: str) -> Iterator[None]:
        """Time the block as one run of stage `name`; an error in it is one of `culprit`."""
        with self.timer.stage(name), named_failure(culprit):
            yield

    def _send(self, decision: GateDecision) -> Float[np.ndarray, " 6"]:
        """Command the next set-point; once the gates have latched and the arm is at rest, stop it."""
        if decision.is_latched and decision.command.is_at_rest:
            self._arm.stop()
            return decision.qpos_command
        sent = self._arm.command(decision.qpos_command, decision.gripper_command_m)
        self._is_held = self._stream.resync(sent) or not decision.allowed
        return sent
