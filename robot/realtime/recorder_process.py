"""The recorder in a process of its own: it may be slow, and it may die, and the arm does not notice."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from handeye.robot.control.episode import EpisodeResult
from handeye.robot.control.loop import Tick
from handeye.robot.perception.pipeline import Percept
from handeye.robot.realtime.child import Link
from handeye.robot.realtime.messages import ControlRecord, Ready, Rings
from handeye.robot.viewer.episode_view import EpisodeFiles
from handeye.robot.viewer.latency_chart import save_latency_chart

PERIOD_S = 0.02


@dataclass(frozen=True, slots=True)
class BeginRecording:
    """Record into a folder from now on."""

    folder: Path
    video: bool
    fps: float
    stage_names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EndRecording:
    """Write what is left, the contact sheet, and the chart of latencies."""

    result: EpisodeResult


def run_recorder(link: Link, rings: Rings) -> None:
    """Record one episode after another."""
    link.send(Ready())
    while True:
        message = link.next_message(None)
        if isinstance(message, BeginRecording):
            _record(link, rings, message)
            link.send(Ready())


def _record(link: Link, rings: Rings, begin: BeginRecording) -> None:
    seen, percepts_seen = rings.records.count, rings.percepts.count
    waiting: deque[Percept] = deque()
    with EpisodeFiles(begin.folder, begin.stage_names, video=begin.video, fps=begin.fps, scene=None) as files:
        link.send(Ready())
        while True:
            message = link.next_message()
            records, seen = rings.records.since(seen)
            percepts, percepts_seen = rings.percepts.since(percepts_seen)
            waiting.extend(percepts)
            for record in records:
                files.write(_tick(record, waiting.popleft() if waiting else None))
            if isinstance(message, EndRecording):
                files.finish(message.result)
                if message.result.punctuality is not None:
                    save_latency_chart(begin.folder / "latency.png", message.result.punctuality)
                return
            time.sleep(PERIOD_S)


def _tick(record: ControlRecord, percept: Percept | None) -> Tick:
    """A control period as sinks know it; a percept goes with the first period after it."""
    step = record.step
    return Tick(
        step.stamp_s,
        step.joints,
        percept,
        record.chunk_stamp_s,
        step.set_point,
        step.decision,
        step.qpos_command,
        record.status,
    )
