"""The motions of a scripted skill (move, wait, close the fingers) as generators.

A script is a generator that yields the chunk for this tick and resumes with the next observation. So a skill reads
from top to bottom, although it is called 125 times a second.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float
from pydantic import Field

from handeye.robot.config import WorkCellConfig
from handeye.robot.kinematics.forward import forward_kinematics
from handeye.robot.kinematics.limits import joint_limits_from_config
from handeye.robot.motion.set_points import snap_to_row
from handeye.robot.motion.trajectory import (
    JointTrajectory,
    ToolLimits,
    plan_brake,
    plan_joint_motion,
    plan_linear_motion,
)
from handeye.robot.types import ActionChunk, CommandState, Frame, JointState, Observation
from handeye.vision.config import Config


class MotionConfig(Config):
    """Speeds, tolerances and waiting times."""

    speed_fraction: float = Field(default=1.0, gt=0, le=1)
    """Motions take 1 / speed_fraction of the time that the work cell's joint limits allow."""
    straight_speed_m_s: float = Field(default=0.5, gt=0)
    straight_acceleration_m_s2: float = Field(default=2.5, gt=0)
    straight_jerk_m_s3: float = Field(default=25.0, gt=0)
    turn_speed_rad_s: float = Field(default=1.5, gt=0)
    turn_acceleration_rad_s2: float = Field(default=6.0, gt=0)
    turn_jerk_rad_s3: float = Field(default=60.0, gt=0)
    settle_rad: float = Field(default=0.004, gt=0)
    """A motion has ended when every joint is this near to its target ..."""
    settle_rad_s: float = Field(default=0.03, gt=0)
    """... and this slow ..."""
    settle_s: float = Field(default=0.4, gt=0)
    """... or when this much time has passed since the trajectory's end."""
    gripper_settle_s: float = Field(default=0.06, gt=0)
    """The fingers have stopped when their distance has not changed for this long."""
    gripper_wait_s: float = Field(default=1.2, gt=0)
    """Longest wait for the fingers."""


R = TypeVar("R")
Script = Generator[ActionChunk, None, R]
"""Yields one chunk a tick; its return value is the result of the script."""

Stop = Callable[[Observation], bool]
"""Whether to break off, by the newest observation."""

STILL_RAD_S = 1e-6
FINGERS_STILL_M = 0.0005


class _Point(NamedTuple):
    """Where the set-point is in this tick: rad, rad/s and rad/s^2."""

    qpos: Float[np.ndarray, " 6"]
    qvel: Float[np.ndarray, " 6"]
    qacc: Float[np.ndarray, " 6"]


class Motions:
    """The arm as a skill sees it: its present target, and scripts that move it.

    `update` must be given every observation before the script goes on. Motions join without a jump in velocity or
    acceleration: each starts from the set-point, not from the measurement, which lags behind. Where a gate or the
    driver has held the arm, a motion waits until it is let go and is planned anew from there.
    """

    def __init__(self, cell: WorkCellConfig, config: MotionConfig, observation: Observation) -> None:
        self._config = config
        self._dt_s = 1.0 / cell.control_hz
        self._tool_limits = _tool_limits(config)
        self._limits = joint_limits_from_config(cell.joint_limits).slowed(config.speed_fraction)
        self._latest_view: tuple[Frame, Float[np.ndarray, "4 4"]] | None = None
        self._point = _Point(observation.joints.qpos.copy(), np.zeros(6), np.zeros(6))
        self.observation = observation
        self.opening_target_m = observation.joints.gripper_opening_m

    def update(self, observation: Observation) -> None:
        """Take in the newest observation."""
        self.observation = observation
        if observation.frame is not None and observation.T_base_camera is not None:
            self._latest_view = (observation.frame, observation.T_base_camera)
        if observation.is_held and observation.command is not None:
            self._point = _one_period_on(observation.command, self._dt_s)

    @property
    def qpos_target(self) -> Float[np.ndarray, " 6"]:
        """The set-point of this tick, rad."""
        return self._point.qpos

    @property
    def joints(self) -> JointState:
        """The newest measured joint state."""
        return self.observation.joints

    @property
    def latest_view(self) -> tuple[Frame, Float[np.ndarray, "4 4"]] | None:
        """The newest frame and the camera's pose at its exposure, T_base_camera; None before the first frame."""
        return self._latest_view

    @property
    def now_s(self) -> float:
        """Stamp of the newest observation."""
        return self.observation.stamp_s

    def hold_chunk(self) -> ActionChunk:
        """Stay at the set-point."""
        row = np.append(self.qpos_target, self.opening_target_m)
        return ActionChunk(row[None, :], self._dt_s, self.now_s)

    def move(self, qpos_goal: Float[np.ndarray, " 6"], opening_m: float, stop: Stop | None = None) -> Script[None]:
        """All joints together to `qpos_goal`, and the fingers to `opening_m` meanwhile.

        At `stop` it breaks off while still moving. Raises MotionPlanningError.
        """
        self.opening_target_m = opening_m

        def plan() -> JointTrajectory:
            qpos, qvel, qacc = self._point
            return plan_joint_motion(qpos, qvel, qpos_goal, self._limits, self._dt_s, qacc)

        while not (yield from self._follow(plan(), stop)):
            yield from self._wait_while_held()

    def move_straight(self, T_base_tool: Float[np.ndarray, "4 4"]) -> Script[None]:
        """The flange in a straight line to `T_base_tool`; the fingers stay. Raises MotionPlanningError."""

        def plan() -> JointTrajectory:
            return plan_linear_motion(
                forward_kinematics(self.qpos_target),
                T_base_tool,
                start_qpos=self.qpos_target,
                limits=self._limits,
                tool_limits=self._tool_limits,
                dt_s=self._dt_s,
            )

        yield from self._come_to_rest()
        while not (yield from self._follow(plan(), None)):
            yield from self._wait_while_held()
            yield from self._come_to_rest()

    def move_fingers(self, opening_m: float) -> Script[None]:
        """Set the fingers' distance and wait until they stand still: there, or held up by something between them."""
        yield from self._come_to_rest()
        self.opening_target_m = opening_m
        until_s = self.now_s + self._config.gripper_wait_s
        resting_m, resting_since_s = self.joints.gripper_opening_m, self.now_s
        while self.now_s < until_s and self.now_s - resting_since_s < self._config.gripper_settle_s:
            yield self.hold_chunk()
            if abs(self.joints.gripper_opening_m - resting_m) > FINGERS_STILL_M:
                resting_m, resting_since_s = self.joints.gripper_opening_m, self.now_s

    def wait(self, duration_s: float, stop: Stop) -> Script[None]:
        """Hold still until `stop`, at most for `duration_s`."""
        yield from self._come_to_rest()
        until_s = self.now_s + duration_s
        while self.now_s < until_s and not stop(self.observation):
            yield self.hold_chunk()

    def _follow(self, trajectory: JointTrajectory, stop: Stop | None) -> Script[bool]:
        """Yield the whole motion each tick until it is done and the arm has settled, or `stop`; False: it was held."""
        chunk = trajectory.action_chunk(self.opening_target_m, self.now_s)
        until_s = self.now_s + trajectory.duration_s + self._config.settle_s
        while self.now_s < until_s:
            yield chunk
            if self.observation.is_held:
                return False
            self._point = _point_at(trajectory, self.now_s - chunk.stamp_s)
            if stop is not None and stop(self.observation):
                return True
            if self.now_s - chunk.stamp_s >= trajectory.duration_s and self._has_settled():
                return True
        return True

    def _wait_while_held(self) -> Script[None]:
        while self.observation.is_held:
            yield self.hold_chunk()

    def _has_settled(self) -> bool:
        near = np.abs(self.joints.qpos - self.qpos_target).max() < self._config.settle_rad
        return bool(near and np.abs(self.joints.qvel).max() < self._config.settle_rad_s)

    def _come_to_rest(self) -> Script[None]:
        """Brake a motion that was broken off."""
        while np.abs(self._point.qvel).max() > STILL_RAD_S:
            qpos, qvel, qacc = self._point
            if not (yield from self._follow(plan_brake(qpos, qvel, self._limits, self._dt_s, qacc), None)):
                yield from self._wait_while_held()


def _point_at(trajectory: JointTrajectory, since_s: float) -> _Point:
    """A planned motion some time after its start: from the row before by its velocity and acceleration."""
    position = min(snap_to_row(since_s / trajectory.dt_s), len(trajectory.qpos) - 1.0)
    row = int(position)
    rest_s = (position - row) * trajectory.dt_s
    qpos, qvel, qacc = trajectory.qpos[row], trajectory.qvel[row], trajectory.qacc[row]
    return _Point(qpos + rest_s * qvel + 0.5 * rest_s**2 * qacc, qvel + rest_s * qacc, qacc)


def _one_period_on(command: CommandState, dt_s: float) -> _Point:
    """Where what was sent last leads: its differences are the rates half a period ago."""
    qvel = command.qvel + 0.5 * dt_s * command.qacc
    return _Point(command.qpos + dt_s * qvel + 0.5 * dt_s**2 * command.qacc, qvel + dt_s * command.qacc, command.qacc)


def _tool_limits(config: MotionConfig) -> ToolLimits:
    return ToolLimits(
        speed_m_s=config.straight_speed_m_s,
        acceleration_m_s2=config.straight_acceleration_m_s2,
        jerk_m_s3=config.straight_jerk_m_s3,
        turn_speed_rad_s=config.turn_speed_rad_s,
        turn_acceleration_rad_s2=config.turn_acceleration_rad_s2,
        turn_jerk_rad_s3=config.turn_jerk_rad_s3,
    )
