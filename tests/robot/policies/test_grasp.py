"""Grasps: straight down, along a face, the nearest free one, and none where the arm does not reach."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handeye.robot.kinematics.forward import forward_kinematics
from handeye.robot.policies.grasp import GraspConfig, GraspPlanner, camera_pose_down, tool_pose_down
from handeye.robot.types import Track
from tests.robot.policies.paper_world import CELL, EDGE_M, PaperWorld

HOME = np.array(CELL.home_qpos)
NOTHING = np.zeros((0, 3))
PLANNER = GraspPlanner(CELL, GraspConfig())


def cube(x: float, y: float, yaw_rad: float | None = 0.0, z: float = EDGE_M / 2) -> Track:
    return replace(PaperWorld(np.array([x, y, z])).track(), yaw_rad=yaw_rad)


def wall_of_points(p_base: np.ndarray, yaw_rad: float, at_m: float) -> np.ndarray:
    """A dense upright patch, 4 cm high, `at_m` from the cube's middle in the direction `yaw_rad`."""
    direction, across = np.array([np.cos(yaw_rad), np.sin(yaw_rad)]), np.array([-np.sin(yaw_rad), np.cos(yaw_rad)])
    offsets, heights = np.linspace(-0.02, 0.02, 41), np.linspace(0.0, 0.04, 21)
    xy = p_base[:2] + at_m * direction + offsets[:, None] * across
    return np.array([[*point, height] for point in xy for height in heights])


@settings(max_examples=30, deadline=None)
@given(st.floats(0.40, 0.80), st.floats(-0.30, 0.30), st.floats(-1.6, 1.6))
def test_the_grasp_point_is_the_cube_and_the_fingers_close_on_two_faces(x: float, y: float, yaw_rad: float) -> None:
    track = cube(x, y, yaw_rad)
    grasp = PLANNER.choose(track, HOME, NOTHING)
    assert grasp is not None
    T_base_tcp = grasp.T_base_tool @ CELL.T_tool_tcp
    np.testing.assert_allclose(T_base_tcp[:3, 3], track.p_base, atol=1e-9)
    np.testing.assert_allclose(T_base_tcp[:3, 2], [0, 0, -1], atol=1e-9)
    turns = (grasp.yaw_rad - yaw_rad) / (np.pi / 2)
    assert turns == pytest.approx(round(turns), abs=1e-9)
    np.testing.assert_allclose(T_base_tcp[:2, 0], [np.cos(grasp.yaw_rad), np.sin(grasp.yaw_rad)], atol=1e-9)
    above = forward_kinematics(grasp.qpos_above) @ CELL.T_tool_tcp
    np.testing.assert_allclose(above[:3, 3] - T_base_tcp[:3, 3], [0, 0, GraspConfig().clearance_m], atol=1e-9)
    assert EDGE_M < grasp.opening_m <= CELL.gripper.opening_max_m


def test_of_the_free_grasps_the_nearest_to_the_present_wrist_is_taken() -> None:
    track = cube(0.6, 0.0, 0.4)
    chosen = PLANNER.choose(track, HOME, NOTHING)
    assert chosen is not None
    for quarter in range(4):
        pose = tool_pose_down(chosen.p_base + [0, 0, GraspConfig().clearance_m], 0.4 + quarter * np.pi / 2, CELL)
        other = PLANNER.reach(pose, HOME)
        assert other is not None
        assert np.abs(chosen.qpos_above - HOME).max() <= np.abs(other - HOME).max() + 1e-9


@pytest.mark.parametrize("side", [0, 1, 2, 3])
def test_fingers_avoid_a_neighbour_beside_a_face(side: int) -> None:
    track = cube(0.6, 0.1, 0.2)
    neighbour_yaw = 0.2 + side * np.pi / 2
    grasp = PLANNER.choose(track, HOME, wall_of_points(track.p_base, neighbour_yaw, 0.04))
    assert grasp is not None
    assert grasp.obstacle_points == 0
    assert abs(np.cos(grasp.yaw_rad - neighbour_yaw)) < 1e-9, "the fingers close along the line to the neighbour"


def test_between_two_evils_the_lesser_is_chosen() -> None:
    track = cube(0.6, 0.1, 0.2)
    few, many = wall_of_points(track.p_base, 0.2, 0.04)[::20], wall_of_points(track.p_base, 0.2 + np.pi / 2, 0.04)
    grasp = PLANNER.choose(track, HOME, np.concatenate([few, many]))
    assert grasp is not None
    assert grasp.obstacle_points > 0
    assert abs(np.sin(grasp.yaw_rad - 0.2)) < 1e-9


def test_the_cube_itself_and_the_table_are_no_obstacle() -> None:
    track = cube(0.6, 0.1, 0.2)
    half = EDGE_M / 2
    faces = np.concatenate([wall_of_points(track.p_base, 0.2 + side * np.pi / 2, half) for side in range(4)])
    rng = np.random.default_rng(0)
    table = np.concatenate(
        [rng.uniform(-0.1, 0.1, (5000, 2)) + track.p_base[:2], rng.normal(0, 0.002, (5000, 1))], axis=1
    )
    grasp = PLANNER.choose(track, HOME, np.concatenate([faces, table]))
    assert grasp is not None
    assert grasp.obstacle_points == 0


def test_a_cube_without_a_known_yaw_or_size_can_be_grasped() -> None:
    grasp = PLANNER.choose(replace(cube(0.6, 0.1, None), size_m=None), HOME, NOTHING)
    assert grasp is not None
    assert grasp.opening_m > CELL.cube_edge_m[1]


def test_fingertips_stay_above_the_table_whatever_was_measured() -> None:
    grasp = PLANNER.choose(cube(0.6, 0.1, z=-0.02), HOME, NOTHING)
    assert grasp is not None
    tips_z = grasp.p_base[2] - CELL.gripper.fingertip_beyond_tcp_m
    assert tips_z >= CELL.table.height_m + GraspConfig().table_gap_m - 1e-12


@pytest.mark.parametrize(("x", "y"), [(1.3, 0.0), (0.05, 0.0), (0.6, 0.6)])
def test_out_of_reach_or_out_of_the_workspace_there_is_no_grasp(x: float, y: float) -> None:
    assert PLANNER.choose(cube(x, y), HOME, NOTHING) is None


def test_a_camera_pose_puts_the_camera_there_looking_down() -> None:
    p_camera = np.array([0.5, 0.1, 0.6])
    T_base_camera = camera_pose_down(p_camera, 0.7, CELL) @ CELL.T_tool_camera
    np.testing.assert_allclose(T_base_camera[:3, 3], p_camera, atol=1e-12)
    np.testing.assert_allclose(T_base_camera[:3, 2], [0, 0, -1], atol=1e-12)
    np.testing.assert_allclose(T_base_camera[:2, 0], [np.cos(0.7), np.sin(0.7)], atol=1e-12)


def test_joints_that_reach_a_pose_do_reach_it_and_there_are_none_for_a_far_one() -> None:
    pose = tool_pose_down(np.array([0.55, -0.2, 0.2]), 1.0, CELL)
    qpos = PLANNER.reach(pose, HOME)
    assert qpos is not None
    np.testing.assert_allclose(forward_kinematics(qpos), pose, atol=1e-9)
    assert PLANNER.reach(tool_pose_down(np.array([2.0, 0.0, 0.2]), 0.0, CELL), HOME) is None
