"""The motions of a scripted skill (move, wait, close the fingers) as generators.

A script is a generator that yields the chunk for this tick and resumes with the next observation. So a skill reads
from top to bottom, although it is called 125 times a second.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeVar

import numpy as np
from jaxtyping import Float
from pydantic import Field

from handeye.robot.config import WorkCellConfig
from handeye.robot.kinematics.forward import forward_kinematics
from handeye.robot.kinematics.limits import joint_limits_from_config
from handeye.robot.motion.set_points import interpolate_chunk
from handeye.robot.motion.trajectory import (
    JointTrajectory,
    ToolLimits,
    plan_brake,
    plan_joint_motion,
    plan_linear_motion,
)
from handeye.robot.types import ActionChunk, Frame, JointState, Observation
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


class Motions:
    """The arm as a skill sees it: its present target, and scripts that move it.

    `update` must be given every observation before the script goes on. Motions join without a jump: each starts from
    the set-point and its velocity, not from the measurement, which lags behind. Where a gate has held
    the arm, a motion is planned anew from there.
    """

    def __init__(self, cell: WorkCellConfig, config: MotionConfig, observation: Observation) -> None:
        self._config = config
        self._dt_s = 1.0 / cell.control_hz
        self._tool_limits = _tool_limits(config)
        self._limits = joint_limits_from_config(cell.joint_limits).slowed(config.speed_fraction)
        self._qvel_target = np.zeros(6)
        self._was_held = False
        self._latest_view: tuple[Frame, JointState] | None = None
        self.observation = observation
        self.qpos_target = observation.joints.qpos.copy()
        self.opening_target_m = observation.joints.gripper_opening_m

    def update(self, observation: Observation) -> None:
        """Take in the newest observation."""
        self.observation = observation
        if observation.frame is not None:
            self._latest_view = (observation.frame, observation.joints)
        held = observation.command_held_at(self.qpos_target)
        if held is not None:
            self.qpos_target, self._qvel_target = held.copy(), np.zeros(6)
            self._was_held = True

    @property
    def joints(self) -> JointState:
        """The newest measured joint state."""
        return self.observation.joints

    @property
    def latest_view(self) -> tuple[Frame, JointState] | None:
        """The newest frame and the joints that came with it; None before the first frame."""
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
            return plan_joint_motion(self.qpos_target, self._qvel_target, qpos_goal, self._limits, self._dt_s)

        yield from self._carry_out(plan, stop)

    def move_straight(self, T_base_tool: Float[np.ndarray, "4 4"]) -> Script[None]:
        """The flange in a straight line to `T_base_tool`; the fingers stay. Raises MotionPlanningError."""
        yield from self._come_to_rest()

        def plan() -> JointTrajectory:
            return plan_linear_motion(
                forward_kinematics(self.qpos_target),
                T_base_tool,
                start_qpos=self.qpos_target,
                limits=self._limits,
                tool_limits=self._tool_limits,
                dt_s=self._dt_s,
            )

        yield from self._carry_out(plan, None)

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

    def _carry_out(self, plan: Callable[[], JointTrajectory], stop: Stop | None) -> Script[None]:
        """Plan and follow, and plan again from where the arm was held as long as it is held on the way."""
        self._was_held = True
        while self._was_held:
            self._was_held = False
            yield from self._follow(plan(), stop)

    def _follow(self, trajectory: JointTrajectory, stop: Stop | None) -> Script[None]:
        """Yield the whole motion each tick until it is done and the arm has settled, it was held, or `stop`."""
        chunk = trajectory.action_chunk(self.opening_target_m, self.now_s)
        until_s = self.now_s + trajectory.duration_s + self._config.settle_s
        while self.now_s < until_s:
            yield chunk
            if self._was_held:
                return
            set_point = interpolate_chunk(chunk, self.now_s)
            self.qpos_target, self._qvel_target = set_point.qpos_target, set_point.qvel_target
            if stop is not None and stop(self.observation):
                return
            if self.now_s - chunk.stamp_s >= trajectory.duration_s and self._has_settled():
                return

    def _has_settled(self) -> bool:
        near = np.abs(self.joints.qpos - self.qpos_target).max() < self._config.settle_rad
        return bool(near and np.abs(self.joints.qvel).max() < self._config.settle_rad_s)

    def _come_to_rest(self) -> Script[None]:
        """Brake a motion that was broken off."""
        if np.abs(self._qvel_target).max() > STILL_RAD_S:
            yield from self._follow(plan_brake(self.qpos_target, self._qvel_target, self._limits, self._dt_s), None)


def _tool_limits(config: MotionConfig) -> ToolLimits:
    return ToolLimits(
        speed_m_s=config.straight_speed_m_s,
        acceleration_m_s2=config.straight_acceleration_m_s2,
        jerk_m_s3=config.straight_jerk_m_s3,
        turn_speed_rad_s=config.turn_speed_rad_s,
        turn_acceleration_rad_s2=config.turn_acceleration_rad_s2,
        turn_jerk_rad_s3=config.turn_jerk_rad_s3,
    )
