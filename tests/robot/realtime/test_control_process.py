"""The control process on a stand-in for the arm's controller: whatever ends an episode, the arm comes to rest."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from handeye.robot.config import CameraConfig
from handeye.robot.control.agent import Plan
from handeye.robot.control.safety import SafetyGates
from handeye.robot.interfaces import Outcome, PolicyStatus
from handeye.robot.pick import PickConfig
from handeye.robot.realtime.child import Link, ParentGoneError
from handeye.robot.realtime.control_process import run_control
from handeye.robot.realtime.messages import (
    BeginTask,
    ControlReport,
    EndTask,
    FrameTimes,
    PlanMessage,
    Rings,
)
from handeye.robot.types import ActionChunk, JointState
from tests.robot.control.fake_devices import HOME, TASK

CONFIG = PickConfig()
PATIENT = CONFIG.model_copy(
    update={"safety": CONFIG.safety.model_copy(update={"hold_age_s": 30.0, "stop_age_s": 60.0})}
)
"""On a busy machine this test's own threads may stall; that is not what is asked here."""
DT_S = 1.0 / CONFIG.cell.control_hz
BOUNDS = SafetyGates(CONFIG.safety, CONFIG.cell).bounds
RUNNING, DONE = PolicyStatus("move", Outcome.RUNNING), PolicyStatus("done", Outcome.SUCCEEDED, attempts=1)


class Bench(Link):
    """Rings, an arm that is where it was sent, and a parent that speaks once the arm has been sent so often."""

    def __init__(self, config: PickConfig = PATIENT) -> None:
        self.config = config
        self.rings = Rings.for_camera(CameraConfig(width_px=8, height_px=6))
        self.qpos, self.seen, self.sent = HOME.copy(), 0, []
        self.events: list[tuple[int, Callable[[], Any]]] = []
        self.report: ControlReport | None = None
        self._begun = False

    def arm(self, is_over: threading.Event) -> None:
        """Follow the commands and tell the state, all the time."""
        while not is_over.is_set():
            self.take_commands()
            state = JointState(self.qpos.copy(), np.zeros(6), 0.085, time.monotonic())
            self.rings.states.write(state)
            time.sleep(0.001)

    def take_commands(self) -> None:
        commands, self.seen = self.rings.commands.since(self.seen)
        for command in commands:
            self.sent.append(command.qpos)
            if command.qpos is not None:
                self.qpos = command.qpos

    def next_message(self, timeout_s: float | None = 0.0) -> Any:
        """As the parent: begin, then what the events say; gone once the report is there."""
        if not self._begun:
            self._begun = True
            return BeginTask(TASK, None)
        if timeout_s is None and self.report is not None:
            raise ParentGoneError
        if self.events and self.rings.commands.count >= self.events[0][0]:
            return self.events.pop(0)[1]()
        return None

    def send(self, message: Any) -> None:
        self.report = message if isinstance(message, ControlReport) else self.report

    def plan(self, status: PolicyStatus, rows: int = 400, **failure: str) -> None:
        """A turn of the base that starts gently, from now on; with a frame that was exposed 10 ms ago."""
        now_s = time.monotonic()
        turn = 0.1 * (1.0 - np.cos(np.linspace(0.0, np.pi, rows)))
        actions = np.tile(np.append(HOME, 0.085), (rows, 1))
        actions[:, 0] += turn
        plan = None if failure else Plan(ActionChunk(actions, DT_S, now_s), status, now_s - 0.01)
        frame = FrameTimes(now_s - 0.01, now_s - 0.006, now_s - 0.001)
        self.rings.plans.write(PlanMessage(plan, frame, now_s, **failure))

    def run(self) -> ControlReport:
        with self.moving_arm(), pytest.raises(ParentGoneError):
            run_control(self, self.config, self.rings)
        assert self.report is not None
        return self.report

    @contextmanager
    def moving_arm(self) -> Iterator[None]:
        is_over = threading.Event()
        thread = threading.Thread(target=self.arm, args=(is_over,))
        thread.start()
        while self.rings.states.count == 0:
            time.sleep(0.001)
        try:
            yield
        finally:
            is_over.set()
            thread.join()
            self.take_commands()
            self.rings.close()

    def assert_came_to_rest(self) -> None:
        """The last message is a stop, the set-points before it stand, and all kept the bounds."""
        assert self.sent[-1] is None
        path = np.array([HOME, HOME, HOME, *[qpos for qpos in self.sent if qpos is not None]])
        np.testing.assert_array_equal(path[-1], path[-2])
        for order, bound in enumerate(BOUNDS, start=1):
            rates = np.diff(path, n=order, axis=0) / DT_S**order
            assert (np.abs(rates) <= bound * (1.0 + 1e-5)).all()


@pytest.fixture(autouse=True)
def ordinary_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test's own process keeps its priority and its garbage collector."""
    monkeypatch.setattr("handeye.robot.realtime.control_process.become_realtime", lambda priority: "ordinary")


def test_a_plan_is_followed_until_the_policy_is_done() -> None:
    bench = Bench()
    bench.events = [(5, lambda: bench.plan(RUNNING, rows=40)), (60, lambda: bench.plan(DONE, rows=1))]
    report = bench.run()
    assert (report.end.status, report.end.failed, report.end.latched) == (DONE, None, None)
    assert report.end.gate_violations == {}
    bench.assert_came_to_rest()
    assert max(qpos[0] for qpos in bench.sent if qpos is not None) > HOME[0] + 0.05
    kept = report.punctuality
    assert len(kept.latency_ms) == len(kept.frame_s) == 2, "two frames"
    assert all(latency_ms >= 10.0 for latency_ms in kept.latency_ms)
    np.testing.assert_allclose(np.sum(list(kept.frame_ms.values()), axis=0), kept.latency_ms)
    assert len(kept.lateness_ms) == len(kept.period_s) >= 60
    assert kept.period_s == sorted(kept.period_s)


@pytest.mark.parametrize(
    ("event", "failed", "error"),
    [
        (lambda bench: bench.plan(RUNNING, failed="camera_error", error="the cable is out"), "camera_error", "cable"),
        (lambda bench: EndTask("perception_killed"), "perception_killed", ""),
    ],
)
def test_what_fails_in_mid_motion_ends_in_a_stop_within_the_limits(
    event: Callable[[Bench], Any], failed: str, error: str
) -> None:
    bench = Bench()
    bench.events = [(5, lambda: bench.plan(RUNNING)), (60, lambda: event(bench))]
    report = bench.run()
    assert report.end.failed == failed
    assert error in report.end.error
    bench.assert_came_to_rest()
    path = [qpos[0] for qpos in bench.sent if qpos is not None]
    assert path[-1] > path[60], "it was moving"


def test_a_parent_that_is_gone_leaves_the_arm_at_rest() -> None:
    def go() -> None:
        raise ParentGoneError

    bench = Bench()
    bench.events = [(5, lambda: bench.plan(RUNNING)), (60, go)]
    with bench.moving_arm(), pytest.raises(ParentGoneError):
        run_control(bench, bench.config, bench.rings)
    assert bench.report is None
    bench.assert_came_to_rest()


def test_without_frames_the_gates_stop_the_arm_by_name() -> None:
    bench = Bench(CONFIG)
    bench.events = [(5, lambda: bench.plan(RUNNING, rows=400))]
    report = bench.run()
    assert report.end.latched == "lost_observation"
    assert report.end.gate_violations["stale_observation"] > 0
    bench.assert_came_to_rest()


def test_an_arm_that_tells_nothing_is_a_result() -> None:
    bench = Bench()
    with pytest.raises(ParentGoneError):
        run_control(bench, bench.config, bench.rings)
    assert bench.report is not None
    assert bench.report.end.failed == "arm_error"
    assert "has not told its state" in bench.report.end.error
