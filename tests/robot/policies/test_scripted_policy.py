"""The pick skill in a world without physics: every way through it, and every way in which it gives up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from handeye.robot.interfaces import Outcome, PickTask, PolicyStatus
from handeye.robot.kinematics.limits import joint_limits_from_config
from handeye.robot.policies.grasp import GraspConfig
from handeye.robot.policies.scripted_pick import PickSkillConfig
from handeye.robot.policies.scripted_policy import PickSkill
from handeye.robot.types import Observation, Track
from tests.robot.policies.paper_world import CELL, DT_S, EDGE_M, PaperWorld

TASK = PickTask(
    class_name="red_cube",
    place_name="bin",
    place_p_base=np.array([*CELL.bin.centre_xy_m, 0.0]),
    place_size_m=np.array(CELL.bin.inside_m),
    place_wall_m=CELL.bin.wall_height_m,
)
ON_TABLE = np.array([0.6, 0.1, EDGE_M / 2])
LIMIT_S = 60.0


def pick(world: PaperWorld, config: PickSkillConfig | None = None) -> PolicyStatus:
    skill = PickSkill(CELL, config or PickSkillConfig())
    skill.reset(TASK)
    return world.run(skill, LIMIT_S)


def show_too(world: PaperWorld, other: Track) -> None:
    """Track another thing beside the cube, seen whenever the cube is."""
    observe = world.observe

    def observe_both() -> Observation:
        seen = observe()
        return replace(seen, tracks=(*seen.tracks, replace(other, num_hits=world.hits)))

    world.observe = observe_both


def is_in_bin(world: PaperWorld) -> bool:
    offset = np.abs(world.p_cube[:2] - TASK.place_p_base[:2])
    return bool(np.all(offset < TASK.place_size_m / 2))


@pytest.mark.parametrize(("x", "y"), [(0.40, -0.30), (0.40, 0.30), (0.80, -0.30), (0.80, 0.30), (0.60, 0.0)])
def test_a_cube_anywhere_on_the_reachable_table_ends_in_the_bin(x: float, y: float) -> None:
    world = PaperWorld(np.array([x, y, EDGE_M / 2]), yaw_rad=10.0 * x * y)
    status = pick(world)
    assert (status.outcome, status.reason, status.attempts) == (Outcome.SUCCEEDED, None, 1)
    assert is_in_bin(world)
    assert not world.is_held


def test_the_stages_come_in_their_order() -> None:
    world = PaperWorld(ON_TABLE)
    pick(world)
    assert world.stages == ["look", "approach", "relook", "grasp", "lift", "carry", "place", "verify", "done"]


def test_set_points_respect_the_arms_limits_from_the_first_to_the_last() -> None:
    world = PaperWorld(ON_TABLE, grip_fails=1)
    assert pick(world).outcome is Outcome.SUCCEEDED
    limits = joint_limits_from_config(CELL.joint_limits)
    qpos = np.array([CELL.home_qpos, *world.asked])
    qvel = np.diff(qpos, axis=0) / DT_S
    qacc = np.diff(qvel, axis=0) / DT_S
    assert limits.contain(qpos).all()
    assert (np.abs(qvel) <= limits.qvel_max * 1.001).all()
    assert (np.abs(qacc) <= limits.qacc_max * 1.02).all()


def test_the_same_world_gives_the_same_set_points() -> None:
    first, second = PaperWorld(ON_TABLE), PaperWorld(ON_TABLE)
    pick(first)
    pick(second)
    np.testing.assert_array_equal(first.asked, second.asked)


def test_a_failed_grasp_is_tried_again_where_the_cube_lies_now() -> None:
    world = PaperWorld(ON_TABLE, grip_fails=2)
    status = pick(world)
    assert (status.outcome, status.attempts) == (Outcome.SUCCEEDED, 3)
    assert is_in_bin(world)


def test_after_its_last_attempt_it_gives_up() -> None:
    world = PaperWorld(ON_TABLE, grip_fails=99)
    status = pick(world, PickSkillConfig(grasp=GraspConfig(max_attempts=2)))
    assert (status.outcome, status.reason, status.attempts) == (Outcome.FAILED, "grasp_failed", 2)


def test_without_the_cube_it_searches_and_gives_up() -> None:
    world = PaperWorld(ON_TABLE, is_seen=lambda world: False)
    status = pick(world)
    assert (status.outcome, status.reason, status.attempts) == (Outcome.FAILED, "not_found", 0)
    assert world.stages == ["look", "search"]


def test_a_cube_of_another_class_is_not_taken_for_it() -> None:
    status = pick(PaperWorld(ON_TABLE, class_name="green_cube"))
    assert status.reason == "not_found"


def test_a_cube_that_only_a_closer_view_shows_is_found() -> None:
    world = PaperWorld(ON_TABLE, is_seen=lambda world: world.p_tcp[2] < 0.4)
    assert pick(world).outcome is Outcome.SUCCEEDED
    assert world.stages[:3] == ["look", "search", "approach"]


def test_a_cube_out_of_reach_is_unreachable() -> None:
    status = pick(PaperWorld(np.array([1.3, 0.6, EDGE_M / 2])))
    assert (status.outcome, status.reason) == (Outcome.FAILED, "unreachable")


def test_a_cube_in_the_bin_already_is_not_picked_again() -> None:
    status = pick(PaperWorld(np.array([*CELL.bin.centre_xy_m, EDGE_M / 2])))
    assert status.reason == "not_found"


@pytest.mark.parametrize("move_at_s", [0.3, 0.5, 0.7])
def test_a_cube_that_moves_during_the_approach_is_followed(move_at_s: float) -> None:
    def push(world: PaperWorld) -> None:
        if world.tick == round(move_at_s / DT_S):
            world.p_cube = world.p_cube + np.array([0.08, -0.12, 0.0])

    world = PaperWorld(ON_TABLE, each_tick=push)
    status = pick(world)
    assert (status.outcome, status.attempts) == (Outcome.SUCCEEDED, 1)
    assert is_in_bin(world)


def test_a_cube_that_never_rests_counts_as_lost() -> None:
    def run_away(world: PaperWorld) -> None:
        world.p_cube = ON_TABLE + np.array([0.0, 0.1 * (world.tick // 16 % 2), 0.0])

    status = pick(PaperWorld(ON_TABLE, each_tick=run_away))
    assert (status.outcome, status.reason) == (Outcome.FAILED, "lost")


def test_a_cube_that_vanishes_after_the_look_is_lost() -> None:
    status = pick(PaperWorld(ON_TABLE, is_seen=lambda world: world.hits < 2))
    assert (status.outcome, status.reason) == (Outcome.FAILED, "lost")


def test_a_cube_that_slips_out_on_the_way_is_picked_up_again() -> None:
    def drop_once(world: PaperWorld) -> None:
        if world.is_held and world.p_cube[1] < -0.1 and world.hits < 1000:
            world.hits += 1000
            world.is_held = False
            world.p_cube = np.array([0.62, -0.1, EDGE_M / 2])

    world = PaperWorld(ON_TABLE, each_tick=drop_once)
    status = pick(world)
    assert (status.outcome, status.attempts) == (Outcome.SUCCEEDED, 2)
    assert is_in_bin(world)


def test_a_cube_that_falls_into_the_bin_by_accident_is_where_it_should_be() -> None:
    def drop_over_bin(world: PaperWorld) -> None:
        if world.is_held and is_in_bin(world) and world.stages[-1] == "carry":
            world.is_held = False
            world.p_cube = np.array([*CELL.bin.centre_xy_m, EDGE_M / 2])

    world = PaperWorld(ON_TABLE, each_tick=drop_over_bin)
    status = pick(world)
    assert (status.outcome, status.attempts) == (Outcome.SUCCEEDED, 1)
    assert world.stages[-2:] == ["verify", "done"]


def test_a_cube_within_reach_is_preferred_to_one_outside() -> None:
    """Both are red; the one outside even has the better score."""
    world = PaperWorld(ON_TABLE)
    show_too(world, replace(PaperWorld(np.array([1.3, 0.6, EDGE_M / 2])).track(), track_id=2, score=1.0))
    assert pick(world).outcome is Outcome.SUCCEEDED


@pytest.mark.parametrize(
    "changes",
    [
        {"p_base": np.array([0.5, -0.1, 0.006])},
        {"size_m": np.array([0.09, 0.045, 0.045])},
        {"size_m": np.array([0.02, 0.02, 0.045])},
        {"size_m": None},
    ],
    ids=["flat", "long", "small", "without shape"],
)
def test_a_cube_is_preferred_to_what_the_detector_took_for_one(changes: dict[str, np.ndarray | None]) -> None:
    world = PaperWorld(ON_TABLE)
    wrong = replace(PaperWorld(np.array([0.5, -0.1, EDGE_M / 2])).track(), track_id=2, score=1.0, **changes)
    show_too(world, wrong)
    status = pick(world)
    assert (status.outcome, status.attempts) == (Outcome.SUCCEEDED, 1)


def test_what_was_grasped_in_vain_is_left_for_something_else() -> None:
    world = PaperWorld(ON_TABLE)
    show_too(world, replace(PaperWorld(np.array([0.5, -0.1, EDGE_M / 2])).track(), track_id=2, score=1.0))
    status = pick(world)
    assert (status.outcome, status.attempts) == (Outcome.SUCCEEDED, 2)


def test_a_cube_that_is_nowhere_after_the_release_is_not_claimed() -> None:
    world = PaperWorld(ON_TABLE, is_seen=lambda world: "place" not in world.stages)
    status = pick(world)
    assert (status.outcome, status.reason) == (Outcome.FAILED, "verify_failed")


def test_its_own_time_limit_ends_it() -> None:
    status = pick(PaperWorld(ON_TABLE), PickSkillConfig(timeout_s=1.0))
    assert (status.outcome, status.reason) == (Outcome.FAILED, "timeout")


@pytest.mark.parametrize("hold_at_s", [0.3, 1.3, 2.4])
def test_an_arm_that_was_held_goes_on_from_where_it_stands(hold_at_s: float) -> None:
    """A gate refuses set-points for a while: the arm comes to rest, and the next ones must begin there."""

    def hold(world: PaperWorld) -> None:
        if world.tick == round(hold_at_s / DT_S):
            world.holds_until_s = world.now_s + 0.4

    world = PaperWorld(ON_TABLE, each_tick=hold)
    assert pick(world).outcome is Outcome.SUCCEEDED
    released = round((hold_at_s + 0.4) / DT_S)
    np.testing.assert_allclose(world.asked[released], world.sent[released - 1], atol=1e-3)


def test_once_it_is_over_it_holds_still() -> None:
    world = PaperWorld(ON_TABLE, is_seen=lambda world: False)
    skill = PickSkill(CELL, PickSkillConfig())
    skill.reset(TASK)
    status = world.run(skill, LIMIT_S)
    last = world.asked[-1]
    for _ in range(20):
        world.step(skill)
        np.testing.assert_array_equal(world.asked[-1], last)
    assert skill.status == status


def test_a_new_task_begins_anew() -> None:
    skill = PickSkill(CELL, PickSkillConfig())
    for _ in range(2):
        skill.reset(TASK)
        assert skill.status == PolicyStatus("look", Outcome.RUNNING)
        assert PaperWorld(ON_TABLE).run(skill, LIMIT_S).outcome is Outcome.SUCCEEDED


def test_without_a_task_it_refuses_to_act() -> None:
    with pytest.raises(RuntimeError, match="reset"):
        PickSkill(CELL, PickSkillConfig()).act(PaperWorld(ON_TABLE).observe())
