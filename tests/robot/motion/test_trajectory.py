"""Planned motions: continuous from a moving start, within every limit, straight where promised, else refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from handeye.robot.config import WorkCellConfig
from handeye.robot.errors import MotionPlanningError, SingularityError, TransformError, UnreachableError
from handeye.robot.kinematics.forward import forward_kinematics, geometric_jacobian
from handeye.robot.kinematics.limits import UR10E_LIMITS, JointLimits
from handeye.robot.motion.trajectory import (
    JointTrajectory,
    ToolLimits,
    plan_brake,
    plan_joint_motion,
    plan_linear_motion,
)
from handeye.robot.transforms import axis_angle_to_rotation, make_transform, rotation_angle
from handeye.vision.errors import ConfigError

DT_S = 0.008
HOME = np.array(WorkCellConfig().home_qpos)
T_HOME = forward_kinematics(HOME)
GENTLE = ToolLimits(0.25, 1.0, 10.0, 1.0, 4.0, 40.0)
HASTY = ToolLimits(10.0, 100.0, 1000.0, 100.0, 1000.0, 10000.0)

near_home = arrays(np.float64, 6, elements=st.floats(-1.0, 1.0)).map(lambda offset: HOME + offset)
slow = arrays(np.float64, 6, elements=st.floats(-0.8, 0.8))


def moved(offset_m: tuple[float, float, float], axis: tuple[float, float, float], angle_rad: float) -> np.ndarray:
    turn = axis_angle_to_rotation(np.array(axis), angle_rad)
    return make_transform(turn @ T_HOME[:3, :3], T_HOME[:3, 3] + np.array(offset_m))


def assert_within_limits(trajectory: JointTrajectory, limits: JointLimits) -> None:
    """At the rows, and in what the rows as set-points ask of the joints: first to third differences."""
    rounding = 1 + 1e-6
    assert np.all(limits.contain(trajectory.qpos))
    assert np.all(np.abs(trajectory.qvel) <= limits.qvel_max * rounding)
    assert np.all(np.abs(trajectory.qacc) <= limits.qacc_max * rounding)
    for order, bound in ((1, limits.qvel_max), (2, limits.qacc_max), (3, limits.qjerk_max)):
        difference = np.diff(trajectory.qpos, order, axis=0) / trajectory.dt_s**order
        assert np.all(np.abs(difference) <= bound * 1.02 + 1e-6)


@settings(max_examples=60)
@given(near_home, slow, near_home)
def test_joint_motions_are_continuous_and_within_limits(start: np.ndarray, qvel: np.ndarray, goal: np.ndarray) -> None:
    trajectory = plan_joint_motion(start, qvel, goal, UR10E_LIMITS, DT_S)
    np.testing.assert_array_equal(trajectory.qpos[-1], goal)
    np.testing.assert_array_equal(trajectory.qvel[-1], 0.0)
    if len(trajectory.qpos) > 1:
        np.testing.assert_allclose(trajectory.qpos[0], start, atol=1e-12)
        np.testing.assert_allclose(trajectory.qvel[0], qvel, atol=1e-12)
    assert_within_limits(trajectory, UR10E_LIMITS)
    assert trajectory.duration_s == pytest.approx((len(trajectory.qpos) - 1) * DT_S)


def test_replanning_on_the_way_never_jumps() -> None:
    """Every 20 rows a new goal: the joined set-points keep to the limits as if they were one motion."""
    rng, qpos, qvel, rows = np.random.default_rng(3), HOME, np.zeros(6), [HOME]
    for _ in range(10):
        trajectory = plan_joint_motion(qpos, qvel, HOME + rng.uniform(-1, 1, 6), UR10E_LIMITS, DT_S)
        taken = min(20, len(trajectory.qpos) - 1)
        rows.extend(trajectory.qpos[1 : taken + 1])
        qpos, qvel = trajectory.qpos[taken], trajectory.qvel[taken]
    velocity = np.diff(np.array(rows), axis=0) / DT_S
    assert np.all(np.abs(velocity) <= UR10E_LIMITS.qvel_max * 1.001)
    # The planner starts each motion without the old acceleration, so acceleration steps by at most twice its limit.
    assert np.all(np.abs(np.diff(velocity, axis=0)) <= 1.001 * UR10E_LIMITS.qacc_max * DT_S)


def test_a_motion_becomes_a_chunk() -> None:
    trajectory = plan_joint_motion(HOME, np.zeros(6), HOME + 0.2, UR10E_LIMITS, DT_S)
    chunk = trajectory.action_chunk(0.04, 12.5)
    np.testing.assert_array_equal(chunk.qpos_target, trajectory.qpos)
    np.testing.assert_array_equal(chunk.gripper_target_m, 0.04)
    assert (chunk.dt_s, chunk.stamp_s) == (DT_S, 12.5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(bad: float) -> None:
    wrong = np.array([0.0, bad, 0.0, 0.0, 0.0, 0.0])
    with pytest.raises(MotionPlanningError, match="start_qpos"):
        plan_joint_motion(wrong, np.zeros(6), HOME, UR10E_LIMITS, DT_S)
    with pytest.raises(MotionPlanningError, match="start_qvel"):
        plan_joint_motion(HOME, wrong, HOME, UR10E_LIMITS, DT_S)
    with pytest.raises(MotionPlanningError, match="goal_qpos"):
        plan_joint_motion(HOME, np.zeros(6), wrong, UR10E_LIMITS, DT_S)


def test_places_outside_the_limits_are_refused_by_name() -> None:
    outside = HOME.copy()
    outside[2] = 3.5
    with pytest.raises(MotionPlanningError, match="goal_qpos: joint 3 .* 3.5"):
        plan_joint_motion(HOME, np.zeros(6), outside, UR10E_LIMITS, DT_S)
    with pytest.raises(MotionPlanningError, match="start_qpos: joint 3"):
        plan_joint_motion(outside, np.zeros(6), HOME, UR10E_LIMITS, DT_S)


def test_a_start_too_fast_to_stop_before_the_limit_is_refused() -> None:
    start, qvel = HOME.copy(), np.zeros(6)
    start[2], qvel[2] = np.pi - 0.01, 2.0
    with pytest.raises(MotionPlanningError, match="motion between start and goal: joint 3"):
        plan_joint_motion(start, qvel, HOME, UR10E_LIMITS, DT_S)


@pytest.mark.parametrize("dt_s", [0.0, -0.008, np.nan, np.inf])
def test_a_period_must_be_above_zero(dt_s: float) -> None:
    with pytest.raises(ConfigError, match="dt_s"):
        plan_joint_motion(HOME, np.zeros(6), HOME, UR10E_LIMITS, dt_s)
    with pytest.raises(ConfigError, match="dt_s"):
        plan_brake(HOME, np.zeros(6), UR10E_LIMITS, dt_s)


@given(near_home, slow)
def test_braking_is_continuous_and_within_limits(start: np.ndarray, qvel: np.ndarray) -> None:
    brake = plan_brake(start, qvel, UR10E_LIMITS, DT_S)
    np.testing.assert_array_equal(brake.qpos[0], start)
    np.testing.assert_array_equal(brake.qvel[-1], 0.0)
    assert_within_limits(brake, UR10E_LIMITS)
    way = np.abs(brake.qpos[-1] - start)
    assert np.all(way <= np.abs(qvel) * (np.abs(qvel) / UR10E_LIMITS.qacc_max + 0.4) / 2 + 1e-9)


LINES = [
    ((0.0, 0.0, -0.3), (0.0, 0.0, 1.0), 0.0),
    ((0.15, -0.2, -0.2), (0.0, 0.0, 1.0), 1.2),
    ((0.0, 0.0, 0.0), (1.0, 1.0, 0.0), 0.5),
    ((0.2, 0.1, 0.0), (0.0, 1.0, 0.0), -0.4),
]


@pytest.mark.parametrize("tool_limits", [GENTLE, HASTY])
@pytest.mark.parametrize(("offset_m", "axis", "angle_rad"), LINES)
def test_lines_are_straight_turn_evenly_and_keep_the_joint_limits(
    tool_limits: ToolLimits, offset_m: tuple[float, float, float], axis: tuple[float, float, float], angle_rad: float
) -> None:
    T_goal = moved(offset_m, axis, angle_rad)
    trajectory = plan_linear_motion(
        T_HOME, T_goal, start_qpos=HOME, limits=UR10E_LIMITS, tool_limits=tool_limits, dt_s=DT_S
    )
    poses = forward_kinematics(trajectory.qpos)
    np.testing.assert_allclose(poses[0], T_HOME, atol=1e-12)
    np.testing.assert_allclose(poses[-1], T_goal, atol=1e-12)
    np.testing.assert_allclose(trajectory.qpos[0], HOME, atol=1e-12)
    assert_within_limits(trajectory, UR10E_LIMITS)
    length, angles = np.linalg.norm(offset_m), [rotation_angle(T_HOME[:3, :3], T[:3, :3]) for T in poses]
    along = (poses[:, :3, 3] - T_HOME[:3, 3]) @ np.array(offset_m) / max(float(length), 1e-9)
    share = along / length if length > 0 else np.array(angles) / abs(angle_rad)
    np.testing.assert_allclose(poses[:, :3, 3], T_HOME[:3, 3] + share[:, None] * np.array(offset_m), atol=1e-9)
    np.testing.assert_allclose(angles, share * abs(angle_rad), atol=1e-7)
    assert np.all(np.diff(share) >= -1e-12)


@pytest.mark.parametrize(("offset_m", "axis", "angle_rad"), LINES)
def test_rates_of_lines_are_the_derivatives_of_their_positions(
    offset_m: tuple[float, float, float], axis: tuple[float, float, float], angle_rad: float
) -> None:
    dt_s = 0.001
    trajectory = plan_linear_motion(
        T_HOME,
        moved(offset_m, axis, angle_rad),
        start_qpos=HOME,
        limits=UR10E_LIMITS,
        tool_limits=GENTLE,
        dt_s=dt_s,
    )
    qvel = (trajectory.qpos[2:] - trajectory.qpos[:-2]) / (2 * dt_s)
    np.testing.assert_allclose(trajectory.qvel[1:-1], qvel, atol=2e-4)
    qacc = (trajectory.qvel[2:] - trajectory.qvel[:-2]) / (2 * dt_s)
    np.testing.assert_allclose(trajectory.qacc[1:-2], qacc[:-1], atol=0.06)  # half a step of the jerk's jumps


def test_the_tool_keeps_its_own_limits() -> None:
    trajectory = plan_linear_motion(
        T_HOME,
        moved((0.3, 0.0, -0.2), (0.0, 0.0, 1.0), 0.3),
        start_qpos=HOME,
        limits=UR10E_LIMITS,
        tool_limits=GENTLE,
        dt_s=DT_S,
    )
    p = forward_kinematics(trajectory.qpos)[:, :3, 3]
    for order, bound in ((1, GENTLE.speed_m_s), (2, GENTLE.acceleration_m_s2), (3, GENTLE.jerk_m_s3)):
        difference = np.linalg.norm(np.diff(p, order, axis=0), axis=1) / DT_S**order
        assert difference.max() <= bound * (1 + 1e-6)
        assert difference.max() >= 0.5 * bound


def test_a_line_taken_up_in_motion_goes_on_with_its_speed() -> None:
    offset = np.array([0.0, 0.0, -0.3])
    qvel = np.linalg.solve(geometric_jacobian(HOME), np.append(0.1 * offset / 0.3, np.zeros(3)))
    trajectory = plan_linear_motion(
        T_HOME,
        moved((0.0, 0.0, -0.3), (0.0, 0.0, 1.0), 0.0),
        start_qpos=HOME,
        start_qvel=qvel,
        limits=UR10E_LIMITS,
        tool_limits=GENTLE,
        dt_s=DT_S,
    )
    np.testing.assert_allclose(trajectory.qvel[0], qvel, atol=1e-9)
    assert_within_limits(trajectory, UR10E_LIMITS)


@pytest.mark.parametrize("direction", [[0.1, 0.0, 0.0], [0.0, 0.0, 0.1]])
def test_a_start_that_moves_off_the_line_is_refused(direction: list[float]) -> None:
    qvel = np.linalg.solve(geometric_jacobian(HOME), np.append(direction, np.zeros(3)))
    with pytest.raises(MotionPlanningError, match="stop first"):
        plan_linear_motion(
            T_HOME,
            moved((0.0, 0.0, -0.3), (0.0, 0.0, 1.0), 0.0),
            start_qpos=HOME,
            start_qvel=qvel,
            limits=UR10E_LIMITS,
            tool_limits=GENTLE,
            dt_s=DT_S,
        )


def plan_from(start: np.ndarray, T_goal: np.ndarray, limits: JointLimits = UR10E_LIMITS) -> JointTrajectory:
    T_start = forward_kinematics(start)
    return plan_linear_motion(T_start, T_goal, start_qpos=start, limits=limits, tool_limits=GENTLE, dt_s=DT_S)


def test_no_way_to_go_is_one_row() -> None:
    trajectory = plan_from(HOME, T_HOME)
    np.testing.assert_array_equal(trajectory.qpos, HOME[None])


def test_the_branch_and_the_turns_of_the_start_are_kept() -> None:
    start = HOME.copy()
    start[5] -= 2 * np.pi
    trajectory = plan_from(start, moved((0.1, 0.1, -0.1), (0.0, 0.0, 1.0), 0.5))
    assert np.abs(np.diff(trajectory.qpos, axis=0)).max() < 0.05
    np.testing.assert_allclose(trajectory.qpos[0], start, atol=1e-12)


def test_a_goal_out_of_reach_is_refused() -> None:
    with pytest.raises(UnreachableError, match="out of reach"):
        plan_from(HOME, moved((1.5, 0.0, 0.0), (0.0, 0.0, 1.0), 0.0))


def test_a_line_through_a_singularity_is_refused_before_it_moves() -> None:
    """Turning the tool about the axis of joint 5 by more than its distance to alignment crosses q5 = 0."""
    start = HOME.copy()
    start[4] = -0.4
    end = HOME.copy()
    end[4] = 0.4
    with pytest.raises(SingularityError, match="wrist"):
        plan_from(start, forward_kinematics(end))


def test_a_line_past_the_base_is_refused() -> None:
    """From in front of the base to behind it, straight through: the shoulder cylinder is in the way."""
    T_goal = T_HOME.copy()
    T_goal[:2, 3] *= -1.0
    with pytest.raises(SingularityError, match="stretched or folded|shoulder|elbow"):
        plan_from(HOME, T_goal)


def test_a_line_that_needs_angles_outside_the_limits_is_refused() -> None:
    tight = JointLimits(HOME - 0.2, HOME + 0.2, UR10E_LIMITS.qvel_max, UR10E_LIMITS.qacc_max, UR10E_LIMITS.qjerk_max)
    with pytest.raises(MotionPlanningError, match="straight line: joint"):
        plan_from(HOME, moved((0.0, 0.0, -0.35), (0.0, 0.0, 1.0), 0.0), tight)


def test_a_start_elsewhere_is_refused() -> None:
    with pytest.raises(MotionPlanningError, match="does not place the flange"):
        plan_linear_motion(T_HOME, T_HOME, start_qpos=HOME + 0.01, limits=UR10E_LIMITS, tool_limits=GENTLE, dt_s=DT_S)


def test_a_goal_that_is_no_pose_is_refused() -> None:
    with pytest.raises(TransformError, match="T_base_goal"):
        plan_from(HOME, 1.1 * T_HOME)


@pytest.mark.parametrize("wrong", [0.0, -1.0, np.nan, np.inf])
@pytest.mark.parametrize("place", range(6))
def test_tool_limits_must_be_finite_and_above_zero(wrong: float, place: int) -> None:
    values = [1.0] * 6
    values[place] = wrong
    with pytest.raises(ConfigError, match="tool limits"):
        ToolLimits(*values)
