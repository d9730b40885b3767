"""A network that needs no training: it predicts what the expert would do, for tests of how chunks are acted out."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from handeye.robot.config import WorkCellConfig
from handeye.robot.interfaces import PickTask
from handeye.robot.kinematics.forward import forward_kinematics
from handeye.robot.kinematics.limits import joint_limits_from_config
from handeye.robot.kinematics.ur10e_ik import choose_solution, inverse_kinematics
from handeye.robot.policies.expert import ExpertConfig, PickExpert
from handeye.robot.policies.grasp import tool_pose_down
from handeye.robot.policies.pick_state import ACTION_NAMES, STATE_NAMES, PickState
from handeye.robot.policies.target_selection import is_in_place

SPEED_M_S, TURN_RAD_S = 0.4, 1.0
NEAR = 0.25
"""Part of the way left that is gone in a row, when it is near."""


class ExpertNetwork:
    """Fills `ChunkPredictor`: goes towards the expert's goal for the state, slower and slower."""

    fps = 25
    chunk_size = 8
    state_names = STATE_NAMES
    environment_names = ()
    action_names = ACTION_NAMES
    image_keys = ()

    def __init__(self, cell: WorkCellConfig, task: PickTask) -> None:
        self._cell, self._task = cell, task
        self._expert = PickExpert(cell, ExpertConfig(), task)
        self._limits = joint_limits_from_config(cell.joint_limits)
        self.calls = 0

    def predict(
        self, state: np.ndarray, images: Mapping[str, np.ndarray], environment: np.ndarray | None = None
    ) -> np.ndarray:
        assert not images
        assert environment is None
        self.calls += 1
        now = self._state(np.asarray(state, np.float64))
        goal = self._expert(now)
        p_tcp, yaw, qpos, rows = now.p_tcp_base, now.hand_yaw_rad, now.qpos, []
        yaw_goal = yaw + goal.turn_rad
        for _ in range(self.chunk_size):
            step = NEAR * (goal.p_tcp_base - p_tcp)
            p_tcp = p_tcp + step * min(1.0, SPEED_M_S / self.fps / max(float(np.linalg.norm(step)), 1e-9))
            yaw += float(np.clip(NEAR * (yaw_goal - yaw), -TURN_RAD_S / self.fps, TURN_RAD_S / self.fps))
            solutions = inverse_kinematics(tool_pose_down(p_tcp, yaw, self._cell), q6_hint=float(qpos[5]))
            qpos = choose_solution(solutions, qpos, self._limits)
            rows.append(np.append(qpos, goal.opening_m))
        return np.array(rows)

    def _state(self, values: np.ndarray) -> PickState:
        """What the vector was made of."""
        of = dict(zip(STATE_NAMES, values.tolist(), strict=True))
        T_base_tool = forward_kinematics(values[:6])
        cube = np.array([of["cube_x_base_m"], of["cube_y_base_m"], of["cube_z_base_m"]])
        is_known, is_holding = bool(of["cube_is_known"]), bool(of["is_holding"])
        is_placed = is_known and not is_holding and is_in_place(self._task, cube)
        return PickState(
            qpos=values[:6],
            p_tcp_base=(T_base_tool @ self._cell.T_tool_tcp)[:3, 3],
            hand_yaw_rad=float(np.arctan2(T_base_tool[1, 0], T_base_tool[0, 0])),
            gripper_opening_m=of["gripper_opening_m"],
            gripper_rate_m_s=of["gripper_rate_m_s"],
            is_holding=is_holding,
            p_cube_base=cube if is_known else None,
            yaw_error_rad=of["cube_yaw_error_rad"],
            cube_age_s=0.0,
            is_placed=is_placed,
            is_verified=is_placed,
        )
