"""Steer a hand that points straight down to a goal that may change at any time, within speed and acceleration limits.

Position and yaw each follow v = min(v_max, sqrt(a d), k d) in the distance d that is left, and v changes by at most
a dt: far off this is a trapezoid, close by an exponential approach, and nothing of it depends on when the goal came.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from pydantic import Field

from handeye.robot.config import WorkCellConfig
from handeye.robot.errors import KinematicsError
from handeye.robot.kinematics.forward import forward_kinematics
from handeye.robot.kinematics.limits import joint_limits_from_config
from handeye.robot.kinematics.ur10e_ik import choose_solution, inverse_kinematics
from handeye.robot.policies.grasp import tool_pose_down
from handeye.vision.config import Config


class HandMotionConfig(Config):
    """How fast the hand may go; chosen so that no joint of the UR10e comes near its own limits over the table."""

    speed_m_s: float = Field(default=0.70, gt=0)
    acceleration_m_s2: float = Field(default=2.2, gt=0)
    turn_speed_rad_s: float = Field(default=1.3, gt=0)
    turn_acceleration_rad_s2: float = Field(default=5.0, gt=0)
    gain_per_s: float = Field(default=8.0, gt=0)
    """Speed per distance left in the exponential approach, 1/s."""


class HandMotion:
    """The set-point of the hand: `steer` moves it on by one control period and gives its joints."""

    def __init__(self, cell: WorkCellConfig, config: HandMotionConfig, qpos: Float[np.ndarray, " 6"]) -> None:
        self._cell = cell
        self._config = config
        self._dt_s = 1.0 / cell.control_hz
        self._limits = joint_limits_from_config(cell.joint_limits)
        self.restart(qpos)

    def restart(self, qpos: Float[np.ndarray, " 6"]) -> None:
        """Take `qpos` (rad) as the set-point, at rest."""
        T_base_tcp = forward_kinematics(qpos) @ self._cell.T_tool_tcp
        self.qpos_target = qpos.copy()
        self.yaw_rad = float(np.arctan2(T_base_tcp[1, 0], T_base_tcp[0, 0]))
        self.p_tcp_base = T_base_tcp[:3, 3].copy()
        self._velocity = np.zeros(3)
        self._turn_rate = np.zeros(1)

    def steer(self, p_goal: Float[np.ndarray, " 3"], yaw_goal_rad: float) -> Float[np.ndarray, " 6"]:
        """One control period towards the goal. Where no joints reach the next pose the hand stays where it is."""
        config = self._config
        self._velocity = self._next_velocity(
            self._velocity, p_goal - self.p_tcp_base, config.speed_m_s, config.acceleration_m_s2
        )
        turn = np.array([yaw_goal_rad - self.yaw_rad])
        self._turn_rate = self._next_velocity(
            self._turn_rate, turn, config.turn_speed_rad_s, config.turn_acceleration_rad_s2
        )
        p_next = self.p_tcp_base + self._dt_s * self._velocity
        yaw_next = self.yaw_rad + self._dt_s * float(self._turn_rate[0])
        try:
            solutions = inverse_kinematics(
                tool_pose_down(p_next, yaw_next, self._cell), q6_hint=float(self.qpos_target[5])
            )
            self.qpos_target = choose_solution(solutions, self.qpos_target, self._limits)
        except KinematicsError:
            self._velocity, self._turn_rate = np.zeros(3), np.zeros(1)
            return self.qpos_target
        self.p_tcp_base, self.yaw_rad = p_next, yaw_next
        return self.qpos_target

    def _next_velocity(
        self, velocity: Float[np.ndarray, " D"], offset: Float[np.ndarray, " D"], speed: float, acceleration: float
    ) -> Float[np.ndarray, " D"]:
        distance = float(np.linalg.norm(offset))
        speed_target = min(speed, np.sqrt(acceleration * distance), self._config.gain_per_s * distance)
        change = (offset * (speed_target / distance) if distance > 0.0 else np.zeros_like(offset)) - velocity
        size, most = float(np.linalg.norm(change)), acceleration * self._dt_s
        return velocity + (change if size <= most else change * (most / size))
