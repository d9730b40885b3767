"""The Jacobian against finite differences and MuJoCo; singular configurations where geometry says they are."""

from __future__ import annotations

import numpy as np
import pytest

from handeye.robot.kinematics.forward import (
    UR10E,
    SingularityMargins,
    forward_kinematics,
    geometric_jacobian,
    singularity_measures,
)
from handeye.robot.transforms import apply_transform, rotation_to_rotvec
from handeye.vision.errors import ConfigError
from tests.robot.kinematics.conftest import MujocoPose

RANDOM_QPOS = np.random.default_rng(1).uniform(-np.pi, np.pi, (100, 6))
P_TOOL = np.array([0.02, -0.07, 0.16])


def numeric_jacobian(qpos: np.ndarray, p_tool: np.ndarray, step: float = 1e-6) -> np.ndarray:
    columns = []
    for joint in range(6):
        delta = step * np.eye(6)[joint]
        T_ahead, T_behind = forward_kinematics(qpos + delta), forward_kinematics(qpos - delta)
        v = (apply_transform(T_ahead, p_tool) - apply_transform(T_behind, p_tool)) / (2 * step)
        w = rotation_to_rotvec(T_ahead[:3, :3] @ T_behind[:3, :3].T) / (2 * step)
        columns.append(np.concatenate([v, w]))
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("p_tool", [np.zeros(3), P_TOOL])
def test_finite_differences_agree(p_tool: np.ndarray) -> None:
    for qpos in RANDOM_QPOS[:20]:
        np.testing.assert_allclose(geometric_jacobian(qpos, p_tool), numeric_jacobian(qpos, p_tool), atol=1e-8)


def test_mujoco_agrees(mujoco_pose: MujocoPose) -> None:
    theirs = np.stack([mujoco_pose(qpos)[1] for qpos in RANDOM_QPOS])
    np.testing.assert_allclose(geometric_jacobian(RANDOM_QPOS), theirs, atol=1e-12)


def test_determinant_is_the_product_of_the_measures() -> None:
    wrist, elbow, shoulder_m = singularity_measures(RANDOM_QPOS)
    product = wrist * elbow * shoulder_m * abs(UR10E.a_m[1] * UR10E.a_m[2])
    np.testing.assert_allclose(np.abs(np.linalg.det(geometric_jacobian(RANDOM_QPOS))), product, atol=1e-13)


def test_the_determinant_does_not_depend_on_the_point() -> None:
    flange, tcp = geometric_jacobian(RANDOM_QPOS), geometric_jacobian(RANDOM_QPOS, P_TOOL)
    np.testing.assert_allclose(np.linalg.det(tcp), np.linalg.det(flange), atol=1e-13)


@pytest.mark.parametrize(
    ("qpos", "singular"),
    [
        ([0.3, -1.0, 1.2, 0.4, 0.0, 0.5], "wrist"),
        ([0.3, -1.0, 1.2, 0.4, np.pi, 0.5], "wrist"),
        ([0.3, -1.0, 0.0, 0.4, 1.1, 0.5], "elbow"),
    ],
)
def test_singular_configurations_are_found(qpos: list[float], singular: str) -> None:
    measures = singularity_measures(np.array(qpos))
    for name, value in zip(measures._fields, measures, strict=True):
        assert (value < 1e-12) == (name == singular)
    J = geometric_jacobian(np.array(qpos))
    assert abs(np.linalg.det(J)) < 1e-12
    assert np.linalg.cond(J) > 1e12


def test_the_shoulder_is_singular_where_joint_5_sits_on_the_cylinder_around_the_base() -> None:
    """Nearly straight up, with joint 4 bent so that joint 5's place comes back over the base axis."""
    qpos = np.array([0.7, -np.pi / 2, 0.15, 0.0, 1.0, 0.2])
    reach = UR10E.a_m[2] * np.cos(qpos[1] + qpos[2])
    qpos[3] = np.arcsin(-reach / UR10E.d_m[4]) - qpos[1] - qpos[2]
    assert singularity_measures(qpos).shoulder_m < 1e-12
    T = forward_kinematics(qpos)
    p_joint5 = T[:3, 3] - UR10E.d_m[5] * T[:3, 2]
    assert np.hypot(p_joint5[0], p_joint5[1]) == pytest.approx(UR10E.d_m[3], abs=1e-12)


@pytest.mark.parametrize("wrong", [-1e-9, np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_margins_that_would_switch_a_check_off_are_refused(wrong: float, place: int) -> None:
    values = [0.1, 0.1, 0.1]
    values[place] = wrong
    with pytest.raises(ConfigError, match=("wrist", "elbow", "shoulder_m")[place]):
        SingularityMargins(*values)
