"""Pick-and-place episodes in the simulator: configuration, assembly of the cell, and a pool of worker processes.

The only place where the loop meets the simulator. An episode depends on its seed and the configuration alone, not on
the episodes before it or the number of workers.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from pydantic import Field

from handeye.robot.config import LatencyConfig, WorkCellConfig
from handeye.robot.control.episode import EpisodeResult, is_stop, run_episode
from handeye.robot.control.loop import ControlLoop, TickSink
from handeye.robot.control.safety import SafetyConfig
from handeye.robot.control.set_point_stream import SetPointStream
from handeye.robot.interfaces import PickTask, Policy
from handeye.robot.kinematics.collision_geometry import ArmShape
from handeye.robot.perception.pipeline import Detector, Perception, PerceptionConfig
from handeye.robot.policies.chunk_execution import AsynchronousConfig
from handeye.robot.policies.learned_pick import LearnedPick, LearnedPickConfig, load_pick_network
from handeye.robot.policies.pick_state import PickStage
from handeye.robot.policies.scripted_pick import PickSkillConfig, Stage
from handeye.robot.policies.scripted_policy import PickSkill
from handeye.robot.simulator.cell import SimulatedCell, SimulatorConfig
from handeye.robot.simulator.device_faults import (
    PROCESS_FAULTS,
    FaultName,
    Injection,
    faulty_arm,
    faulty_camera,
    faulty_clock,
    faulty_detector,
    faulty_policy,
    sample_injection,
)
from handeye.robot.simulator.faults import Fault, RandomFaultsConfig, sample_random_faults
from handeye.robot.simulator.limit_watch import LimitWatch
from handeye.robot.simulator.success import PickSuccessCheck
from handeye.robot.timing import StageTimer
from handeye.robot.viewer.episode_view import EpisodeFiles
from handeye.vision.config import Config
from handeye.vision.errors import ConfigError, ModelFileError
from handeye.vision.runtime.image_detector import ImageDetector

SHIPPED_DETECTOR = Path(__file__).parents[1] / "vision" / "weights" / "tabletop_nano.onnx"
"""The detector that comes with the package."""
SHIPPED_POLICY = Path(__file__).parent / "weights" / "pick_state.onnx"
"""The trained policy that comes with the package."""
COASTING_S = 0.5
"""After a stop the simulation goes on for so long: standstill is measured, not assumed."""
AHEAD = 2
"""Episodes submitted for each worker: one that runs and one that waits, so that stopping early wastes little."""

S = TypeVar("S")
R = TypeVar("R")


class InferenceConfig(Config):
    """How the detector's file is run."""

    score_threshold: float | None = Field(default=None, ge=0, le=1)
    """Detections below it are dropped; None takes what the file says."""
    num_threads: int = Field(default=1, ge=1)
    """Threads of the inference engine. Fixed, because sums in another order give other last digits."""


class PickConfig(Config):
    """A pick-and-place cell with everything that runs in it."""

    cell: WorkCellConfig = WorkCellConfig()
    simulator: SimulatorConfig = SimulatorConfig()
    latency: LatencyConfig = LatencyConfig()
    inference: InferenceConfig = InferenceConfig()
    perception: PerceptionConfig = PerceptionConfig()
    skill: PickSkillConfig = PickSkillConfig()
    """The scripted policy."""
    learned: LearnedPickConfig = LearnedPickConfig()
    """A trained policy."""
    random_faults: RandomFaultsConfig = RandomFaultsConfig()
    safety: SafetyConfig = SafetyConfig(
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
        hold_age_s=0.4,
        stop_age_s=1.0,
        policy_silent_max_s=1.0,
        ahead_max_s=0.002,
    )
    """The limits of the simulated cell, which configs/robot/pick.yaml writes out; a file gives all of them or none."""
    timeout_s: float = Field(default=60.0, gt=0)
    """An episode ends after this time by its clock."""
    fault: FaultName | None = None
    """A fault to inject into each episode; None for none."""
    fault_at_s: tuple[float, float] = (0.5, 3.5)
    """It begins at a time between these, sampled from the seed."""


@dataclass(frozen=True, slots=True)
class Output:
    """Where episodes write their files, one folder each; with `video` also a video and a contact sheet."""

    folder: Path
    video: bool

    def episode_folder(self, seed: int) -> Path:
        """The folder of episode `seed`."""
        return self.folder / f"episode_{seed}"


def build_task(config: PickConfig) -> PickTask:
    """Pick the simulator's target and put it into the cell's bin."""
    x, y = config.cell.bin.centre_xy_m
    return PickTask(
        class_name=config.simulator.target,
        place_name="bin",
        place_p_base=np.array([x, y, config.cell.table.height_m]),
        place_size_m=np.array(config.cell.bin.inside_m),
        place_wall_m=config.cell.bin.wall_height_m,
    )


BuildPolicy = Callable[["PickStation", int, StageTimer], Policy]
"""Builds the policy of an episode from the station, the episode's seed and the timer for its stages."""


def build_skill(station: PickStation, seed: int, timer: StageTimer) -> Policy:
    """The scripted skill; it is deterministic, so the seed does not matter."""
    return PickSkill(station.config.cell, station.config.skill)


class PickStation:
    """A simulated cell with a detector and a policy in it, for one episode after another; use as a context."""

    def __init__(self, config: PickConfig, detector: Detector, build_policy: BuildPolicy = build_skill) -> None:
        if config.fault in PROCESS_FAULTS:
            raise ConfigError(f"fault: {config.fault} needs a real clock; in lock-step there is one process")
        self.config = config
        self._detector = detector
        self._build_policy = build_policy
        self.cell = SimulatedCell(config.cell, config.simulator, config.latency)
        """The true state, for success checks and tests; nothing of it reaches the policy."""
        self._success_check = PickSuccessCheck(self.cell)

    def __enter__(self) -> PickStation:
        # The camera stays open from one episode to the next: starting a renderer takes as long as ten frames.
        self.cell.camera.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cell.camera.__exit__(kind, error, trace)
        self.cell.close()

    def run(
        self, seed: int, *, output: Output | None = None, sinks: Sequence[TickSink] = (), faults: Sequence[Fault] = ()
    ) -> EpisodeResult:
        """Run episode `seed` from reset to judgement; `output` and `sinks` record it.

        `faults` happen on the way, and those that the configuration's random_faults sample from the seed.
        """
        config = self.config
        injection = sample_injection(config.fault, config.fault_at_s, seed)
        scene_faults = [] if injection is None else injection.scene_faults(seed)
        self.cell.reset(seed, [*faults, *scene_faults, *sample_random_faults(config.random_faults, seed)])
        self._success_check.reset()
        with ExitStack() as stack:
            stack.enter_context(self.cell.arm)
            watch = stack.enter_context(LimitWatch(self.cell.physics, config.cell, config.safety))
            files = None if output is None else stack.enter_context(self._open_files(output, seed))
            timer = StageTimer()
            policy = self._build_policy(self, seed, timer)
            all_sinks = [watch, *sinks, *([] if files is None else [files])]
            loop = self._build_loop(policy, timer, all_sinks, injection)
            task = build_task(self.config)
            self.cell.clock.wait_until(self.config.latency.camera_s)
            result = run_episode(loop, task, self._success_check, seed=seed, timeout_s=self.config.timeout_s)
            if is_stop(result):
                # A controller that has lost its connection brakes by itself.
                self.cell.clock.wait_until(self.cell.clock.now_s() + COASTING_S)
            result = replace(
                result,
                limit_breaches={name: count for name, count in watch.breaches.items() if count},
                stop_s=max(0.0, watch.last_moved_s - watch.last_allowed_s) if is_stop(result) else None,
            )
            if files is not None:
                files.finish(result)
        return result

    def _open_files(self, output: Output, seed: int) -> EpisodeFiles:
        return EpisodeFiles(
            output.episode_folder(seed),
            [stage.value for stage in (Stage if self._build_policy is build_skill else PickStage)],
            video=output.video,
            fps=self.config.cell.camera.rate_hz,
            scene=self.cell.video_frame,
        )

    def _build_loop(
        self, policy: Policy, timer: StageTimer, sinks: Sequence[TickSink], fault: Injection | None
    ) -> ControlLoop:
        """Everything with state is built anew, so that episodes are independent."""
        config, clock = self.config, self.cell.clock
        perception = build_perception(config, faulty_detector(self._detector, clock, fault), timer)
        return ControlLoop(
            faulty_clock(clock, fault),
            faulty_arm(self.cell.arm, clock, fault),
            faulty_camera(self.cell.camera, clock, fault),
            perception,
            faulty_policy(policy, clock, fault),
            SetPointStream(config.safety, config.cell),
            control_hz=config.cell.control_hz,
            camera_hz=config.cell.camera.rate_hz,
            timer=timer,
            sinks=sinks,
            latency=config.latency,
        )


def build_perception(config: PickConfig, detector: Detector, timer: StageTimer) -> Perception:
    """Perception for the cell's camera and arm, without tracks."""
    return Perception(
        detector,
        config.perception,
        T_tool_camera=config.cell.T_tool_camera,
        arm_shape=ArmShape(config.cell),
        table_height_m=config.cell.table.height_m,
        timer=timer,
    )


def load_detector(config: PickConfig, path: Path) -> Detector:
    """The detector from an ONNX file, ready to run. Raises ModelFileError and MissingPackageError."""
    detector = ImageDetector.load(
        path, score_threshold=config.inference.score_threshold, num_threads=config.inference.num_threads
    )
    if config.simulator.target not in detector.class_names:
        known = ", ".join(detector.class_names)
        raise ModelFileError(f"{path}: knows the classes {known}, but {config.simulator.target} is to be picked")
    detector.warm_up()
    return detector


def run_episodes(
    config: PickConfig,
    seeds: Sequence[int],
    detector: Path,
    *,
    output: Output | None,
    workers: int,
    policy: Path | None = None,
) -> Iterator[EpisodeResult]:
    """Run the episodes on `workers` processes; results come in the order of `seeds`.

    `detector` and `policy` are ONNX files; without a policy the scripted skill acts. Raises ModelFileError and
    MissingPackageError before the first episode.
    """
    open_station(config, detector, policy)
    run = partial(PickStation.run, output=output)
    yield from map_in_workers(open_station, (config, detector, policy), run, seeds, workers=workers)


def open_station(config: PickConfig, detector: Path, policy: Path | None = None) -> PickStation:
    """A station with a detector from a file, and a policy from another file or the scripted skill."""
    build_policy = build_skill if policy is None else build_learned(config, policy)
    return PickStation(config, load_detector(config, detector), build_policy)


def build_learned(config: PickConfig, path: Path) -> BuildPolicy:
    """Builds policies from an ONNX file, which is read once.

    Raises ModelFileError and MissingPackageError; ConfigError for asynchronous chunks without a simulated latency:
    then an episode would depend on the speed of the machine.
    """
    blending = config.learned.blending
    if isinstance(blending, AsynchronousConfig) and blending.simulated_latency_s is None:
        raise ConfigError(
            "learned.blending.simulated_latency_s is not given: the simulator's clock does not wait for a network that "
            "computes ahead; say how long it takes, for example 0.01"
        )
    network = load_pick_network(path, config.cell, config.learned)

    def build(station: PickStation, seed: int, timer: StageTimer) -> Policy:
        return LearnedPick(station.config.cell, station.config.learned, network, timer, scene=station.cell.scene_image)

    return build


def map_in_workers(
    build: Callable[..., AbstractContextManager[S]],
    arguments: tuple[Any, ...],
    run: Callable[[S, int], R],
    seeds: Iterable[int],
    *,
    workers: int,
) -> Generator[R, None, None]:
    """`run(station, seed)` for every seed, in order; `build(*arguments)` makes the station of each process.

    Everything but the stations must be picklable when there are several workers. Errors of an episode pass through.
    """
    if workers == 1:
        with build(*arguments) as station:
            for seed in seeds:
                yield run(station, seed)
        return
    # Fresh processes: a renderer's or an engine's threads do not survive a fork.
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_open_station, initargs=(build, arguments)
    ) as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for seed in seeds:
                waiting.append(pool.submit(_run_in_worker, run, seed))
                if len(waiting) >= AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


_station: Any = None
"""The station of a worker process, kept from one episode to the next."""


def _open_station(build: Callable[..., AbstractContextManager], arguments: tuple[Any, ...]) -> None:
    # Ctrl-C reaches every process; the first one decides what follows, and lets an episode that runs end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_the_first_process, daemon=True).start()
    global _station  # noqa: PLW0603 - process pools keep a worker's state in its module
    _station = build(*arguments).__enter__()


def _end_with_the_first_process() -> None:
    """A killed process cannot tell its workers to stop: they would wait for work for ever."""
    first = parent_process()
    if first is not None:
        first.join()
        os._exit(1)


def _run_in_worker(run: Callable[[Any, int], R], seed: int) -> R:
    if _station is None:
        raise RuntimeError("the worker process was not initialised")
    return run(_station, seed)
