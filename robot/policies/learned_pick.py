"""Run a trained network as a policy: states and images in, action chunks out. Limits are kept by who sends them.

Its inputs come from the same reader and at the same rate as in its demonstrations. Retries after a failed grasp or a
slip are not programmed here: the network has learned them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32
from pydantic import Field

from handeye.robot.config import WorkCellConfig
from handeye.robot.demonstration_sink import SCENE, WRIST, SceneView, ticks_per_row
from handeye.robot.errors import KinematicsError, PolicyInputError
from handeye.robot.interfaces import PickTask, PolicyStatus
from handeye.robot.kinematics.forward import forward_kinematics
from handeye.robot.kinematics.limits import joint_limits_from_config
from handeye.robot.kinematics.ur10e_ik import choose_solution, inverse_kinematics
from handeye.robot.motion.set_points import interpolate_chunk
from handeye.robot.policies.chunk_execution import (
    BlendingConfig,
    ChunkPredictor,
    EnsembledConfig,
    Images,
    build_blending,
)
from handeye.robot.policies.grasp import tool_pose_down
from handeye.robot.policies.onnx_policy import OnnxPolicy
from handeye.robot.policies.pick_state import ACTION_NAMES, NOT_BEGUN, STATE_NAMES, PickProgress, PickStateReader
from handeye.robot.timing import STAMP_TOLERANCE_S, StageTimer
from handeye.robot.types import NUM_JOINTS, ActionChunk, Frame, Observation
from handeye.vision.config import Config
from handeye.vision.errors import ModelFileError, UserError
from handeye.vision.runtime.engines import Precision

UNUSUAL = 10.0
"""A cell whose home is this many deviations away from the demonstrations is not the one they were recorded in."""
PLANNED_ROWS = 10
"""Rows of a network that are planned ahead, so that a late chunk finds the one before still under way."""
CAMERAS = (WRIST, SCENE)
"""Image keys of the simulated cell."""


class LearnedPickConfig(Config):
    """How the chunks of a network are executed."""

    blending: BlendingConfig = EnsembledConfig()
    lowest_m: float = Field(default=0.02, gt=0)
    """The grasp point stays this far above the table, as in the demonstrations."""
    num_threads: int = Field(default=1, ge=1)
    """Threads of the inference engine. Fixed, because sums in another order give other last digits."""
    precision: Precision = "fp32"
    """bf16 is several times as fast on processors that support it; worth it for policies with images.
    auto is bf16 there, with OpenVINO, and fp32 otherwise."""
    timeout_s: float = Field(default=25.0, gt=0)
    """The policy gives up after this time, counted from its first observation."""


class LearnedPick:
    """Picks one object with a trained network; implements `robot.interfaces.Policy`."""

    def __init__(
        self,
        cell: WorkCellConfig,
        config: LearnedPickConfig,
        network: ChunkPredictor,
        timer: StageTimer,
        *,
        scene: SceneView | None = None,
    ) -> None:
        """`scene` is the scene camera. Raises ModelFileError for a network that needs another camera."""
        self._cell = cell
        self._config = config
        self._network = network
        self._timer = timer
        self._reader = PickStateReader(cell)
        self._images = ImageBuffer(network.image_keys, scene)
        self._run: _Run | None = None
        self._progress: PickProgress | None = None

    def reset(self, task: PickTask) -> None:
        """Forget everything and begin `task` with the next observation."""
        self._end_run()
        self._images.close()
        self._reader.reset(task)
        self._progress = PickProgress(task, self._config.timeout_s)

    @property
    def status(self) -> PolicyStatus:
        """The status after the latest `act`."""
        return NOT_BEGUN if self._progress is None else self._progress.status

    def act(self, observation: Observation) -> ActionChunk:
        """The target now. Raises RuntimeError before the first `reset`, PolicyInputError for an output of NaN."""
        if self._progress is None:
            raise RuntimeError("the policy has no task yet: call reset first")
        if observation.frame is not None:
            with self._timer.stage("look"):
                self._images.update(observation.frame)
        if self._run is None:
            self._run = _Run(self._cell, self._config, self._network, observation)
        run = self._run
        stamp_s = observation.stamp_s
        is_new = run.blending.refresh(stamp_s)
        if not self._images.is_ready:
            run.next_row_s = stamp_s + 1.0 / self._cell.control_hz
        elif stamp_s >= run.next_row_s - STAMP_TOLERANCE_S:
            state = self._reader.read(observation, run.opening_at(stamp_s))
            self._progress.update(state, stamp_s)
            run.observe(lambda: self._predict(state.vector()), stamp_s)
            is_new = True
        if self._progress.status.is_over:
            run.stand(stamp_s)
        elif is_new:
            run.plan(stamp_s)
        return run.chunk

    def _predict(self, state: Float32[np.ndarray, " S"]) -> Float[np.ndarray, "T A"]:
        with self._timer.stage("policy"):
            return ask_network(self._network, state, self._images.images)

    def _end_run(self) -> None:
        if self._run is not None:
            self._run.blending.close()
        self._run = None


class ImageBuffer:
    """The images that a network takes: the newest of the wrist camera and of the scene camera.

    Both are taken when the wrist camera gives a new frame, as in the demonstrations, and kept until the next.
    """

    def __init__(self, keys: Sequence[str], scene: SceneView | None) -> None:
        """Raises ModelFileError for a camera that this cell does not have."""
        require_cameras(keys, (WRIST,) if scene is None else CAMERAS)
        self._keys, self._scene = tuple(keys), scene
        self._images: Images = {}

    def close(self) -> None:
        """Forget all images."""
        self._images = {}

    def update(self, frame: Frame) -> None:
        """Take the wrist image out of a new frame, and a scene image with it, as far as the network takes them."""
        images = {WRIST: frame.image_rgb} if WRIST in self._keys else {}
        if self._scene is not None and SCENE in self._keys:
            images[SCENE] = self._scene()
        self._images = images

    @property
    def is_ready(self) -> bool:
        """Whether there is an image of every camera that the network takes."""
        return len(self._images) == len(self._keys)

    @property
    def images(self) -> Images:
        """Key -> (H, W, 3) bytes in RGB, in the sizes of the cameras."""
        return self._images


def load_pick_network(path: Path, cell: WorkCellConfig, config: LearnedPickConfig) -> OnnxPolicy:
    """An exported policy that fits picking in this cell. Raises ModelFileError and MissingPackageError."""
    network = OnnxPolicy.load(path, num_threads=config.num_threads, precision=config.precision)
    require_fit(network, cell)
    return network


def require_fit(network: OnnxPolicy, cell: WorkCellConfig) -> None:
    """Run the network once. Raises ModelFileError, with the reason, for one that cannot pick in this cell.

    That is one with other inputs or outputs, with a rate that does not divide the control rate, with the statistics
    of other data, or with weights that give no finite output.
    """
    name = network.manifest.name
    _require_known_numbers(network)
    try:
        require_cameras(network.image_keys)
    except ModelFileError as error:
        raise ModelFileError(f"{name}: {error}") from error
    try:
        ticks_per_row(cell.control_hz, float(network.fps))
    except UserError as error:
        raise ModelFileError(f"{name}: has {network.fps} rows a second; {error}") from error
    at_home = _state_at_home(cell)
    _require_usual(network, at_home)
    black = np.zeros((*network.signature.image_hw, 3), np.uint8)
    try:
        ask_network(network, at_home, dict.fromkeys(network.image_keys, black))
    except PolicyInputError as error:
        raise ModelFileError(f"{name}: {error}: its weights cannot be used") from error


def require_cameras(keys: Sequence[str], cameras: Sequence[str] = CAMERAS) -> None:
    """Raises ModelFileError where a policy needs a camera that is not there."""
    missing = [key for key in keys if key not in cameras]
    if missing:
        raise ModelFileError(f"looks through {', '.join(missing)}; picking has {', '.join(cameras)}")


def ask_network(network: ChunkPredictor, state: Float[np.ndarray, " S"], images: Images) -> Float[np.ndarray, "T A"]:
    """The chunk for the numbers of STATE_NAMES; a network gets those that it names.

    Ours take them as their state. LeRobot's ACT without images needs an environment state: there it is the cube.
    """
    environment = state[_places(network.environment_names)] if network.environment_names else None
    return network.predict(state[_places(network.state_names)], images, environment)


class _Run:
    """One task from its first observation on."""

    def __init__(
        self, cell: WorkCellConfig, config: LearnedPickConfig, network: ChunkPredictor, observation: Observation
    ) -> None:
        self._cell = cell
        self._lowest_z = cell.table.height_m + config.lowest_m
        self._period_s = 1.0 / network.fps
        self._closed_m, self._open_m = cell.gripper.opening_min_m, cell.gripper.opening_max_m
        self._limits = joint_limits_from_config(cell.joint_limits)
        self.blending = build_blending(config.blending, self._period_s)
        self.next_row_s = observation.stamp_s
        standing = np.append(observation.joints.qpos, observation.joints.gripper_opening_m)
        self.chunk = ActionChunk(standing[None], self._period_s, observation.stamp_s)

    def observe(self, ask: Callable[[], Float[np.ndarray, "T A"]], stamp_s: float) -> None:
        """Let the blending run the network; called once per row of the network."""
        self.next_row_s += self._period_s
        self.blending.observe(ask, stamp_s)

    def plan(self, stamp_s: float) -> None:
        """Make the chunk of the predictions so far, from now on."""
        stamps = stamp_s + self._period_s * np.arange(PLANNED_ROWS)
        actions = [self.blending.action_at(float(stamp)) for stamp in stamps]
        rows = [self._row(action) for action in actions if action is not None]
        if rows:
            self.chunk = ActionChunk(np.array(rows), self._period_s, stamp_s)

    def stand(self, stamp_s: float) -> None:
        """Keep to where the chunk is now."""
        here = interpolate_chunk(self.chunk, stamp_s)
        row = np.append(here.qpos_target, here.gripper_target_m)
        self.chunk = ActionChunk(row[None], self._period_s, stamp_s)

    def opening_at(self, stamp_s: float) -> float:
        """The opening that the fingers are told to have by now, m."""
        return interpolate_chunk(self.chunk, stamp_s).gripper_target_m

    def _row(self, action: Float[np.ndarray, " A"]) -> Float[np.ndarray, " 7"]:
        """Fingers open or close all the way, as in the demonstrations."""
        is_open = action[NUM_JOINTS] > (self._closed_m + self._open_m) / 2
        return np.append(self._hand_down(action[:NUM_JOINTS]), self._open_m if is_open else self._closed_m)

    def _hand_down(self, qpos: Float[np.ndarray, " 6"]) -> Float[np.ndarray, " 6"]:
        """The nearest joints with the hand pointing straight down, as in every demonstration, and off the table.

        The state does not hold the tilt, so a network cannot correct it: small errors would add up.
        """
        T_base_tcp = forward_kinematics(qpos) @ self._cell.T_tool_tcp
        p_tcp = T_base_tcp[:3, 3].copy()
        p_tcp[2] = max(p_tcp[2], self._lowest_z)
        pose = tool_pose_down(p_tcp, float(np.arctan2(T_base_tcp[1, 0], T_base_tcp[0, 0])), self._cell)
        try:
            return choose_solution(inverse_kinematics(pose, q6_hint=float(qpos[5])), qpos, self._limits)
        except KinematicsError:
            return qpos


def _state_at_home(cell: WorkCellConfig) -> Float[np.ndarray, " S"]:
    """The numbers of STATE_NAMES at home, before the cube has been detected."""
    known = dict(zip(STATE_NAMES[:NUM_JOINTS], cell.home_qpos, strict=True))
    known["gripper_opening_m"] = cell.gripper.opening_max_m
    return np.array([known.get(name, 0.0) for name in STATE_NAMES])


def _require_known_numbers(network: OnnxPolicy) -> None:
    """A policy may leave out numbers, such as the cube's position where it has images."""
    for what, found, expected in (
        ("state", network.state_names, STATE_NAMES),
        ("environment", network.environment_names, STATE_NAMES),
        ("action", network.action_names, ACTION_NAMES),
    ):
        unknown = [number for number in found if number not in expected]
        if unknown or (what == "action" and found != expected):
            difference = f"has {', '.join(unknown)}" if unknown else f"is {', '.join(found)}"
            raise ModelFileError(f"{network.manifest.name}: its {what} {difference}; picking has {', '.join(expected)}")


def _require_usual(network: OnnxPolicy, at_home: Float[np.ndarray, " S"]) -> None:
    """Every demonstration begins at home, so home must lie within the statistics of the training states."""
    statistics = network.manifest.state_statistics
    if statistics is None:
        return
    values = at_home[_places(network.state_names)].tolist()
    for name, value, mean, std in zip(network.state_names, values, statistics.mean, statistics.std, strict=True):
        if not name.startswith("cube") and abs(value - mean) > UNUSUAL * std:
            raise ModelFileError(
                f"{network.manifest.name}: has the statistics of another data set: {name} is {value:.3g} at this "
                f"cell's home, its demonstrations had {mean:.3g} +- {std:.2g}"
            )


def _places(names: Sequence[str]) -> list[int]:
    return [STATE_NAMES.index(name) for name in names]
