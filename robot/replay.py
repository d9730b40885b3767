# pyright: reportAttributeAccessIssue=false
"""A recorded episode played back in the simulated cell: whether the arm goes where it went, and does what it did.

The recorded actions are commanded at the control rate, interpolated between their rows. The scene is that of the
episode's seed, mishaps included; without a recorded seed it is the one that is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np
from jaxtyping import Float

from robot.control.episode import Judgement
from robot.motion.set_points import Interpolation, interpolate_chunk
from robot.kinematics.forward import forward_kinematics
from robot.types import NUM_JOINTS, ActionChunk
from robot.demonstration_sink import ticks_per_row
from robot.datasets.reader import EpisodeDataset
from robot.policies.pick_state import ACTION_NAMES, STATE_NAMES
from robot.policy.policy_manifest import ACTION_KEY, STATE_KEY
from robot.demonstrations import RecordConfig
from robot.simulator.cell import SimulatedCell
from robot.simulator.mishaps import draw_mishaps
from robot.simulator.scene import arm_addresses
from robot.simulator.success import PickTaskJudge
from vision.errors import DatasetError
from vision.runtime.video_writer import VideoWriter

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
    cell.reset(seed, draw_mishaps(config.mishaps, seed))
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
        target = interpolate_chunk(chunk, start_s + tick * dt_s, Interpolation.CUBIC)
        cell.arm.command(target.qpos, target.gripper_m)
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
