"""The expert in a world without physics: it picks from anywhere, remembers nothing, and recovers from random_faults."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from handeye.robot.interfaces import Outcome, Policy, PolicyStatus
from handeye.robot.kinematics.limits import joint_limits_from_config
from handeye.robot.policies.expert import (
    Disturbance,
    DisturbanceConfig,
    ExpertConfig,
    ExpertPolicy,
    ExpertPolicyConfig,
    PickExpert,
)
from handeye.robot.policies.pick_state import PickState
from tests.robot.policies.paper_world import CELL, DT_S, EDGE_M, PaperWorld
from tests.robot.policies.test_scripted_policy import TASK, is_in_bin

ON_TABLE = np.array([0.6, 0.1, EDGE_M / 2])


def pick(world: PaperWorld, seed: int | None = None, config: ExpertPolicyConfig | None = None) -> PolicyStatus:
    policy = ExpertPolicy(CELL, config or ExpertPolicyConfig(), seed=seed)
    policy.reset(TASK)
    return world.run(policy, 60.0)


@pytest.mark.parametrize(("x", "y"), [(0.40, -0.30), (0.40, 0.30), (0.80, -0.30), (0.80, 0.30), (0.60, 0.0)])
def test_a_cube_anywhere_on_the_reachable_table_ends_in_the_bin(x: float, y: float) -> None:
    world = PaperWorld(np.array([x, y, EDGE_M / 2]), yaw_rad=10.0 * x * y)
    status = pick(world)
    assert (status.outcome, status.reason, status.attempts) == (Outcome.SUCCEEDED, None, 1)
    assert is_in_bin(world)
    assert not world.is_held
    assert world.stages == ["look", "approach", "grasp", "carry", "verify", "done"]


@pytest.mark.parametrize("seed", range(6))
def test_disturbed_it_still_brings_the_cube(seed: int) -> None:
    config = ExpertPolicyConfig(disturbance=DisturbanceConfig(pulls_per_s=2.0, slips_per_s=0.2))
    world = PaperWorld(ON_TABLE)
    assert pick(world, seed, config).outcome is Outcome.SUCCEEDED
    assert is_in_bin(world)


def test_disturbances_repeat_from_the_seed_and_differ_between_seeds() -> None:
    config = ExpertPolicyConfig(disturbance=DisturbanceConfig(pulls_per_s=2.0), timeout_s=3.0)
    first, again, other = PaperWorld(ON_TABLE), PaperWorld(ON_TABLE), PaperWorld(ON_TABLE)
    for world, seed in ((first, 1), (again, 1), (other, 2)):
        pick(world, seed, config)
    np.testing.assert_array_equal(first.asked, again.asked)
    assert not np.array_equal(first.asked[:50], other.asked[:50])


def test_set_points_respect_the_arms_limits_from_the_first_to_the_last() -> None:
    world = PaperWorld(ON_TABLE, grip_fails=1)
    assert pick(world, 3).outcome is Outcome.SUCCEEDED
    limits = joint_limits_from_config(CELL.joint_limits)
    qpos = np.array([CELL.home_qpos, *world.asked])
    qvel = np.diff(qpos, axis=0) / DT_S
    qacc = np.diff(qvel, axis=0) / DT_S
    assert limits.contain(qpos).all()
    assert (np.abs(qvel) <= limits.qvel_max).all()
    assert (np.abs(qacc) <= 1.5 * limits.qacc_max).all()


def test_a_failed_grasp_is_tried_again_where_the_cube_lies_now() -> None:
    world = PaperWorld(ON_TABLE, grip_fails=2)
    status = pick(world)
    assert (status.outcome, status.attempts) == (Outcome.SUCCEEDED, 3)
    assert is_in_bin(world)


@pytest.mark.parametrize("at_s", [0.4, 0.8, 1.2])
def test_a_cube_that_is_moved_on_the_way_is_followed(at_s: float) -> None:
    def move(world: PaperWorld) -> None:
        if world.tick == round(at_s / DT_S):
            world.p_cube = np.array([0.5, -0.1, EDGE_M / 2])

    world = PaperWorld(ON_TABLE, each_tick=move)
    assert pick(world).outcome is Outcome.SUCCEEDED
    assert is_in_bin(world)


def test_set_points_that_a_gate_refused_are_taken_up_where_the_arm_was_held() -> None:
    world = PaperWorld(ON_TABLE)

    def hold(world: PaperWorld) -> None:
        if world.tick == round(0.6 / DT_S):
            world.holds_until_s = world.now_s + 0.3

    world.each_tick = hold
    assert pick(world).outcome is Outcome.SUCCEEDED


def test_without_a_cube_it_looks_from_home_until_its_time_is_over() -> None:
    world = PaperWorld(ON_TABLE, is_seen=lambda world: False)
    status = pick(world, config=ExpertPolicyConfig(timeout_s=2.0))
    assert (status.outcome, status.reason, status.stage) == (Outcome.FAILED, "timeout", "look")
    np.testing.assert_allclose(world.qpos, CELL.home_qpos, atol=1e-3)


def test_before_a_task_it_says_so() -> None:
    policy = ExpertPolicy(CELL, ExpertPolicyConfig(), seed=None)
    assert isinstance(policy, Policy)
    with pytest.raises(RuntimeError, match="call reset first"):
        policy.act(PaperWorld(ON_TABLE).observe())


# The law itself -----------------------------------------------------------------------------------------------------


def state(**changes: Any) -> PickState:
    values: dict[str, Any] = {
        "qpos": np.array(CELL.home_qpos),
        "p_tcp_base": np.array([0.6, 0.1, 0.4]),
        "hand_yaw_rad": np.pi / 2,
        "gripper_opening_m": 0.085,
        "gripper_rate_m_s": 0.0,
        "is_holding": False,
        "p_cube_base": ON_TABLE,
        "yaw_error_rad": 0.0,
        "cube_age_s": 0.0,
        "is_placed": False,
        "is_verified": False,
    }
    return PickState(**(values | changes))


EXPERT = PickExpert(CELL, ExpertConfig(), TASK)


def test_the_hand_goes_down_only_when_it_is_over_the_cube() -> None:
    heights = []
    for off_m in (0.20, 0.05, 0.02, 0.01, 0.003):
        goal = EXPERT(state(p_tcp_base=np.array([0.6 + off_m, 0.1, 0.2])))
        heights.append(goal.p_tcp_base[2])
    assert heights == sorted(heights, reverse=True)
    assert heights[-1] == pytest.approx(EDGE_M / 2 + 0.003)


def test_the_fingers_close_at_the_grasp_and_not_before() -> None:
    grasp_z = EDGE_M / 2 + 0.003
    assert EXPERT(state(p_tcp_base=np.array([0.601, 0.1, grasp_z]))).opening_m == 0.0
    assert EXPERT(state(p_tcp_base=np.array([0.601, 0.1, grasp_z + 0.02]))).opening_m > 0.08
    assert EXPERT(state(p_tcp_base=np.array([0.615, 0.1, grasp_z]))).opening_m > 0.08
    assert EXPERT(state(p_tcp_base=np.array([0.601, 0.1, grasp_z]), yaw_error_rad=0.5)).opening_m > 0.08


def test_fingers_under_way_are_left_alone() -> None:
    closing = state(gripper_opening_m=0.06, gripper_rate_m_s=-0.15)
    assert EXPERT(closing).opening_m == 0.0
    opening = state(gripper_opening_m=0.06, gripper_rate_m_s=0.15)
    assert EXPERT(opening).opening_m > 0.08


def test_a_held_cube_goes_up_before_it_goes_aside_and_is_let_go_between_the_walls() -> None:
    held = {"is_holding": True, "gripper_opening_m": EDGE_M}
    low = EXPERT(state(p_tcp_base=np.array([0.6, 0.1, 0.03]), **held))
    np.testing.assert_allclose(low.p_tcp_base[:2], [0.6, 0.1])
    assert (low.p_tcp_base[2] > 0.15, low.opening_m) == (True, 0.0)
    over = EXPERT(state(p_tcp_base=TASK.place_p_base + [0.0, 0.0, 0.2], **held))
    assert (over.p_tcp_base[2] < 0.15, over.opening_m) == (True, 0.0)
    down = EXPERT(state(p_tcp_base=TASK.place_p_base + [0.0, 0.0, 0.115], **held))
    assert down.opening_m > 0.08


def test_low_pulls_are_small_and_never_push_down() -> None:
    config = DisturbanceConfig(pulls_per_s=25.0, pull_m=0.04, low_pull_m=0.006, slips_per_s=0.0)
    low = state(p_tcp_base=np.array([0.6, 0.1, 0.03]))
    goal = EXPERT(low)
    offsets = []
    for seed in range(200):
        disturbance = Disturbance(config, 25.0, seed)
        offsets.append(disturbance.disturb(goal, low, 0.0, 0.085).p_tcp_base - goal.p_tcp_base)
    assert np.std(offsets, axis=0)[:2] == pytest.approx([0.006, 0.006], rel=0.2)
    assert abs(np.mean(offsets, axis=0)[:2]).max() < 0.002
    assert np.min(offsets, axis=0)[2] == 0.0
