"""A work cell without physics, for tests of policies: an arm that is where it was commanded, and one cube.

Targets are followed within the arm's limits, as the control loop does, but no gate looks at them.

A slower control rate than the real one keeps it quick, and everything that can go wrong can be made to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from handeye.robot.config import WorkCellConfig
from handeye.robot.interfaces import Policy, PolicyStatus
from handeye.robot.kinematics.forward import forward_kinematics
from handeye.robot.kinematics.limits import joint_limits_from_config
from handeye.robot.motion.jerk_limited import Bounds
from handeye.robot.motion.set_points import follow_target, interpolate_chunk, stop_path
from handeye.robot.types import CommandState, JointState, Observation, Track, TrackStatus

CELL = WorkCellConfig(control_hz=50.0)
EDGE_M = 0.045
DT_S = 1.0 / CELL.control_hz
LIMITS = joint_limits_from_config(CELL.joint_limits)
BOUNDS = Bounds(LIMITS.qvel_max, 1.5 * LIMITS.qacc_max, 4.0 * LIMITS.qjerk_max)
TICKS_PER_FRAME = round(CELL.control_hz / CELL.camera.rate_hz)


@dataclass
class PaperWorld:
    """`run` a policy in it. The cube is tracked at the camera's rate as long as `is_seen` says so."""

    p_cube: np.ndarray
    yaw_rad: float = 0.3
    class_name: str = "red_cube"
    is_seen: Callable[[PaperWorld], bool] = lambda world: True
    each_tick: Callable[[PaperWorld], None] = lambda world: None
    grip_fails: int = 0
    """The fingers close this many times without holding."""
    qpos: np.ndarray = field(default_factory=lambda: np.array(CELL.home_qpos))
    opening_m: float = 0.085
    opening_target_m: float = 0.085
    is_held: bool = False
    tick: int = 0
    hits: int = 0
    holds_until_s: float = -1.0
    """Set-points are refused until then, as by a gate: the arm comes to rest."""
    asked: list[np.ndarray] = field(default_factory=list)
    sent: list[np.ndarray] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._command = CommandState.at_rest(self.qpos)
        self._is_held = False

    @property
    def now_s(self) -> float:
        return self.tick * DT_S

    @property
    def p_tcp(self) -> np.ndarray:
        return (forward_kinematics(self.qpos) @ CELL.T_tool_tcp)[:3, 3]

    def observe(self) -> Observation:
        joints = JointState(self.qpos.copy(), np.zeros(6), self.opening_m, self.now_s)
        if self.tick % TICKS_PER_FRAME == 0 and self.is_seen(self):
            self.hits += 1
        tracks = () if self.hits == 0 else (self.track(),)
        return Observation(joints, None, tracks, self.now_s, self._command if self.tick else None, self._is_held)

    def track(self) -> Track:
        return Track(
            track_id=1,
            class_id=0,
            class_name=self.class_name,
            p_base=self.p_cube.copy(),
            v_base=np.zeros(3),
            covariance_base=1e-6 * np.eye(3),
            yaw_rad=self.yaw_rad,
            size_m=np.full(3, EDGE_M),
            score=0.9,
            status=TrackStatus.CONFIRMED,
            last_seen_s=self.now_s,
            num_hits=self.hits,
        )

    def run(self, policy: Policy, limit_s: float) -> PolicyStatus:
        """Let the policy act until it is done or `limit_s` are over."""
        while not policy.status.is_over and self.now_s < limit_s:
            self.step(policy)
        return policy.status

    def step(self, policy: Policy) -> None:
        self.each_tick(self)
        chunk = policy.act(self.observe())
        set_point = interpolate_chunk(chunk, self.now_s)
        self.asked.append(set_point.qpos_target)
        if not self.stages or self.stages[-1] != policy.status.stage:
            self.stages.append(policy.status.stage)
        self._is_held = self.now_s < self.holds_until_s
        if self._is_held:
            self._command = self._command.then(stop_path(self._command, BOUNDS, DT_S)[0], DT_S)
        else:
            before = self.asked[-2] if len(self.asked) > 1 else set_point.qpos_target
            self._command = follow_target(self._command, set_point.qpos_target, before, BOUNDS, DT_S)
        self.qpos = self._command.qpos.copy()
        self.sent.append(self.qpos)
        self._move_fingers(set_point.gripper_target_m)
        self.tick += 1

    def _move_fingers(self, target_m: float) -> None:
        if target_m > self.opening_target_m and self.is_held:
            self.is_held = False
            self.p_cube = np.array([*self.p_cube[:2], EDGE_M / 2])
        self.opening_target_m = target_m
        step_m = CELL.gripper.speed_m_s * DT_S
        self.opening_m += float(np.clip(target_m - self.opening_m, -step_m, step_m))
        if target_m < self.opening_m <= EDGE_M and not self.is_held and self._cube_is_between():
            if self.grip_fails > 0:
                self.grip_fails -= 1
                self.p_cube = self.p_cube + np.array([0.02, 0.01, 0.0])
            else:
                self.is_held = True
        if self.is_held:
            self.opening_m = max(self.opening_m, EDGE_M)
            self.p_cube = self.p_tcp

    def _cube_is_between(self) -> bool:
        return bool(np.linalg.norm(self.p_tcp - self.p_cube) < 0.012)
