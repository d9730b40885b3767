"""Devices without hardware or physics for tests of the loop: they follow every command and remember it."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np

from handeye.robot.config import NO_LATENCY, LatencyConfig, WorkCellConfig
from handeye.robot.control.loop import ControlLoop, Tick
from handeye.robot.control.safety import SafetyConfig
from handeye.robot.control.set_point_stream import SetPointStream
from handeye.robot.interfaces import Clock, Outcome, PickTask, PolicyStatus
from handeye.robot.kinematics.collision_geometry import ArmShape
from handeye.robot.perception.pipeline import Perception, PerceptionConfig
from handeye.robot.timing import ManualClock, StageTimer
from handeye.robot.types import ActionChunk, Frame, JointState, Observation
from handeye.vision.runtime.detections import Detections

CELL = WorkCellConfig()
HOME = np.array(CELL.home_qpos)
TASK = PickTask("red_cube", "bin", np.array([0.45, -0.55, 0.0]), np.array([0.26, 0.22]), 0.12)
SAFETY = SafetyConfig(
    joint_margin_rad=0.02,
    step_max_rad=0.35,
    velocity_fraction=1.0,
    acceleration_fraction=1.5,
    jerk_fraction=4.0,
    tool_speed_max_m_s=3.0,
    table_clearance_m=0.003,
    fixture_clearance_m=0.005,
    self_clearance_m=0.005,
    held_clearance_m=0.003,
    wrist_sine_min=0.05,
    elbow_sine_min=0.05,
    shoulder_reach_min_m=0.05,
    hold_age_s=0.15,
    stop_age_s=1.0,
    policy_silent_max_s=1.0,
    ahead_max_s=0.002,
)


class FakeArm:
    """Is at once where it is sent."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.qpos = HOME.copy()
        self.opening_m = 0.085
        self.commands: list[np.ndarray] = []
        self.stops = 0

    def __enter__(self) -> FakeArm:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def read_state(self) -> JointState:
        return JointState(self.qpos.copy(), np.zeros(6), self.opening_m, self.clock.now_s())

    def command(self, qpos_command: np.ndarray, gripper_opening_m: float) -> np.ndarray:
        self.qpos, self.opening_m = qpos_command.copy(), gripper_opening_m
        self.commands.append(self.qpos)
        return self.qpos

    def stop(self) -> None:
        self.stops += 1


class FakeCamera:
    """Gives a grey frame exposed `latency_s` ago; while `is_frozen` the last one again and again."""

    def __init__(self, clock: Clock, latency_s: float = 0.0) -> None:
        self.clock = clock
        self.latency_s = latency_s
        self.is_frozen = False
        self.reads = 0
        self._last: Frame | None = None

    def __enter__(self) -> FakeCamera:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None

    def read(self) -> Frame:
        self.reads += 1
        if self._last is None or not self.is_frozen:
            shape = (CELL.camera.height_px, CELL.camera.width_px)
            image, depth = np.full((*shape, 3), 128, np.uint8), np.full(shape, 0.6, np.float32)
            self._last = Frame(image, depth, CELL.camera.K, self.clock.now_s() - self.latency_s)
        return self._last


class BlindDetector:
    """Sees nothing."""

    def __call__(self, image_rgb: np.ndarray) -> Detections:
        return Detections.empty(("red_cube",))


@dataclass
class ListedPolicy:
    """Asks for one joint vector a tick from a list, and for the last one ever after; keeps what it was shown."""

    targets: list[np.ndarray]
    ends_after: int = 10**9
    outcome: Outcome = Outcome.SUCCEEDED
    reason: str | None = None
    seen: list[Observation] = field(default_factory=list)

    def reset(self, task: PickTask) -> None:
        self.seen.clear()

    def act(self, observation: Observation) -> ActionChunk:
        target = self.targets[min(len(self.seen), len(self.targets) - 1)]
        self.seen.append(observation)
        return ActionChunk(np.append(target, 0.05)[None], 0.008, observation.stamp_s)

    @property
    def status(self) -> PolicyStatus:
        over = len(self.seen) >= self.ends_after
        return PolicyStatus("listed", self.outcome if over else Outcome.RUNNING, self.reason if over else None)


@dataclass
class KeptTicks:
    """A sink that keeps everything."""

    ticks: list[Tick] = field(default_factory=list)

    def write(self, tick: Tick) -> None:
        self.ticks.append(tick)


@dataclass
class Bench:
    """A loop on fake devices with a policy under test."""

    policy: Any
    latency_s: float = 0.0
    clock: Any = field(default_factory=lambda: ManualClock(5.0))
    safety: SafetyConfig = SAFETY
    latency: LatencyConfig = NO_LATENCY

    def __post_init__(self) -> None:
        self.arm = FakeArm(self.clock)
        self.camera = FakeCamera(self.clock, self.latency_s)
        self.sink = KeptTicks()
        timer = StageTimer()
        perception = Perception(
            BlindDetector(),
            PerceptionConfig(),
            T_tool_camera=CELL.T_tool_camera,
            arm_shape=ArmShape(CELL),
            table_height_m=0.0,
            timer=timer,
        )
        self.loop = ControlLoop(
            self.clock,
            self.arm,
            self.camera,
            perception,
            self.policy,
            SetPointStream(self.safety, CELL),
            control_hz=CELL.control_hz,
            camera_hz=CELL.camera.rate_hz,
            timer=timer,
            sinks=[self.sink],
            latency=self.latency,
        )

    def holder(self, part: str) -> Any:
        """Whatever has the part `_camera`, `_arm`, `_policy` or `_perception` as an attribute, to break it."""
        loop = self.loop
        return next(holder for holder in (loop, loop._controller, loop._agent) if hasattr(holder, part))

    def run(self, num_ticks: int) -> list[Tick]:
        self.loop.begin(TASK)
        return [self.loop.tick() for _ in range(num_ticks)]


def slow_turn(num_rows: int) -> list[np.ndarray]:
    """The base joint creeps away from home, gently enough for every gate."""
    return [HOME + np.array([1e-5 * row * row, 0, 0, 0, 0, 0]) for row in range(num_rows)]
