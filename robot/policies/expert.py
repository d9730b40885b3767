"""The expert that records demonstrations: a feedback law from the state of a pick to the next goal of the hand.

Unlike the scripted skill it keeps no memory: its goal follows from the present state alone and it never pauses to look,
so a learner finds one action for each state. The hand points straight down: grasp point and yaw are its pose.

Disturbances make the demonstrations show recovery (Laskey et al. 2017, DART): the goal is pulled aside for a part of a
second, or the fingers open or close out of turn, and the expert goes on from there. Pulls have zero mean, so the mean
action in a state is still the undisturbed one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from pydantic import Field

from handeye.robot.config import WorkCellConfig
from handeye.robot.interfaces import PickTask, PolicyStatus
from handeye.robot.kinematics.forward import forward_kinematics
from handeye.robot.policies.hand_motion import HandMotion, HandMotionConfig
from handeye.robot.policies.pick_state import (
    HELD_OPENING_M,
    NOT_BEGUN,
    STILL_M_S,
    PickProgress,
    PickState,
    PickStateReader,
)
from handeye.robot.timing import STAMP_TOLERANCE_S
from handeye.robot.transforms import wrap_angle
from handeye.robot.types import ActionChunk, Observation
from handeye.vision.config import Config

LOW_M = 0.06
"""Below this height over the table pulls are small and never downwards."""


class ExpertConfig(Config):
    """Gains, heights and tolerances of the feedback law."""

    grasp_above_centre_m: float = Field(default=0.003, ge=0)
    """The grasp point goes this far above the cube's middle ..."""
    grasp_lowest_m: float = Field(default=0.025, gt=0)
    """... but not nearer than this to the table: a learned policy errs by a few millimetres."""
    hover_m: float = Field(default=0.10, gt=0)
    """Height above the grasp until the hand is over the cube."""
    funnel_slope: float = Field(default=4.0, gt=0)
    """Height gained for each metre of distance beyond the tolerance: far off the hand stays high."""
    lever_m: float = Field(default=0.03, gt=0)
    """A yaw error counts as this lever's distance."""
    aligned_m: float = Field(default=0.004, gt=0)
    """Distance (with the yaw's share) at which the hand goes all the way down."""
    closes_m: float = Field(default=0.005, gt=0)
    """Distance from the grasp at which the fingers close."""
    travel_m: float = Field(default=0.16, gt=0)
    """The hand crosses the table at least this high, clear of everything that stands on it."""
    carry_m: float = Field(default=0.21, gt=0)
    """Height of the grasp point when it comes over the walls of the place with a cube."""
    drop_m: float = Field(default=0.115, gt=0)
    """Height of the grasp point over the place's floor when the fingers open."""
    over_place_m: float = Field(default=0.03, gt=0)
    """This near to the place's middle the hand goes down."""


@dataclass(frozen=True, slots=True, eq=False)
class HandGoal:
    """Where the grasp point should be (base frame, m), by how much to turn from the present yaw, and the opening."""

    p_tcp_base: Float[np.ndarray, " 3"]
    turn_rad: float
    opening_m: float


class PickExpert:
    """A goal for every state, and always the same one for the same state."""

    def __init__(self, cell: WorkCellConfig, config: ExpertConfig, task: PickTask) -> None:
        self._config = config
        self._task = task
        self._open_m = cell.gripper.opening_max_m
        self._table_z = cell.table.height_m
        T_home = forward_kinematics(np.array(cell.home_qpos)) @ cell.T_tool_tcp
        self._p_home = T_home[:3, 3]
        self._yaw_home = float(np.arctan2(T_home[1, 0], T_home[0, 0]))

    def __call__(self, state: PickState) -> HandGoal:
        """Where the hand should go from `state`."""
        if state.is_holding:
            return self._bring(state)
        if self._is_closing(state):
            return HandGoal(state.p_tcp_base, 0.0, 0.0)
        if state.is_placed:
            return self._cross(state, self._over_place(self._config.carry_m), self._turn_home(state))
        if state.p_cube_base is None:
            return self._cross(state, self._p_home, self._turn_home(state))
        if state.gripper_opening_m < self._open_m - 0.01:
            return self._rise_open(state, state.p_cube_base)
        return self._take(state, state.p_cube_base)

    def _take(self, state: PickState, p_cube: Float[np.ndarray, " 3"]) -> HandGoal:
        """Over the cube and turned along it, down as far as the hand is aligned, and close when there."""
        config = self._config
        lowest = self._table_z + config.grasp_lowest_m
        p_grasp = np.array([*p_cube[:2], max(float(p_cube[2]) + config.grasp_above_centre_m, lowest)])
        off_m = float(np.hypot(*(p_cube - state.p_tcp_base)[:2])) + config.lever_m * abs(state.yaw_error_rad)
        height_m = min(config.hover_m, config.funnel_slope * max(off_m - config.aligned_m, 0.0))
        if off_m < config.aligned_m + config.closes_m and abs(p_grasp[2] - state.p_tcp_base[2]) < config.closes_m:
            return HandGoal(p_grasp, state.yaw_error_rad, 0.0)
        return self._cross(state, p_grasp + np.array([0.0, 0.0, height_m]), state.yaw_error_rad)

    def _is_closing(self, state: PickState) -> bool:
        """Fingers that are closing go on until they hold something or are closed."""
        return state.gripper_rate_m_s < -STILL_M_S and state.gripper_opening_m > HELD_OPENING_M[0]

    def _rise_open(self, state: PickState, p_cube: Float[np.ndarray, " 3"]) -> HandGoal:
        """Nothing was between the fingers: open them and back off, so that the camera sees the cube again."""
        height = max(float(state.p_tcp_base[2]), float(p_cube[2]) + self._config.hover_m)
        return HandGoal(np.array([*state.p_tcp_base[:2], height]), 0.0, self._open_m)

    def _bring(self, state: PickState) -> HandGoal:
        """Up, over the place, down between its walls, and open."""
        config = self._config
        goal = self._over_place(config.carry_m)
        off_m = float(np.hypot(*(goal - state.p_tcp_base)[:2]))
        if off_m > config.over_place_m:
            return self._cross(state, goal, self._turn_home(state), opening_m=0.0)
        drop = self._over_place(config.drop_m)
        is_there = state.p_tcp_base[2] < drop[2] + config.closes_m
        return HandGoal(drop, self._turn_home(state), self._open_m if is_there else 0.0)

    def _cross(
        self, state: PickState, goal: Float[np.ndarray, " 3"], turn_rad: float, opening_m: float | None = None
    ) -> HandGoal:
        """To `goal`, but sideways only as far as the height over the table allows."""
        config, here = self._config, state.p_tcp_base
        sideways_m = float(np.hypot(*(goal - here)[:2]))
        near_m = config.over_place_m
        needed_z = self._table_z + config.travel_m * np.clip(sideways_m / near_m - 1.0, 0.0, 1.0)
        share = float(np.clip(1.0 - (needed_z - here[2]) / 0.04, 0.0, 1.0))
        xy = here[:2] + share * (goal - here)[:2]
        z = max(float(goal[2]), float(needed_z))
        return HandGoal(np.array([*xy, z]), turn_rad, self._open_m if opening_m is None else opening_m)

    def _over_place(self, height_m: float) -> Float[np.ndarray, " 3"]:
        return self._task.place_p_base + np.array([0.0, 0.0, height_m])

    def _turn_home(self, state: PickState) -> float:
        return wrap_angle(self._yaw_home - state.hand_yaw_rad)


class DisturbanceConfig(Config):
    """Rates and sizes of the disturbances; rates are probabilities per second."""

    pulls_per_s: float = Field(default=0.5, ge=0)
    pull_m: float = Field(default=0.04, ge=0)
    """Standard deviation of a pull along each axis."""
    low_pull_m: float = Field(default=0.006, ge=0)
    """The same close to the table."""
    turn_rad: float = Field(default=0.25, ge=0)
    pull_s: tuple[float, float] = (0.15, 0.45)
    """Shortest and longest pull."""
    slips_per_s: float = Field(default=0.05, ge=0)
    """Rate at which the fingers do the opposite of what the expert wants."""
    slip_s: tuple[float, float] = (0.15, 0.5)


class ExpertPolicyConfig(Config):
    """The expert with its speeds and disturbances."""

    expert: ExpertConfig = ExpertConfig()
    motion: HandMotionConfig = HandMotionConfig()
    disturbance: DisturbanceConfig = DisturbanceConfig()
    policy_hz: float = Field(default=25.0, gt=0)
    """How often the expert reads the state; the control rate must be a multiple of it."""
    timeout_s: float = Field(default=25.0, gt=0)


class ExpertPolicy:
    """The expert as a `robot.interfaces.Policy`; without a seed there are no disturbances."""

    def __init__(self, cell: WorkCellConfig, config: ExpertPolicyConfig, *, seed: int | None) -> None:
        self._cell = cell
        self._config = config
        self._seed = seed
        self._reader = PickStateReader(cell)
        self._run: _Run | None = None
        self._task: PickTask | None = None
        self._progress: PickProgress | None = None

    def reset(self, task: PickTask) -> None:
        """Forget everything and begin `task` with the next observation."""
        self._task = task
        self._run = None
        self._reader.reset(task)
        self._progress = PickProgress(task, self._config.timeout_s)

    @property
    def status(self) -> PolicyStatus:
        """The status after the latest `act`."""
        return NOT_BEGUN if self._progress is None else self._progress.status

    def act(self, observation: Observation) -> ActionChunk:
        """The next set-point of the hand. Raises RuntimeError before the first `reset`."""
        if self._task is None or self._progress is None:
            raise RuntimeError("the expert has no task yet: call reset first")
        if self._run is None:
            self._run = _Run(self._cell, self._config, self._task, observation, self._seed)
        run = self._run
        run.resync_to_command(observation)
        if observation.stamp_s >= run.next_row_s - STAMP_TOLERANCE_S:
            run.next_row_s += 1.0 / self._config.policy_hz
            state = self._reader.read(observation, run.opening_m)
            self._progress.update(state, observation.stamp_s)
            run.decide(state, observation.stamp_s)
        periods = round((observation.stamp_s - run.moved_s) * self._cell.control_hz)
        run.moved_s = observation.stamp_s
        row = np.append(run.move_on(periods), run.opening_m)
        return ActionChunk(row[None], 1.0 / self._cell.control_hz, observation.stamp_s)


class _Run:
    """One task from its first observation on."""

    def __init__(
        self,
        cell: WorkCellConfig,
        config: ExpertPolicyConfig,
        task: PickTask,
        observation: Observation,
        seed: int | None,
    ) -> None:
        self._expert = PickExpert(cell, config.expert, task)
        self._motion = HandMotion(cell, config.motion, observation.joints.qpos)
        self._disturbance = None if seed is None else Disturbance(config.disturbance, config.policy_hz, seed)
        self._open_m = cell.gripper.opening_max_m
        self._goal = self._motion.p_tcp_base.copy()
        self._yaw_goal = self._motion.yaw_rad
        self.opening_m = observation.joints.gripper_opening_m
        self.next_row_s = observation.stamp_s
        self.moved_s = observation.stamp_s - 1.0 / cell.control_hz

    def resync_to_command(self, observation: Observation) -> None:
        """Begin anew where a gate or the driver has held the arm."""
        if observation.is_held and observation.command is not None:
            self._motion.restart(observation.command.qpos)

    def decide(self, state: PickState, stamp_s: float) -> None:
        """Take the expert's goal for the state, disturbed or not."""
        goal = self._expert(state)
        if self._disturbance is not None:
            goal = self._disturbance.disturb(goal, state, stamp_s, self._open_m)
        self._goal = goal.p_tcp_base
        self._yaw_goal = state.hand_yaw_rad + goal.turn_rad
        self._yaw_goal += 2 * np.pi * round((self._motion.yaw_rad - self._yaw_goal) / (2 * np.pi))
        self.opening_m = goal.opening_m

    def move_on(self, periods: int) -> Float[np.ndarray, " 6"]:
        """The hand so many control periods later, rad."""
        for _ in range(periods):
            self._motion.steer(self._goal, self._yaw_goal)
        return self._motion.qpos_target


@dataclass(slots=True)
class _Pull:
    offset_m: Float[np.ndarray, " 3"]
    turn_rad: float
    until_s: float


class Disturbance:
    """Samples pulls and slips for one episode from its seed."""

    def __init__(self, config: DisturbanceConfig, policy_hz: float, seed: int) -> None:
        self._config = config
        self._policy_hz = policy_hz
        self._rng = np.random.default_rng([seed, 0xD15])
        self._pull = _Pull(np.zeros(3), 0.0, -np.inf)
        self._slips_until_s = -np.inf

    def disturb(self, goal: HandGoal, state: PickState, stamp_s: float, open_m: float) -> HandGoal:
        """The goal with the present disturbance applied."""
        config, is_low = self._config, state.p_tcp_base[2] < LOW_M
        if stamp_s > self._pull.until_s and self._happens(config.pulls_per_s):
            self._pull = self._sample_pull(stamp_s)
        if stamp_s > self._slips_until_s and self._happens(config.slips_per_s):
            self._slips_until_s = stamp_s + self._rng.uniform(*config.slip_s)
        p_goal, turn_rad, opening_m = goal.p_tcp_base, goal.turn_rad, goal.opening_m
        if stamp_s <= self._pull.until_s:
            scale = config.low_pull_m / config.pull_m if is_low and config.pull_m > 0 else 1.0
            offset = scale * self._pull.offset_m
            offset[2] = max(offset[2], 0.0) if state.p_tcp_base[2] < 2 * LOW_M else offset[2]
            p_goal, turn_rad = p_goal + offset, turn_rad + scale * self._pull.turn_rad
        if stamp_s <= self._slips_until_s and not state.is_placed:
            opening_m = open_m if goal.opening_m < open_m / 2 else 0.0
        return HandGoal(p_goal, turn_rad, opening_m)

    def _happens(self, rate_per_s: float) -> bool:
        return bool(self._rng.random() < rate_per_s / self._policy_hz)

    def _sample_pull(self, stamp_s: float) -> _Pull:
        config = self._config
        offset = self._rng.normal(0.0, config.pull_m, 3)
        turn = float(self._rng.normal(0.0, config.turn_rad))
        return _Pull(offset, turn, stamp_s + float(self._rng.uniform(*config.pull_s)))
