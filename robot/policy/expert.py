"""The teacher of learned policies: a feedback law from the state of a pick to where the hand should go next.

Unlike the scripted skill it remembers nothing: what it wants follows from the present state alone, it never pauses to
look, and from wherever it was pushed it goes on. That is what makes its demonstrations learnable: one state, one
action. The hand points straight down, so four numbers (grasp point and yaw) say where it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from pydantic import Field

from robot.config import WorkCellConfig
from robot.kinematics.forward import forward_kinematics
from robot.policies.pick_state import HELD_OPENING_M, STILL_M_S, PickState
from robot.interfaces import PickTask
from vision.config import Config


class ExpertConfig(Config):
    """The numbers of the feedback law, with the reason for each."""

    grasp_above_centre_m: float = Field(default=0.003, ge=0)
    """The grasp point goes this far above the cube's middle ..."""
    grasp_lowest_m: float = Field(default=0.025, gt=0)
    """... but not nearer than this to the table: a learnt copy must be free to err by a few millimetres."""
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
    """The hand crosses the table at least this high: nothing on it is taller than what hangs below the hand there."""
    carry_m: float = Field(default=0.21, gt=0)
    """Height of the grasp point when it comes over the walls of the place with a cube."""
    drop_m: float = Field(default=0.115, gt=0)
    """Height of the grasp point over the place's floor when the fingers open."""
    over_place_m: float = Field(default=0.03, gt=0)
    """So near to the place's middle the hand goes down."""


@dataclass(frozen=True, slots=True, eq=False)
class HandGoal:
    """Where the grasp point should be (base frame, m), by how much to turn from the present yaw, and the opening."""

    p_tcp_base: Float[np.ndarray, " 3"]
    turn_rad: float
    opening_m: float


class PickExpert:
    """Wants something in every state; calling it twice with one state gives the same goal."""

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
        """Over the cube and turned along it, down as far as that is true, and close when there."""
        config = self._config
        lowest = self._table_z + config.grasp_lowest_m
        p_grasp = np.array([*p_cube[:2], max(float(p_cube[2]) + config.grasp_above_centre_m, lowest)])
        off_m = float(np.hypot(*(p_cube - state.p_tcp_base)[:2])) + config.lever_m * abs(state.yaw_error_rad)
        height_m = min(config.hover_m, config.funnel_slope * max(off_m - config.aligned_m, 0.0))
        if off_m < config.aligned_m + config.closes_m and abs(p_grasp[2] - state.p_tcp_base[2]) < config.closes_m:
            return HandGoal(p_grasp, state.yaw_error_rad, 0.0)
        return self._cross(state, p_grasp + np.array([0.0, 0.0, height_m]), state.yaw_error_rad)

    def _is_closing(self, state: PickState) -> bool:
        """Fingers on their way together go on until something or nothing is between them."""
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
        error = self._yaw_home - state.hand_yaw_rad
        return float((error + np.pi) % (2 * np.pi) - np.pi)
