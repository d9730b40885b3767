"""Perception and policy in a process of their own: frames and records of the control loop in, plans out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from handeye.robot.control.agent import Agent
from handeye.robot.control.controller import named_failure
from handeye.robot.control.episode import FAILED_STAGE
from handeye.robot.demonstration_sink import WRIST
from handeye.robot.errors import StageError
from handeye.robot.interfaces import Camera, Policy
from handeye.robot.perception.pipeline import Detector, Percept
from handeye.robot.pick import PickConfig, build_perception, load_detector
from handeye.robot.policies.learned_pick import LearnedPick, load_pick_network, require_cameras
from handeye.robot.policies.scripted_policy import PickSkill
from handeye.robot.realtime.child import Link
from handeye.robot.realtime.messages import (
    AgentReport,
    BeginTask,
    ControlRecord,
    EndTask,
    FrameTimes,
    PlanMessage,
    Ready,
    Rings,
)
from handeye.robot.realtime.simulator_process import POLL_S, SharedCamera
from handeye.robot.simulator.device_faults import faulty_camera, faulty_detector, faulty_policy
from handeye.robot.timing import MonotonicClock, StageTimer

BuildPolicy = Callable[[StageTimer], Policy]


@dataclass(frozen=True, slots=True)
class AgentFiles:
    """ONNX files of the detector and of a trained policy; None takes the scripted one."""

    detector: Path
    policy: Path | None


def run_agent(link: Link, config: PickConfig, files: AgentFiles, rings: Rings) -> None:
    """Load the networks, then serve one task after another."""
    detector = load_detector(config, files.detector)
    build_policy = _policy_builder(config, files.policy)
    link.send(Ready())
    while True:
        message = link.next_message(None)
        if isinstance(message, BeginTask):
            link.send(_Task(link, config, rings, message, detector, build_policy).serve())


def _policy_builder(config: PickConfig, path: Path | None) -> BuildPolicy:
    if path is None:
        return lambda timer: PickSkill(config.cell, config.skill)
    network = load_pick_network(path, config.cell, config.learned)
    require_cameras(network.image_keys, (WRIST,))
    return lambda timer: LearnedPick(config.cell, config.learned, network, timer)


class _Task:
    """One task, from its first control period to its end."""

    def __init__(
        self,
        link: Link,
        config: PickConfig,
        rings: Rings,
        begin: BeginTask,
        detector: Detector,
        build_policy: BuildPolicy,
    ) -> None:
        self._link, self._rings, self._begin = link, rings, begin
        self._clock = MonotonicClock()
        self._dt_s = 1.0 / config.cell.control_hz
        self._timer = StageTimer()
        fault = begin.fault
        perception = build_perception(config, faulty_detector(detector, self._clock, fault), self._timer)
        self._agent = Agent(perception, faulty_policy(build_policy(self._timer), self._clock, fault), self._timer)
        self._camera: Camera = faulty_camera(SharedCamera(rings.frames), self._clock, fault)
        self._records_seen = rings.records.count
        self._newest: ControlRecord | None = None
        self._frame: FrameTimes | None = None

    def serve(self) -> AgentReport:
        """See and decide until EndTask. What fails is told in the place of a plan, and ends the work."""
        try:
            while not isinstance(self._link.next_message(), EndTask):
                if not self._take_records():
                    time.sleep(POLL_S)
                    continue
                percept = self._see()
                self._decide()
                if percept is not None and self._begin.is_recorded:
                    self._rings.percepts.write(percept)
        except StageError as failure:
            self._rings.plans.write(
                PlanMessage(None, None, self._clock.now_s(), failure.stage + FAILED_STAGE, str(failure))
            )
            while not isinstance(self._link.next_message(None), EndTask):
                pass
        return AgentReport(self._timer.durations_ms())

    def _take_records(self) -> bool:
        """The joints of every control period since the last time; whether there are any."""
        records, self._records_seen = self._rings.records.since(self._records_seen)
        if records and self._newest is None:
            # Frames exposed before the first period show a past that the joint history does not reach.
            self._agent.begin(self._begin.task, records[0].step.joints.stamp_s)
        for record in records:
            self._agent.history.add(record.step.joints)
            self._newest = record
        return bool(records)

    def _see(self) -> Percept | None:
        """Perceive the newest frame if it is a new one; control goes on meanwhile."""
        with named_failure("camera"):
            frame = self._camera.read()
        if frame.stamp_s <= self._agent.frame_stamp_s:
            return None
        read_s = self._clock.now_s()
        percept = self._agent.perceive(frame)
        self._agent.take(percept)
        self._frame = FrameTimes(frame.stamp_s, read_s, self._clock.now_s())
        self._take_records()
        return percept

    def _decide(self) -> None:
        """A plan from the next control period on."""
        newest = self._newest
        assert newest is not None
        plan = self._agent.decide(
            newest.step.stamp_s + self._dt_s, newest.step.joints, newest.command, is_held=newest.is_held
        )
        self._rings.plans.write(PlanMessage(plan, self._frame, self._clock.now_s()))
