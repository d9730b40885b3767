"""Protected points sit where the drawing says and move with their links."""

from __future__ import annotations

import numpy as np
import pytest

from handeye.robot.config import PoseConfig, WorkCellConfig
from handeye.robot.kinematics.collision_geometry import points_of_cell
from handeye.robot.kinematics.forward import forward_kinematics, link_frames
from handeye.robot.kinematics.hand_geometry import HAND_BOXES, PAD_THICKNESS_M, hand_boxes
from handeye.robot.transforms import inverse, rotation_to_quat_wxyz, rpy_to_rotation

CELL = WorkCellConfig()
HOME = np.array(CELL.home_qpos)
POINTS = points_of_cell(CELL)


def place_of(name: str, qpos: np.ndarray) -> np.ndarray:
    return POINTS.p_base(link_frames(qpos))[POINTS.names.index(name)]


def test_every_part_that_could_hit_the_table_is_there() -> None:
    assert set(POINTS.names) >= {"elbow", "wrist 1", "wrist 2", "wrist 3", "camera", "tcp"}
    assert {"left fingertip", "right fingertip"} <= set(POINTS.names)


def test_tool_points_follow_the_configured_transforms() -> None:
    T_base_tool = forward_kinematics(HOME)
    np.testing.assert_allclose(place_of("tcp", HOME), (T_base_tool @ CELL.T_tool_tcp)[:3, 3], atol=1e-12)
    np.testing.assert_allclose(place_of("camera", HOME), (T_base_tool @ CELL.T_tool_camera)[:3, 3], atol=1e-12)


def test_fingertips_lie_either_side_of_the_tcp_and_beyond_it() -> None:
    left, right = place_of("left fingertip", HOME), place_of("right fingertip", HOME)
    middle = (left + right) / 2 - place_of("tcp", HOME)
    tool_z, tool_x = forward_kinematics(HOME)[:3, 2], forward_kinematics(HOME)[:3, 0]
    np.testing.assert_allclose(middle, CELL.gripper.fingertip_beyond_tcp_m * tool_z, atol=1e-12)
    across = float((left - right) @ tool_x)
    np.testing.assert_allclose(left - right, across * tool_x, atol=1e-12)
    assert across > CELL.gripper.opening_max_m


def test_fingertips_turn_tilt_and_move_with_the_frame_of_the_grasp_point() -> None:
    quat = quat_of(rpy_to_rotation(np.array([0.2, -0.1, 0.9])))
    turned = WorkCellConfig(tool_tcp=PoseConfig(translation_m=(0.01, -0.02, 0.18), quat_wxyz=quat))
    points = points_of_cell(turned)
    p_tool = dict(zip(points.names, points.p_frame, strict=True))
    tips = [inverse(turned.T_tool_tcp) @ np.append(p_tool[f"{side} fingertip"], 1.0) for side in ("left", "right")]
    edge_m = turned.gripper.opening_max_m / 2 + 0.02
    beyond_m = turned.gripper.fingertip_beyond_tcp_m
    np.testing.assert_allclose(tips, [(edge_m, 0, beyond_m, 1), (-edge_m, 0, beyond_m, 1)], atol=1e-12)
    boxes, _ = hand_boxes(turned, 0.05)
    pad_left, pad_right = (
        inverse(turned.T_tool_tcp) @ boxes[HAND_BOXES.index(name)] for name in ("pad_left", "pad_right")
    )
    np.testing.assert_allclose(pad_left[:3, :3], np.eye(3), atol=1e-12)
    np.testing.assert_allclose(pad_left[:3, 3] - pad_right[:3, 3], [0.05 + PAD_THICKNESS_M, 0, 0], atol=1e-12)


def test_a_grasp_point_behind_the_flange_or_askew_is_rejected() -> None:
    with pytest.raises(ValueError, match="before the flange"):
        WorkCellConfig(tool_tcp=PoseConfig(translation_m=(0.0, 0.0, -0.1)))
    upside_down = quat_of(rpy_to_rotation(np.array([np.pi, 0.0, 0.0])))
    with pytest.raises(ValueError, match="tilts it by 180"):
        WorkCellConfig(tool_tcp=PoseConfig(translation_m=(0.0, 0.0, 0.1), quat_wxyz=upside_down))


def quat_of(rotation: np.ndarray) -> tuple[float, float, float, float]:
    w, x, y, z = rotation_to_quat_wxyz(rotation).tolist()
    return w, x, y, z


def test_the_elbow_is_where_the_upper_arm_ends() -> None:
    """Its distance from the shoulder is the upper arm's length, whatever the other joints do."""
    rng = np.random.default_rng(0)
    for qpos in rng.uniform(-np.pi, np.pi, (20, 6)):
        shoulder = link_frames(qpos)[1, :3, 3]
        assert np.linalg.norm(place_of("elbow", qpos) - shoulder) == pytest.approx(0.6127, abs=1e-12)


def test_the_underside_of_a_ball_is_a_radius_below_its_middle() -> None:
    links = link_frames(HOME)
    np.testing.assert_allclose(POINTS.lowest_m(links), POINTS.p_base(links)[:, 2] - POINTS.radius_m)
    assert np.all(POINTS.radius_m >= 0.0)


def test_at_home_everything_is_well_above_the_table() -> None:
    assert POINTS.lowest_m(link_frames(HOME)).min() > 0.2
