"""Rotations and transforms: group axioms, round trips at the awkward angles, and scipy as the second opinion."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import expm
from scipy.spatial.transform import Rotation

from handeye.robot.errors import TransformError
from handeye.robot.transforms import (
    apply_transform,
    axis_angle_to_rotation,
    compose,
    exp_se3,
    inverse,
    is_rotation,
    log_se3,
    make_transform,
    nearest_transform,
    quat_wxyz_to_rotation,
    require_rotation,
    require_transform,
    rotate_vectors,
    rotation_angle,
    rotation_left_jacobian,
    rotation_to_axis_angle,
    rotation_to_quat_wxyz,
    rotation_to_rotvec,
    rotation_to_rpy,
    rotvec_to_rotation,
    rpy_to_rotation,
    translation,
    wrap_angle,
)

AWKWARD_ANGLES = [0.0, 1e-12, 1e-8, 1e-5, 9.9e-5, 1.01e-4, 0.1, 1.0, np.pi - 1e-4, np.pi - 1e-8, np.pi]
seeds = st.integers(0, 2**32 - 1)


def random_rotations(seed: int, number: int) -> np.ndarray:
    return Rotation.random(number, rng=np.random.default_rng(seed)).as_matrix()


def random_transforms(seed: int, number: int) -> np.ndarray:
    return make_transform(random_rotations(seed, number), np.random.default_rng(seed).normal(size=(number, 3)))


def axes(number: int = 20) -> np.ndarray:
    vectors = np.random.default_rng(5).normal(size=(number, 3))
    return np.concatenate([np.eye(3), -np.eye(3), vectors / np.linalg.norm(vectors, axis=1, keepdims=True)])


def twist_matrix(twist: np.ndarray) -> np.ndarray:
    v, (x, y, z) = twist[:3], twist[3:]
    return np.array([[0, -z, y, v[0]], [z, 0, -x, v[1]], [-y, x, 0, v[2]], [0, 0, 0, 0]], dtype=np.float64)


@pytest.mark.parametrize("angle", [*AWKWARD_ANGLES, 4.0, 10.0])
def test_rotation_vectors_agree_with_scipy(angle: float) -> None:
    rotvec = axes() * angle
    np.testing.assert_allclose(rotvec_to_rotation(rotvec), Rotation.from_rotvec(rotvec).as_matrix(), atol=3e-15)


@pytest.mark.parametrize("angle", AWKWARD_ANGLES)
def test_rotation_vectors_come_back(angle: float) -> None:
    rotvec = axes() * angle
    back = rotation_to_rotvec(rotvec_to_rotation(rotvec))
    if angle == np.pi:  # both directions of the axis mean the same half turn
        back = back * np.sign((back * rotvec).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(back, rotvec, atol=1e-14)


def test_an_angle_above_pi_comes_back_as_the_shorter_way_round() -> None:
    rotvec = rotation_to_rotvec(rotvec_to_rotation(np.array([0.0, 0.0, 4.0])))
    np.testing.assert_allclose(rotvec, [0.0, 0.0, 4.0 - 2 * np.pi], atol=1e-14)


@given(seeds)
def test_quaternions_agree_with_scipy_and_come_back(seed: int) -> None:
    R = random_rotations(seed, 8)
    quat = rotation_to_quat_wxyz(R)
    expected = Rotation.from_matrix(R).as_quat(canonical=True, scalar_first=True)
    np.testing.assert_allclose(quat, expected, atol=1e-14)
    np.testing.assert_allclose(quat_wxyz_to_rotation(quat), R, atol=1e-14)


@given(st.floats(-np.pi, np.pi), st.floats(-np.pi / 2, np.pi / 2), st.floats(-np.pi, np.pi))
def test_roll_pitch_yaw_agree_with_scipy_and_come_back(roll: float, pitch: float, yaw: float) -> None:
    rpy = np.array([roll, pitch, yaw])
    R = rpy_to_rotation(rpy)
    np.testing.assert_allclose(R, Rotation.from_euler("xyz", rpy).as_matrix(), atol=1e-14)
    # Near pitch = +-90 degrees roll and yaw are ill-defined, so it is the rotation that must come back.
    np.testing.assert_allclose(rpy_to_rotation(rotation_to_rpy(R)), R, atol=1e-8)


@pytest.mark.parametrize("pitch", [np.pi / 2, -np.pi / 2])
def test_gimbal_lock_puts_everything_into_yaw(pitch: float) -> None:
    R = rpy_to_rotation(np.array([0.4, pitch, 0.3]))
    roll, _, yaw = rotation_to_rpy(R)
    assert roll == 0.0
    assert yaw == pytest.approx(0.3 - 0.4 * np.sign(pitch), abs=1e-9)


@pytest.mark.parametrize("angle", [a for a in AWKWARD_ANGLES if 1e-9 < a < np.pi])
def test_axis_and_angle_come_back(angle: float) -> None:
    for axis in axes(4):
        found_axis, found_angle = rotation_to_axis_angle(axis_angle_to_rotation(3.0 * axis, angle))
        assert found_angle == pytest.approx(angle, abs=1e-14)
        np.testing.assert_allclose(found_axis, axis, atol=1e-7)


def test_the_identity_has_an_axis_too() -> None:
    axis, angle = rotation_to_axis_angle(np.eye(3))
    assert angle == 0.0
    assert np.linalg.norm(axis) == 1.0


@given(seeds)
def test_transforms_form_a_group(seed: int) -> None:
    T_a, T_b, T_c = random_transforms(seed, 3)
    np.testing.assert_allclose(compose(T_a, compose(T_b, T_c)), compose(compose(T_a, T_b), T_c), atol=1e-12)
    np.testing.assert_allclose(compose(T_a, inverse(T_a)), np.eye(4), atol=1e-12)
    np.testing.assert_allclose(inverse(compose(T_a, T_b)), compose(inverse(T_b), inverse(T_a)), atol=1e-12)
    np.testing.assert_array_equal(compose(T_a, np.eye(4)), T_a)


def test_composing_nothing_is_the_identity() -> None:
    np.testing.assert_array_equal(compose(), np.eye(4))


@given(seeds)
def test_applying_a_product_is_applying_one_after_the_other(seed: int) -> None:
    T_a_b, T_b_c = random_transforms(seed, 2)
    points_c = np.random.default_rng(seed).normal(size=(4, 5, 3))
    in_steps = apply_transform(T_a_b, apply_transform(T_b_c, points_c))
    np.testing.assert_allclose(apply_transform(T_a_b @ T_b_c, points_c), in_steps, atol=1e-12)
    homogeneous = T_a_b @ np.append(points_c[0, 0], 1.0)
    np.testing.assert_allclose(apply_transform(T_a_b, points_c[0, 0]), homogeneous[:3], atol=1e-12)


def test_directions_turn_but_do_not_move() -> None:
    T = make_transform(axis_angle_to_rotation(np.array([0.0, 0.0, 1.0]), np.pi / 2), np.array([5.0, 6.0, 7.0]))
    np.testing.assert_allclose(rotate_vectors(T, np.array([1.0, 0.0, 0.0])), [0.0, 1.0, 0.0], atol=1e-15)
    np.testing.assert_allclose(apply_transform(T, np.array([1.0, 0.0, 0.0])), [5.0, 7.0, 7.0], atol=1e-15)
    np.testing.assert_array_equal(translation(1.0, 2.0, 3.0)[:3, 3], [1.0, 2.0, 3.0])


@pytest.mark.parametrize("angle", AWKWARD_ANGLES)
def test_exponential_agrees_with_the_matrix_exponential(angle: float) -> None:
    for axis in axes(4):
        twist = np.concatenate([np.array([0.3, -1.2, 0.7]), axis * angle])
        np.testing.assert_allclose(exp_se3(twist), expm(twist_matrix(twist)), atol=1e-13)


@pytest.mark.parametrize("angle", [a for a in AWKWARD_ANGLES if a < np.pi])
def test_logarithm_undoes_the_exponential(angle: float) -> None:
    twists = np.concatenate([np.random.default_rng(1).normal(size=(len(axes()), 3)), axes() * angle], axis=1)
    np.testing.assert_allclose(log_se3(exp_se3(twists)), twists, atol=1e-12)


@given(seeds)
def test_exponential_undoes_the_logarithm(seed: int) -> None:
    T = random_transforms(seed, 5)
    np.testing.assert_allclose(exp_se3(log_se3(T)), T, atol=1e-12)


@pytest.mark.parametrize("angle", AWKWARD_ANGLES)
def test_rotation_angle_is_the_angle_between(angle: float) -> None:
    R = random_rotations(3, 1)[0]
    assert rotation_angle(R, R @ axis_angle_to_rotation(np.array([1.0, 2.0, 3.0]), angle)) == pytest.approx(
        angle, abs=1e-14
    )


def test_what_is_no_rotation_is_refused() -> None:
    reflection = np.diag([1.0, 1.0, -1.0])
    for wrong in (reflection, 1.01 * np.eye(3), np.zeros((3, 3)), np.full((3, 3), np.nan)):
        assert not is_rotation(wrong)
        with pytest.raises(TransformError, match=r"R_base_tool.*rotation"):
            require_rotation(wrong, "R_base_tool")
        for convert in (rotation_to_rotvec, rotation_to_quat_wxyz, rotation_to_rpy):
            with pytest.raises(TransformError):
                convert(wrong)
    np.testing.assert_array_equal(is_rotation(np.stack([np.eye(3), reflection])), [True, False])


def test_what_is_no_transform_is_refused() -> None:
    shifted_row, infinite = np.eye(4), np.eye(4)
    shifted_row[3, 0], infinite[0, 3] = 1e-3, np.inf
    for wrong in (shifted_row, infinite, np.diag([1.0, 1.0, -1.0, 1.0])):
        with pytest.raises(TransformError, match="T_goal"):
            require_transform(wrong, "T_goal")
        with pytest.raises(TransformError):
            log_se3(wrong)


@pytest.mark.parametrize("quat", [[0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [np.nan, 0.0, 0.0, 0.0]])
def test_what_is_no_unit_quaternion_is_refused(quat: list[float]) -> None:
    with pytest.raises(TransformError, match="unit quaternion"):
        quat_wxyz_to_rotation(np.array(quat))


@pytest.mark.parametrize("axis", [[0.0, 0.0, 0.0], [np.inf, 0.0, 0.0], [np.nan, 1.0, 0.0]])
def test_what_is_no_axis_is_refused(axis: list[float]) -> None:
    with pytest.raises(TransformError, match="axis"):
        axis_angle_to_rotation(np.array(axis), 1.0)


@pytest.mark.parametrize("angle", AWKWARD_ANGLES)
def test_the_left_jacobian_is_the_derivative_of_the_exponential(angle: float) -> None:
    step = 1e-6
    for axis in axes(4):
        w = axis * angle
        for d in step * np.eye(3):
            turned = rotvec_to_rotation(w + d) @ rotvec_to_rotation(w - d).T
            np.testing.assert_allclose(
                rotation_to_rotvec(turned) / (2 * step), rotation_left_jacobian(w) @ d / step, atol=1e-8
            )


@given(seeds)
def test_a_rounded_transform_becomes_exact_and_stays_near(seed: int) -> None:
    T = random_transforms(seed, 3)
    exact = nearest_transform(np.round(T, 4), 1e-3)
    require_transform(exact)
    np.testing.assert_allclose(exact, T, atol=2e-4)
    np.testing.assert_allclose(nearest_transform(T, 1e-9), T, atol=1e-14)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (np.diag([1.0, 1.0, -1.0, 1.0]), "T_tool.*mirrored"),
        (np.diag([1.1, 1.1, 1.1, 1.0]), "T_tool.*0.1 away"),
        (np.diag([1.0, 1.0, 1.0, 2.0]), "last row"),
        (np.full((4, 4), np.nan), "finite"),
        (np.zeros((4, 4)), "nearest rotation"),
    ],
)
def test_what_is_far_from_every_transform_is_refused(wrong: np.ndarray, words: str) -> None:
    with pytest.raises(TransformError, match=words):
        nearest_transform(wrong, 1e-2, "T_tool")


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=4), st.sampled_from([np.pi / 2, np.pi, 2 * np.pi]))
def test_a_wrapped_angle_is_the_same_angle_in_range(angles: list[float], period: float) -> None:
    for angle in angles:
        wrapped = wrap_angle(angle, period)
        assert -period / 2 - 1e-9 <= wrapped < period / 2 + 1e-9
        assert math.remainder(wrapped - angle, period) == pytest.approx(0.0, abs=1e-9)
    each = [wrap_angle(angle, period) for angle in angles]
    np.testing.assert_array_equal(wrap_angle(np.array(angles), period), each)


@given(st.floats(-1e3, 1e3))
def test_wrapped_angles_mean_the_same_direction(angle: float) -> None:
    wrapped = wrap_angle(angle)
    assert -np.pi <= wrapped < np.pi
    assert np.cos(wrapped) == pytest.approx(np.cos(angle), abs=1e-10)
    assert np.sin(wrapped) == pytest.approx(np.sin(angle), abs=1e-10)
