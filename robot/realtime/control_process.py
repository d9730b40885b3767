"""Control alone in its process: read, interpolate, limit, gate and send at a fixed rate, by absolute deadlines.

A pure Python thread beside the loop would make it miss periods, and so would a collection of garbage or a log line:
there is none of them here. Whatever happens to the other processes, this one brings the arm to rest.
"""

from __future__ import annotations

from collections import Counter

from handeye.robot.control.agent import observation_age_s
from handeye.robot.control.controller import ArmController, ControlStep
from handeye.robot.control.episode import (
    FAILED_STAGE,
    NOTHING_DONE,
    START_REFUSED,
    EpisodeEnd,
    Punctuality,
    latched_reason,
)
from handeye.robot.control.set_point_stream import SetPointStream
from handeye.robot.errors import SafetyError, StageError
from handeye.robot.interfaces import Outcome, PolicyStatus
from handeye.robot.pick import PickConfig
from handeye.robot.realtime.child import Link
from handeye.robot.realtime.messages import (
    BeginTask,
    ControlRecord,
    ControlReport,
    EndTask,
    PlanMessage,
    Ready,
    Rings,
)
from handeye.robot.realtime.scheduling import CONTROL_PRIORITY, become_realtime
from handeye.robot.realtime.simulator_process import SharedArm
from handeye.robot.simulator.device_faults import faulty_arm, faulty_clock
from handeye.robot.timing import MonotonicClock, StageTimer

WAITING = PolicyStatus("begin", Outcome.RUNNING)
"""The status before the policy's first plan."""
FRAME_STAGES = ("camera", "perceive", "plan", "handover")
"""From exposure to reading, to tracks, to a plan, to the command."""
MS_PER_S = 1e3


def run_control(link: Link, config: PickConfig, rings: Rings) -> None:
    """Run episodes when told; between them the arm stands."""
    scheduling = become_realtime(CONTROL_PRIORITY)
    link.send(Ready(str(scheduling)))
    while True:
        message = link.next_message(None)
        if isinstance(message, BeginTask):
            link.send(_Episode(link, config, rings, message).run())


class _Episode:
    """One task, from the first period to rest."""

    def __init__(self, link: Link, config: PickConfig, rings: Rings, begin: BeginTask) -> None:
        self._link, self._config, self._rings = link, config, rings
        self._timer = StageTimer()
        self._clock = MonotonicClock()
        arm = SharedArm(config.cell, rings.states, rings.commands)
        self._controller = ArmController(
            faulty_clock(self._clock, begin.fault),
            faulty_arm(arm, self._clock, begin.fault),
            SetPointStream(config.safety, config.cell),
            control_hz=config.cell.control_hz,
            timer=self._timer,
        )
        self._frame_period_s = 1.0 / config.cell.camera.rate_hz
        self._plans_seen = rings.plans.count
        self._newest: PlanMessage | None = None
        self._frame_used_s = float("-inf")
        self._began_s = self._last_allowed_s = self._ended_s = 0.0
        self._latched: str | None = None
        self._violations: Counter[str] = Counter()
        self._period_s: list[float] = []
        self._frame_s: list[float] = []
        self._latency_ms: list[float] = []
        self._frame_ms: dict[str, list[float]] = {name: [] for name in FRAME_STAGES}

    def run(self) -> ControlReport:
        """Follow plans until the task is over, something has failed, or somebody says so; then come to rest."""
        failed, error = "", ""
        try:
            self._began_s = self._ended_s = self._last_allowed_s = self._controller.begin()
            try:
                failed, error = self._follow_plans()
            finally:
                self._come_to_rest()
        except StageError as failure:
            failed, error = failed or failure.stage + FAILED_STAGE, error or str(failure)
        except SafetyError as refused:
            failed, error = START_REFUSED, str(refused)
        status = NOTHING_DONE if self._ended_s == self._began_s else self._status
        end = EpisodeEnd(
            status, self._ended_s - self._began_s, dict(self._violations), self._latched, failed or None, error
        )
        lateness_ms = [MS_PER_S * late_s for late_s in self._controller.lateness_s[: len(self._period_s)]]
        punctuality = Punctuality(
            self._period_s,
            lateness_ms,
            dict(self._controller.missed),
            self._frame_s,
            self._latency_ms,
            self._frame_ms,
        )
        return ControlReport(end, punctuality, self._frame_ms | self._timer.durations_ms(), self._last_allowed_s)

    @property
    def _status(self) -> PolicyStatus:
        plan = None if self._newest is None else self._newest.plan
        return WAITING if plan is None else plan.status

    def _follow_plans(self) -> tuple[str, str]:
        """Tick until the end; what has failed, and what that said, both empty for an end like any other."""
        while True:
            message = self._link.next_message()
            if isinstance(message, EndTask):
                return message.reason, ""
            stamp_s = self._controller.wait()
            newest = self._take_plan()
            if newest is not None and newest.failed:
                self._controller.repeat(stamp_s)
                return newest.failed, newest.error
            with self._timer.stage("tick"):
                step = self._tick(stamp_s, newest)
            self._ended_s = stamp_s
            self._violations.update(reason.value for reason in step.decision.reasons)
            self._latched = latched_reason(step.decision)
            if self._latched or self._status.is_over or stamp_s - self._began_s >= self._config.timeout_s:
                return "", ""

    def _take_plan(self) -> PlanMessage | None:
        if self._rings.plans.count > self._plans_seen:
            self._plans_seen = self._rings.plans.count
            self._newest = self._rings.plans.latest() or self._newest
        return self._newest

    def _tick(self, stamp_s: float, newest: PlanMessage | None) -> ControlStep:
        plan = None if newest is None else newest.plan
        chunk = None if plan is None else plan.chunk
        try:
            joints = self._controller.observe()
            frame_stamp_s = self._began_s if plan is None else plan.frame_stamp_s
            age_s = observation_age_s(joints, frame_stamp_s, self._clock.now_s(), self._frame_period_s)
            step = self._controller.follow(chunk, joints, stamp_s, observation_age_s=age_s)
        except StageError as failure:
            if failure.stage != "arm":
                self._controller.repeat(stamp_s)
            raise
        if step.decision.allowed:
            self._last_allowed_s = stamp_s
            self._note_latency(newest)
        self._publish(step, stamp_s if chunk is None else chunk.stamp_s)
        return step

    def _come_to_rest(self) -> None:
        """Along the stop that is ready; an arm that has failed can only be told to stop."""
        try:
            while not self._controller.is_at_rest:
                stamp_s = self._controller.wait()
                self._publish(self._controller.brake(self._controller.observe(), stamp_s), stamp_s)
        finally:
            self._controller.stop()

    def _publish(self, step: ControlStep, chunk_stamp_s: float) -> None:
        controller = self._controller
        self._period_s.append(step.stamp_s - self._began_s)
        self._rings.records.write(
            ControlRecord(step, controller.command, controller.is_held, chunk_stamp_s, self._status)
        )

    def _note_latency(self, newest: PlanMessage | None) -> None:
        """The way of a frame to the first command that rests on it, stage by stage."""
        frame = None if newest is None else newest.frame
        if newest is None or frame is None or frame.exposed_s <= self._frame_used_s:
            return
        self._frame_used_s, now_s = frame.exposed_s, self._clock.now_s()
        times = (frame.exposed_s, frame.read_s, frame.perceived_s, newest.decided_s, now_s)
        for values, since_s, until_s in zip(self._frame_ms.values(), times[:-1], times[1:], strict=True):
            values.append(MS_PER_S * (until_s - since_s))
        self._frame_s.append(max(0.0, frame.exposed_s - self._began_s))
        self._latency_ms.append(MS_PER_S * (now_s - frame.exposed_s))
