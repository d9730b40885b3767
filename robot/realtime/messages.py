"""What the processes tell each other: orders over pipes, and values in shared rings. All stamps are of one clock.

The clock is `time.monotonic`, which is the same in every process of a machine.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from handeye.robot.config import CameraConfig
from handeye.robot.control.agent import Plan
from handeye.robot.control.controller import ControlStep
from handeye.robot.control.episode import CheckResult, EpisodeEnd, Punctuality
from handeye.robot.interfaces import PickTask, PolicyStatus
from handeye.robot.perception.pipeline import Percept
from handeye.robot.realtime.shared_ring import SharedRing
from handeye.robot.simulator.camera import Exposure
from handeye.robot.simulator.device_faults import Injection
from handeye.robot.simulator.faults import Fault
from handeye.robot.types import CommandState, Frame, JointState

SMALL_BYTES = 8192
PLAN_BYTES = 1 << 18
"""A motion of 30 s at 125 Hz."""
PIXEL_BYTES = 7
"""Three of colour, four of depth."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A child has done what it was told, or has started; `detail` is for people."""

    detail: str = ""


@dataclass(frozen=True, slots=True)
class LoadScene:
    """Sample the scene of episode `seed`; faults of the scene count from the moment it begins to move."""

    seed: int
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True, slots=True)
class BeginTask:
    """Start a task; the fault's time is one of the clock. is_recorded: somebody wants the percepts."""

    task: PickTask
    fault: Injection | None
    is_recorded: bool = False


@dataclass(frozen=True, slots=True)
class EndTask:
    """Come to rest where that is the child's part, and report. reason names what has failed, if anything has."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class ControlReport:
    """How an episode went for the control process."""

    end: EpisodeEnd
    punctuality: Punctuality
    stage_ms: dict[str, list[float]] = field(repr=False)
    last_allowed_s: float


@dataclass(frozen=True, slots=True)
class AgentReport:
    """Durations of the stages of perception and policy."""

    stage_ms: dict[str, list[float]] = field(repr=False)


@dataclass(frozen=True, slots=True)
class JudgeEpisode:
    """Go on for coast_s, then look whether the task is done."""

    coast_s: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """The simulator's truth."""

    checked: CheckResult
    limit_breaches: dict[str, int]
    last_moved_s: float


@dataclass(frozen=True, slots=True, eq=False)
class ArmCommand:
    """A set-point for the arm's controller, rad and m, when it was sent; qpos None tells it to stop."""

    qpos: Float[np.ndarray, " 6"] | None
    opening_m: float
    sent_s: float


@dataclass(frozen=True, slots=True)
class FrameTimes:
    """When a frame was exposed, read, and understood, s."""

    exposed_s: float
    read_s: float
    perceived_s: float


@dataclass(frozen=True, slots=True, eq=False)
class PlanMessage:
    """A plan with the times of its newest frame; or what has failed, and what that said."""

    plan: Plan | None
    frame: FrameTimes | None
    decided_s: float
    failed: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class ControlRecord:
    """One control period as others see it: what was read, wanted, decided and sent."""

    step: ControlStep
    command: CommandState
    is_held: bool
    chunk_stamp_s: float
    status: PolicyStatus


@dataclass(frozen=True, slots=True, eq=False)
class Rings:
    """Everything that is shared, each written by one process: simulator, camera, agent or control."""

    states: SharedRing[JointState]
    exposures: SharedRing[Exposure]
    frames: SharedRing[Frame]
    percepts: SharedRing[Percept]
    plans: SharedRing[PlanMessage]
    records: SharedRing[ControlRecord]
    commands: SharedRing[ArmCommand]

    @staticmethod
    def for_camera(camera: CameraConfig) -> Rings:
        """Rings for frames of this size; those of ticks hold some seconds, so that a slow reader misses none."""
        frame_bytes = PIXEL_BYTES * camera.width_px * camera.height_px + SMALL_BYTES
        return Rings(
            states=SharedRing(16, SMALL_BYTES),
            exposures=SharedRing(16, SMALL_BYTES),
            frames=SharedRing(3, frame_bytes),
            percepts=SharedRing(8, frame_bytes + PLAN_BYTES),
            plans=SharedRing(4, PLAN_BYTES),
            records=SharedRing(1024, SMALL_BYTES),
            commands=SharedRing(256, SMALL_BYTES),
        )

    def close(self) -> None:
        """Give the memory back."""
        for name in self.__dataclass_fields__:
            getattr(self, name).close()
