"""The work cell's numbers: transforms against SciPy, geometry that fits together, mistakes refused."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.spatial.transform import Rotation

from handeye.robot.config import BoxConfig, PoseConfig, WorkCellConfig
from handeye.robot.kinematics.forward import forward_kinematics


def test_pose_matrix_agrees_with_scipy() -> None:
    quat = np.random.default_rng(0).standard_normal(4)
    quat /= np.linalg.norm(quat)
    w, x, y, z = (float(value) for value in quat)
    matrix = PoseConfig(translation_m=(1.0, -2.0, 3.0), quat_wxyz=(w, x, y, z)).matrix()
    np.testing.assert_allclose(matrix[:3, :3], Rotation.from_quat(quat, scalar_first=True).as_matrix(), atol=1e-12)
    np.testing.assert_array_equal(matrix[:, 3], [1, -2, 3, 1])


def test_pose_refuses_what_is_no_rotation() -> None:
    with pytest.raises(ValidationError, match="length 1"):
        PoseConfig(quat_wxyz=(1.0, 0.1, 0.0, 0.0))


def test_a_quaternion_of_three_digits_is_normalised() -> None:
    """0.0005 in each of four numbers changes the length by at most 0.001: the norm of the error."""
    rng = np.random.default_rng(1)
    for quat in [np.full(4, 0.5), *rng.standard_normal((50, 4))]:
        exact = quat / np.linalg.norm(quat)
        printed = PoseConfig(quat_wxyz=tuple((exact + 0.0005 * np.sign(exact)).tolist()))
        assert np.linalg.norm(printed.quat_wxyz) == pytest.approx(1.0, abs=1e-12)
        assert np.abs(np.array(printed.quat_wxyz) - exact).max() <= 0.0015
    assert PoseConfig(quat_wxyz=(0.6, 0.8, 0.0, 0.0)).quat_wxyz == (0.6, 0.8, 0.0, 0.0)
    for wrong in ((0.99, 0.0, 0.0, 0.0), (float("nan"), 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0)):
        with pytest.raises(ValidationError):
            PoseConfig(quat_wxyz=wrong)


def test_box_contains_its_border_and_refuses_to_be_empty() -> None:
    box = BoxConfig(low_m=(0.0, 0.0, 0.0), high_m=(1.0, 1.0, 1.0))
    assert box.contains(np.array([0.0, 1.0, 0.5]))
    assert not box.contains(np.array([0.0, 1.0001, 0.5]))
    with pytest.raises(ValidationError, match="must lie below"):
        BoxConfig(low_m=(0.0, 0.0, 1.0), high_m=(1.0, 1.0, 1.0))


def test_home_looks_straight_down_at_the_reachable_table() -> None:
    cell = WorkCellConfig()
    T_base_tool = forward_kinematics(np.array(cell.home_qpos))
    np.testing.assert_allclose(T_base_tool[:3, 2], [0, 0, -1], atol=1e-3)
    T_base_camera = T_base_tool @ cell.T_tool_camera
    for x in (cell.table.cubes_low_xy_m[0], cell.table.cubes_high_xy_m[0]):
        for y in (cell.table.cubes_low_xy_m[1], cell.table.cubes_high_xy_m[1]):
            corner = T_base_camera[:3, :3].T @ (np.array([x, y, cell.table.height_m]) - T_base_camera[:3, 3])
            u, v = (cell.camera.K @ corner)[:2] / corner[2]
            assert 0 <= u < cell.camera.width_px
            assert 0 <= v < cell.camera.height_px


def test_grasping_the_smallest_cube_keeps_the_fingertips_above_the_table() -> None:
    cell = WorkCellConfig()
    centre = cell.cube_edge_m[0] / 2
    assert centre - cell.gripper.fingertip_beyond_tcp_m > 0.005
    assert cell.workspace.low_m[2] <= centre
    assert cell.cube_edge_m[1] < cell.gripper.opening_max_m
