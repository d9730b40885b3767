"""Demonstrations out of the simulator: the expert picks, disturbed on purpose, and what succeeds is kept.

An episode depends on its seed and the configuration alone. Worker processes play the episodes, this one writes them
in the order of their seeds, so a recording does not depend on the number of workers and can be taken up again.
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

from handeye.robot.control.episode import EpisodeResult, Judgement
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
from handeye.robot.simulator.success import PickTaskJudge
from handeye.robot.timing import StageTimer
from handeye.robot.types import ACTION_KEY, NUM_JOINTS, STATE_KEY, ActionChunk
from handeye.vision.errors import DatasetError, UserError
from handeye.vision.runtime.video_writer import VideoWriter

ROBOT_TYPE = "ur10e"


class RecordConfig(PickConfig):
    """The cell of `handeye pick` with the expert in it."""

    expert: ExpertPolicyConfig = ExpertPolicyConfig()
    random_faults: RandomFaultsConfig = MIXED
    picture_height: int = Field(default=120, gt=0)
    picture_width: int = Field(default=160, gt=0)


@dataclass(frozen=True, slots=True, eq=False)
class Played:
    """One played episode and how it went; only a success is worth keeping."""

    result: EpisodeResult
    episode: Episode

    @property
    def is_kept(self) -> bool:
        """A success without a word from the gates."""
        return self.result.success and not self.result.gate_violations


class Recorder:
    """Plays episodes in one process; use `play` inside `with`."""

    def __init__(self, config: RecordConfig, detector: Path, pictures: ImageSize | None) -> None:
        self._config = config
        self._pictures = pictures
        self._station = PickStation(config, load_detector(config, detector), self._build_policy)

    def __enter__(self) -> Recorder:
        self._station.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._station.__exit__(None, None, None)

    def play(self, seed: int) -> Played:
        """Episode `seed` with its disturbances and random_faults."""
        config = self._config
        sink = DemonstrationSink(
            config.cell,
            build_task(config),
            policy_hz=config.expert.policy_hz,
            seed=seed,
            image_size=self._pictures,
            scene=self._station.cell.see_scene,
        )
        result = self._station.run(seed, sinks=[sink])
        return Played(result, sink.episode())

    def _build_policy(self, station: PickStation, seed: int, timer: StageTimer) -> Policy:
        return ExpertPolicy(self._config.cell, self._config.expert, seed=seed)


def open_recording(config: RecordConfig, folder: Path, detector: Path, pictures: ImageSize | None) -> EpisodeWriter:
    """The data set to record into, new or begun.

    Raises DatasetError when it holds other episodes or was begun with another configuration or detector, and UserError
    where there is no such detector.
    """
    fps = config.expert.policy_hz
    if fps != round(fps):
        raise DatasetError(f"expert.policy_hz {fps:g}: a data set needs a whole number of frames a second")
    features, origin = demonstration_features(pictures), _origin(config, detector)
    return EpisodeWriter.open(folder, round(fps), features, ROBOT_TYPE, origin)


def _origin(config: RecordConfig, detector: Path) -> dict[str, Any]:
    """What decides an episode besides its seed; the policies of `handeye pick` have no part in it."""
    try:
        digest = hashlib.sha256(detector.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{detector}: the detector cannot be read: {error.strerror}") from error
    return {"detector_sha256": digest} | config.model_dump(mode="json", exclude={"skill", "learned"})


def next_seed(writer: EpisodeWriter, first_seed: int) -> int:
    """The seed after that of the last episode kept; `first_seed` for an empty data set."""
    if writer.info.total_episodes == 0:
        return first_seed
    dataset = EpisodeDataset.open(writer.folder)
    return int(dataset.read_episode(dataset.num_episodes - 1).columns["seed"][-1]) + 1


def play_episodes(
    config: RecordConfig, seeds: Sequence[int], detector: Path, pictures: ImageSize | None, *, workers: int
) -> Iterator[Played]:
    """The episodes in the order of `seeds`, shared among `workers` processes; stop iterating to stop playing."""
    load_detector(config, detector)
    yield from map_in_workers(Recorder, (config, detector, pictures), Recorder.play, seeds, workers=workers)


# A recorded episode played back in the simulated cell: whether the arm goes where it went, and does what it did.
#
# The recorded actions are commanded at the control rate, interpolated between their rows. The scene is that of the
# episode's seed, random_faults included; without a recorded seed it is the one that is asked for.

FILM_HZ = 10
JOINTS = (*STATE_NAMES[:NUM_JOINTS], "gripper_opening_m")


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """One episode in the joints of our arm: rows of state (six joints in rad, opening in m) and of action."""

    fps: int
    states: Float[np.ndarray, "T 7"]
    actions: Float[np.ndarray, "T 7"]
    seed: int | None


@dataclass(frozen=True, slots=True, eq=False)
class Replay:
    """How far the played states are from the recorded ones, a number for each frame, and what came of it."""

    seed: int
    tool_m: Float[np.ndarray, " T"]
    """Distance of the grasp point."""
    joint_rad: Float[np.ndarray, " T"]
    """Largest difference of a joint."""
    judgement: Judgement


def read_recorded(dataset: EpisodeDataset, index: int) -> Recorded:
    """An episode of our arm. Raises DatasetError for states and actions of other names."""
    columns = dataset.read_episode(index).columns
    states = _pick(dataset, columns, STATE_KEY, JOINTS)
    seed = int(columns["seed"][0]) if "seed" in columns else None
    return Recorded(dataset.fps, states, _pick(dataset, columns, ACTION_KEY, ACTION_NAMES), seed)


def replay(recorded: Recorded, config: RecordConfig, *, seed: int | None = None, film: Path | None = None) -> Replay:
    """Play an episode from its first state on, in the scene of `seed`, by default its own; `film` is an mp4.

    Raises UserError where the control rate is no multiple of the recorded one, DatasetError where there is no seed.
    """
    seed = recorded.seed if seed is None else seed
    if seed is None:
        raise DatasetError("the episode does not tell the seed of its scene; give one with --seed")
    ticks = ticks_per_row(config.cell.control_hz, float(recorded.fps))
    cell = SimulatedCell(config.cell, config.simulator)
    judge = PickTaskJudge(cell)
    cell.reset(seed, sample_random_faults(config.random_faults, seed))
    judge.reset()
    _place_arm(cell, recorded.states[0])
    with ExitStack() as stack:
        stack.callback(cell.close)
        stack.enter_context(cell.arm)
        writer = None if film is None else stack.enter_context(VideoWriter(film, _film_fps(recorded.fps)))
        states = _play(cell, recorded, ticks, writer)
        judgement = judge()
    places, meant = (_grasp_points(config, rows) for rows in (states, recorded.states))
    joints = np.abs(states[:, :NUM_JOINTS] - recorded.states[:, :NUM_JOINTS]).max(axis=1)
    return Replay(seed, np.linalg.norm(places - meant, axis=1), joints, judgement)


def _play(cell: SimulatedCell, recorded: Recorded, ticks: int, writer: VideoWriter | None) -> Float[np.ndarray, "T 7"]:
    """Command the actions and read the state at every recorded frame. Row i was commanded a period after state i."""
    start_s, dt_s = cell.clock.now_s(), 1.0 / cell.cell.control_hz
    rows = np.concatenate([recorded.states[:1], recorded.actions])
    chunk = ActionChunk(rows, 1.0 / recorded.fps, start_s)
    every = max(1, recorded.fps // FILM_HZ)
    states = []
    for tick in range(ticks * len(recorded.actions) + 1):
        cell.clock.wait_until(start_s + tick * dt_s)
        row, is_between = divmod(tick, ticks)
        if not is_between and row < len(recorded.states):
            joints = cell.arm.read_state()
            states.append(np.append(joints.qpos, joints.gripper_opening_m))
            if writer is not None and row % every == 0:
                writer.write(cell.film())
        set_point = interpolate_chunk(chunk, start_s + tick * dt_s)
        cell.arm.command(set_point.qpos_target, set_point.gripper_target_m)
    return np.array(states)


def _film_fps(fps: int) -> float:
    return fps / max(1, fps // FILM_HZ)


def _place_arm(cell: SimulatedCell, state: Float[np.ndarray, " 7"]) -> None:
    """Put the arm, at rest, where the recording begins; each finger has half of the opening."""
    data, at = cell.scene.data, arm_addresses(cell.scene.model)
    fingers = len(at) - NUM_JOINTS
    data.qpos[at] = [*state[:NUM_JOINTS], *[state[NUM_JOINTS] / fingers] * fingers]
    mujoco.mj_forward(cell.scene.model, data)
    cell.arm.reset()


def _grasp_points(config: RecordConfig, states: Float[np.ndarray, "T 7"]) -> Float[np.ndarray, "T 3"]:
    T_base_tcp = forward_kinematics(states[:, :NUM_JOINTS]) @ config.cell.T_tool_tcp
    return T_base_tcp[:, :3, 3]


def _pick(
    dataset: EpisodeDataset, columns: Mapping[str, np.ndarray], key: str, names: Sequence[str]
) -> Float[np.ndarray, "T D"]:
    """The columns of these names, in their order."""
    feature = dataset.features.get(key)
    given = () if feature is None or feature.names is None else feature.names
    missing = [name for name in names if name not in given]
    if missing:
        raise DatasetError(
            f"{dataset.folder}: {key} has no {missing[0]}: only episodes of the arm that `handeye record` moves can "
            f"be played back, this one has {', '.join(given) or 'no names'}"
        )
    return columns[key][:, [given.index(name) for name in names]].astype(np.float64)
