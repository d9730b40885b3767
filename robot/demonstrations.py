"""Record demonstrations of the expert in the simulator, and replay recorded episodes open loop.

An episode depends on its seed and the configuration alone. Worker processes run the episodes, this one writes them in
the order of their seeds, so a data set does not depend on the number of workers and can be resumed. A replay commands
the recorded actions, interpolated to the control rate, in the scene of the episode's seed with its random faults.
"""

# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from jaxtyping import Float
from pydantic import Field

from handeye.robot.control.episode import CheckResult, EpisodeResult
from handeye.robot.datasets.format import Episode
from handeye.robot.datasets.reader import EpisodeDataset
from handeye.robot.datasets.writer import EpisodeWriter
from handeye.robot.demonstration_sink import DemonstrationSink, ImageSize, demonstration_features, ticks_per_row
from handeye.robot.interfaces import Policy
from handeye.robot.kinematics.forward import forward_kinematics
from handeye.robot.motion.set_points import interpolate_chunk
from handeye.robot.pick import PickConfig, PickStation, build_task, load_detector, map_in_workers
from handeye.robot.policies.expert import ExpertPolicy, ExpertPolicyConfig
from handeye.robot.policies.pick_state import ACTION_NAMES, STATE_NAMES
from handeye.robot.simulator.cell import SimulatedCell
from handeye.robot.simulator.faults import MIXED, RandomFaultsConfig, sample_random_faults
from handeye.robot.simulator.scene import arm_addresses
from handeye.robot.simulator.success import PickSuccessCheck
from handeye.robot.timing import StageTimer
from handeye.robot.types import ACTION_KEY, NUM_JOINTS, STATE_KEY, ActionChunk
from handeye.vision.errors import DatasetError, UserError
from handeye.vision.runtime.video_writer import VideoWriter

ROBOT_TYPE = "ur10e"
VIDEO_HZ = 10
JOINTS = (*STATE_NAMES[:NUM_JOINTS], "gripper_opening_m")


class RecordConfig(PickConfig):
    """The cell of `handeye pick` with the expert in it."""

    expert: ExpertPolicyConfig = ExpertPolicyConfig()
    random_faults: RandomFaultsConfig = MIXED
    image_height: int = Field(default=120, gt=0)
    image_width: int = Field(default=160, gt=0)


@dataclass(frozen=True, slots=True, eq=False)
class RecordedEpisode:
    """An episode of the expert and its result."""

    result: EpisodeResult
    episode: Episode

    @property
    def is_kept(self) -> bool:
        """Whether it belongs in the data set: a success without gate violations."""
        return self.result.success and not self.result.gate_violations


class DemonstrationRecorder:
    """Records episodes in one process; use inside `with`."""

    def __init__(self, config: RecordConfig, detector: Path, image_size: ImageSize | None) -> None:
        self._config = config
        self._image_size = image_size
        self._station = PickStation(config, load_detector(config, detector), self._build_policy)

    def __enter__(self) -> DemonstrationRecorder:
        self._station.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._station.__exit__(None, None, None)

    def record(self, seed: int) -> RecordedEpisode:
        """Run episode `seed` with its disturbances and random faults."""
        config = self._config
        sink = DemonstrationSink(
            config.cell,
            build_task(config),
            policy_hz=config.expert.policy_hz,
            seed=seed,
            image_size=self._image_size,
            scene=self._station.cell.scene_image,
        )
        result = self._station.run(seed, sinks=[sink])
        return RecordedEpisode(result, sink.episode())

    def _build_policy(self, station: PickStation, seed: int, timer: StageTimer) -> Policy:
        return ExpertPolicy(self._config.cell, self._config.expert, seed=seed)


def open_recording(config: RecordConfig, folder: Path, detector: Path, image_size: ImageSize | None) -> EpisodeWriter:
    """Create the data set to record into, or resume it.

    Raises DatasetError when it holds other episodes or was recorded with another configuration or detector, UserError
    when the detector cannot be read.
    """
    fps = config.expert.policy_hz
    if fps != round(fps):
        raise DatasetError(f"expert.policy_hz {fps:g}: a data set needs a whole number of frames a second")
    features, origin = demonstration_features(image_size), _origin(config, detector)
    return EpisodeWriter.open(folder, round(fps), features, ROBOT_TYPE, origin)


def next_seed(writer: EpisodeWriter, first_seed: int) -> int:
    """The seed after that of the last recorded episode; `first_seed` for an empty data set."""
    if writer.info.total_episodes == 0:
        return first_seed
    dataset = EpisodeDataset.open(writer.folder)
    return int(dataset.read_episode(dataset.num_episodes - 1).columns["seed"][-1]) + 1


def record_episodes(
    config: RecordConfig, seeds: Sequence[int], detector: Path, image_size: ImageSize | None, *, workers: int
) -> Iterator[RecordedEpisode]:
    """Record episodes in `workers` processes, in the order of `seeds`; stop iterating to stop recording."""
    load_detector(config, detector)
    yield from map_in_workers(
        DemonstrationRecorder, (config, detector, image_size), DemonstrationRecorder.record, seeds, workers=workers
    )


@dataclass(frozen=True, slots=True, eq=False)
class JointTrajectory:
    """States (six joints in rad, opening in m) and actions of a recorded episode of our arm."""

    fps: int
    states: Float[np.ndarray, "T 7"]
    actions: Float[np.ndarray, "T 7"]
    seed: int | None


@dataclass(frozen=True, slots=True, eq=False)
class ReplayResult:
    """Errors of the replayed states against the recorded ones in each frame, and whether the pick succeeded."""

    seed: int
    tool_m: Float[np.ndarray, " T"]
    """Distance of the grasp point from where it was recorded."""
    joint_rad: Float[np.ndarray, " T"]
    """Largest error of any joint."""
    check: CheckResult


def read_trajectory(dataset: EpisodeDataset, index: int) -> JointTrajectory:
    """Joint states and actions of an episode. Raises DatasetError for states and actions of other names."""
    columns = dataset.read_episode(index).columns
    states = _select(dataset, columns, STATE_KEY, JOINTS)
    seed = int(columns["seed"][0]) if "seed" in columns else None
    return JointTrajectory(dataset.fps, states, _select(dataset, columns, ACTION_KEY, ACTION_NAMES), seed)


def replay(
    recorded: JointTrajectory, config: RecordConfig, *, seed: int | None = None, video: Path | None = None
) -> ReplayResult:
    """Replay an episode from its first state, in the scene of `seed` (default: the recorded one); `video` is an mp4.

    Raises UserError unless the control rate is a multiple of the recorded one, DatasetError without a seed.
    """
    seed = recorded.seed if seed is None else seed
    if seed is None:
        raise DatasetError("the episode has no recorded seed; give that of its scene with --seed")
    ticks = ticks_per_row(config.cell.control_hz, float(recorded.fps))
    cell = SimulatedCell(config.cell, config.simulator, config.latency)
    success_check = PickSuccessCheck(cell)
    cell.reset(seed, sample_random_faults(config.random_faults, seed))
    success_check.reset()
    _place_arm(cell, recorded.states[0])
    with ExitStack() as stack:
        stack.callback(cell.close)
        stack.enter_context(cell.arm)
        writer = None if video is None else stack.enter_context(VideoWriter(video, _video_fps(recorded.fps)))
        states = _run_actions(cell, recorded, ticks, writer)
        check = success_check()
    places, expected = (_grasp_points(config, rows) for rows in (states, recorded.states))
    joints = np.abs(states[:, :NUM_JOINTS] - recorded.states[:, :NUM_JOINTS]).max(axis=1)
    return ReplayResult(seed, np.linalg.norm(places - expected, axis=1), joints, check)


def _origin(config: RecordConfig, detector: Path) -> dict[str, Any]:
    """What determines an episode besides its seed; the policies of `handeye pick` do not."""
    try:
        digest = hashlib.sha256(detector.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{detector}: the detector cannot be read: {error.strerror}") from error
    return {"detector_sha256": digest} | config.model_dump(mode="json", exclude={"skill", "learned"})


def _run_actions(
    cell: SimulatedCell, recorded: JointTrajectory, ticks: int, writer: VideoWriter | None
) -> Float[np.ndarray, "T 7"]:
    """Command the actions and read the state at every recorded frame; action i was commanded a period after state i."""
    start_s, dt_s = cell.clock.now_s(), 1.0 / cell.cell.control_hz
    rows = np.concatenate([recorded.states[:1], recorded.actions])
    chunk = ActionChunk(rows, 1.0 / recorded.fps, start_s)
    every = max(1, recorded.fps // VIDEO_HZ)
    states = []
    for tick in range(ticks * len(recorded.actions) + 1):
        cell.clock.wait_until(start_s + tick * dt_s)
        row, is_between = divmod(tick, ticks)
        if not is_between and row < len(recorded.states):
            joints = cell.arm.read_state()
            states.append(np.append(joints.qpos, joints.gripper_opening_m))
            if writer is not None and row % every == 0:
                writer.write(cell.video_frame())
        set_point = interpolate_chunk(chunk, start_s + tick * dt_s)
        cell.arm.command(set_point.qpos_target, set_point.gripper_target_m)
    return np.array(states)


def _video_fps(fps: int) -> float:
    return fps / max(1, fps // VIDEO_HZ)


def _place_arm(cell: SimulatedCell, state: Float[np.ndarray, " 7"]) -> None:
    """Put the arm at rest where the recording begins; each finger takes half the opening."""
    data, at = cell.scene.data, arm_addresses(cell.scene.model)
    fingers = len(at) - NUM_JOINTS
    data.qpos[at] = [*state[:NUM_JOINTS], *[state[NUM_JOINTS] / fingers] * fingers]
    mujoco.mj_forward(cell.scene.model, data)
    cell.arm.reset()


def _grasp_points(config: RecordConfig, states: Float[np.ndarray, "T 7"]) -> Float[np.ndarray, "T 3"]:
    T_base_tcp = forward_kinematics(states[:, :NUM_JOINTS]) @ config.cell.T_tool_tcp
    return T_base_tcp[:, :3, 3]


def _select(
    dataset: EpisodeDataset, columns: Mapping[str, np.ndarray], key: str, names: Sequence[str]
) -> Float[np.ndarray, "T D"]:
    """The numbers of these names, in their order."""
    feature = dataset.features.get(key)
    given = () if feature is None or feature.names is None else feature.names
    missing = [name for name in names if name not in given]
    if missing:
        raise DatasetError(
            f"{dataset.folder}: {key} has no {missing[0]}: only episodes of the arm of `handeye record` can be "
            f"replayed, this one has {', '.join(given) or 'no names'}"
        )
    return columns[key][:, [given.index(name) for name in names]].astype(np.float64)
