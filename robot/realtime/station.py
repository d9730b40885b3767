"""A simulated cell with a real clock: starts the processes, leads them through episodes, and outlives their deaths.

    simulator --states, exposures--> camera --frames--> perception and policy --plans--> control --commands--> simulator

and the recorder looks on. The arm waits for nobody: control brings it to rest when plans or frames stay away, and the
arm's controller when control does. The lock-step counterpart is `robot.pick.PickStation`.
"""

from __future__ import annotations

import time
from dataclasses import replace
from multiprocessing.connection import wait
from pathlib import Path
from types import TracebackType
from typing import Any

from handeye.robot.control.episode import (
    KILLED,
    NOTHING_DONE,
    CheckResult,
    EpisodeEnd,
    EpisodeResult,
    Punctuality,
    conclude,
    is_stop,
)
from handeye.robot.errors import RobotError
from handeye.robot.pick import COASTING_S, Output, PickConfig, build_task
from handeye.robot.policies.pick_state import PickStage
from handeye.robot.policies.scripted_pick import Stage
from handeye.robot.realtime.agent_process import AgentFiles, run_agent
from handeye.robot.realtime.child import Child, ChildFailed
from handeye.robot.realtime.control_process import run_control
from handeye.robot.realtime.messages import (
    AgentReport,
    BeginTask,
    ControlReport,
    EndTask,
    JudgeEpisode,
    LoadScene,
    Ready,
    Rings,
    Verdict,
)
from handeye.robot.realtime.recorder_process import BeginRecording, EndRecording, run_recorder
from handeye.robot.realtime.simulator_process import run_camera, run_simulator
from handeye.robot.simulator.device_faults import PROCESS_FAULTS, Injection, sample_injection
from handeye.robot.simulator.faults import sample_random_faults
from handeye.robot.timing import MonotonicClock
from handeye.vision.errors import ModelFileError

START_S = 120.0
"""Longest wait for the processes to load networks and renderer."""
ANSWER_S = 20.0
"""Longest wait for an answer between episodes."""
NOTHING_MEASURED = ControlReport(EpisodeEnd(NOTHING_DONE, 0.0, {}), Punctuality([], [], {}, [], [], {}), {}, 0.0)
UNSEEN = Verdict(CheckResult(success=False, reason="the simulator has ended"), {}, 0.0)


class RealtimeStation:
    """Runs episodes with a real clock; use as a context, which leaves no process and no memory behind."""

    def __init__(self, config: PickConfig, detector: Path, policy: Path | None = None) -> None:
        self.config = config
        self._files = AgentFiles(detector, policy)
        self._clock = MonotonicClock()
        self._children: dict[str, Child] = {}
        self.scheduling = ""
        """What the control process was given by the operating system, for people."""

    def __enter__(self) -> RealtimeStation:
        """Start the processes. Raises what they raise at their start: ModelFileError, MissingPackageError, ..."""
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def pids(self) -> dict[str, int]:
        """The numbers of the processes by name: simulator, camera, perception, control, recorder."""
        return {name: child.pid for name, child in self._children.items()}

    def run(self, seed: int, *, output: Output | None = None) -> EpisodeResult:
        """Run episode `seed` from reset to judgement; processes that have died are started anew first."""
        if not all(child.is_alive for child in self._children.values()):
            self._end()
            self._start()
        config = self.config
        fault = sample_injection(config.fault, config.fault_at_s, seed)
        scene_faults = [] if fault is None else fault.scene_faults(seed)
        faults = (*scene_faults, *sample_random_faults(config.random_faults, seed))
        self._load_scene(LoadScene(seed, faults))
        if output is not None:
            self._children["recorder"].send(self._recording(output, seed))
            self._answer("recorder", Ready, ANSWER_S)
        report = self._play(fault, is_recorded=output is not None)
        self._children["perception"].send(EndTask())
        agent = self._answer("perception", AgentReport, ANSWER_S) or AgentReport({})
        stage_ms = report.stage_ms | agent.stage_ms
        result = conclude(report.end, CheckResult(success=False), seed=seed, stage_ms=stage_ms)
        self._children["simulator"].send(JudgeEpisode(COASTING_S if is_stop(result) else 0.0))
        verdict = self._answer("simulator", Verdict, ANSWER_S) or UNSEEN
        result = conclude(report.end, verdict.checked, seed=seed, stage_ms=stage_ms)
        moved_s = verdict.last_moved_s - report.last_allowed_s
        result = replace(
            result,
            limit_breaches=verdict.limit_breaches,
            stop_s=max(0.0, moved_s) if is_stop(result) and report.last_allowed_s else None,
            punctuality=report.punctuality,
        )
        if output is not None:
            self._children["recorder"].send(EndRecording(result))
            self._answer("recorder", Ready, ANSWER_S)
        return result

    def _load_scene(self, message: LoadScene) -> None:
        """The camera first: it must know the scene when the first exposure comes."""
        for name in ("camera", "simulator"):
            self._children[name].send(message)
            self._answer(name, Ready, ANSWER_S)
        frames = self._rings.frames.count
        until_s = self._clock.now_s() + ANSWER_S
        while self._rings.frames.count == frames and self._clock.now_s() < until_s:
            time.sleep(0.002)

    def _play(self, fault: Injection | None, *, is_recorded: bool) -> ControlReport:
        """Start perception and control, kill what the fault names, and wait for what control reports."""
        began_s = self._clock.now_s()
        fault = None if fault is None else replace(fault, at_s=began_s + fault.at_s)
        kills = fault if fault is not None and fault.name in PROCESS_FAULTS else None
        begin = BeginTask(build_task(self.config), None if kills else fault, is_recorded)
        for name in ("perception", "control"):
            self._children[name].send(begin)
        until_s = began_s + self.config.timeout_s + ANSWER_S
        alive = dict(self._children)
        while self._clock.now_s() < until_s:
            if kills is not None and self._clock.now_s() >= kills.at_s:
                self._children[kills.name.removesuffix(KILLED)].kill()
                kills = None
            waitables = [waitable for child in alive.values() for waitable in child.waitables]
            wait(waitables, timeout=0.01 if kills else 0.5)
            report = self._children["control"].next_message()
            if isinstance(report, ControlReport):
                return report
            for name in [name for name, child in alive.items() if not child.is_alive]:
                del alive[name]
                if name == "control":
                    return _lost("control", self._clock.now_s() - began_s)
                if name != "recorder":
                    self._children["control"].send(EndTask(name + KILLED))
        return _lost("control", self._clock.now_s() - began_s)

    def _recording(self, output: Output, seed: int) -> BeginRecording:
        stages = tuple(stage.value for stage in (Stage if self._files.policy is None else PickStage))
        return BeginRecording(output.episode_folder(seed), output.video, self.config.cell.camera.rate_hz, stages)

    def _start(self) -> None:
        config = self.config
        self._rings = rings = Rings.for_camera(config.cell.camera)
        self._children = {
            "simulator": Child("simulator", run_simulator, config, rings),
            "camera": Child("camera", run_camera, config, rings),
            "perception": Child("perception", run_agent, config, self._files, rings),
            "control": Child("control", run_control, config, rings),
            "recorder": Child("recorder", run_recorder, rings),
        }
        for name in self._children:
            ready = self._answer(name, Ready, START_S)
            if ready is None:
                raise RobotError(f"the {name} process did not start")
            self.scheduling = ready.detail or self.scheduling

    def _end(self) -> None:
        for child in reversed(self._children.values()):
            child.end()
        if self._children:
            self._rings.close()
        self._children = {}

    def _answer(self, name: str, kind: type[Any], timeout_s: float) -> Any:
        """The child's next message of this kind; None where it has died or stays silent.

        Raises ModelFileError for a file that it cannot use, RobotError for a fault in its program.
        """
        child, until_s = self._children[name], self._clock.now_s() + timeout_s
        while (left_s := until_s - self._clock.now_s()) > 0.0:
            wait(child.waitables, timeout=left_s)
            message = child.next_message()
            if isinstance(message, ChildFailed):
                raise (ModelFileError if message.is_expected else RobotError)(message.message)
            if isinstance(message, kind):
                return message
            if message is None and not child.is_alive:
                return None
        return None


def _lost(name: str, cycle_s: float) -> ControlReport:
    """What is known of an episode whose control process has gone."""
    return replace(NOTHING_MEASURED, end=replace(NOTHING_MEASURED.end, failed=name + KILLED, cycle_s=cycle_s))
