"""The closed-form inverse: every configuration comes back, to rounding, and the singular cases have answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import least_squares

from handeye.robot.errors import JointLimitError, UnreachableError
from handeye.robot.kinematics.forward import UR10E, forward_kinematics, geometric_jacobian
from handeye.robot.kinematics.limits import UR10E_LIMITS, JointLimits
from handeye.robot.kinematics.ur10e_ik import (
    choose_solution,
    inverse_kinematics,
    inverse_kinematics_branches,
    nearest_turns,
)
from handeye.robot.transforms import log_se3, make_transform, wrap_angle

NUM_RANDOM = 2000
RANDOM_QPOS = np.random.default_rng(2).uniform(-np.pi, np.pi, (NUM_RANDOM, 6))
QUARTER_TURNS = [-np.pi, -np.pi / 2, 0.0, np.pi / 2, np.pi]
any_angles = arrays(np.float64, 6, elements=st.floats(-2 * np.pi, 2 * np.pi))


def residual(solutions: np.ndarray, T_base_tool: np.ndarray) -> float:
    return float(np.abs(forward_kinematics(solutions) - T_base_tool).max())


def distance(solutions: np.ndarray, qpos: np.ndarray) -> float:
    return float(np.abs(wrap_angle(solutions - qpos)).max(axis=1).min())


def test_every_random_configuration_is_among_the_solutions() -> None:
    worst_residual, num_found, counts = 0.0, 0, []
    for qpos, T in zip(RANDOM_QPOS, forward_kinematics(RANDOM_QPOS), strict=True):
        solutions = inverse_kinematics(T, q6_hint=0.0)
        worst_residual = max(worst_residual, residual(solutions, T))
        num_found += distance(solutions, qpos) < 1e-6
        counts.append(len(solutions))
    assert num_found == NUM_RANDOM
    assert worst_residual <= 1e-12
    assert set(counts) <= {2, 4, 6, 8}
    assert counts.count(8) > NUM_RANDOM // 2


def test_solutions_differ() -> None:
    for T in forward_kinematics(RANDOM_QPOS[:100]):
        solutions = inverse_kinematics(T, q6_hint=0.0)
        apart = np.abs(wrap_angle(solutions[:, None] - solutions)).max(axis=-1) + 10.0 * np.eye(len(solutions))
        assert apart.min() > 1e-6


def test_a_numerical_inverse_ends_in_one_of_the_solutions() -> None:
    """scipy's least squares from random starts knows nothing of branches; where it converges we must be as well."""
    rng, num_converged = np.random.default_rng(4), 0
    for T in forward_kinematics(RANDOM_QPOS[:15]):
        found = least_squares(
            lambda q, T=T: log_se3(np.linalg.inv(T) @ forward_kinematics(q)),
            rng.uniform(-np.pi, np.pi, 6),
            xtol=1e-15,
            ftol=1e-15,
            gtol=1e-15,
        )
        if found.cost < 1e-24:
            num_converged += 1
            assert distance(inverse_kinematics(T, q6_hint=0.0), found.x) < 1e-6
    assert num_converged >= 5


@settings(max_examples=200)
@given(arrays(np.float64, 6, elements=st.sampled_from(QUARTER_TURNS)), any_angles, st.floats(0.0, 1.0))
def test_solutions_near_and_at_quarter_turns_hold(base: np.ndarray, other: np.ndarray, amount: float) -> None:
    """Quarter turns make singular poses of every kind; `amount` moves away from them by any small step."""
    qpos = base + amount**12 * other
    T = forward_kinematics(qpos)
    solutions = inverse_kinematics(T, q6_hint=float(qpos[5]))
    assert np.all(np.isfinite(solutions))
    assert residual(solutions, T) <= 1e-9


@pytest.mark.parametrize("q5", [0.0, np.pi])
@pytest.mark.parametrize("q6_hint", [-2.0, 0.0, 1.3])
def test_a_free_last_joint_is_taken_from_the_hint(q5: float, q6_hint: float) -> None:
    T = forward_kinematics(np.array([0.4, -1.2, 1.5, 0.3, q5, 0.9]))
    solutions = inverse_kinematics(T, q6_hint=q6_hint)
    assert residual(solutions, T) <= 1e-12
    is_singular = np.abs(np.sin(solutions[:, 4])) < 1e-9
    assert is_singular.any()
    np.testing.assert_allclose(solutions[is_singular, 5], q6_hint, atol=1e-12)


def test_at_the_hint_of_its_own_angle_a_singular_configuration_comes_back() -> None:
    qpos = np.array([0.4, -1.2, 1.5, 0.3, 0.0, 0.9])
    assert distance(inverse_kinematics(forward_kinematics(qpos), q6_hint=0.9), qpos) < 1e-9


def test_branches_that_meet_count_once() -> None:
    stretched = inverse_kinematics(forward_kinematics(np.array([0.4, -1.2, 0.0, 0.3, 1.0, 0.9])), q6_hint=0.0)
    assert residual(stretched, forward_kinematics(stretched[0])) <= 1e-9
    assert len(stretched) < len(inverse_kinematics(forward_kinematics(RANDOM_QPOS[0]), q6_hint=0.0))


def cylinder_pose(radius_m: float) -> np.ndarray:
    """A pose whose wrist lies radius_m from the base axis, the tool pointing away and up."""
    R = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
    p_wrist = np.array([0.0, radius_m, 0.9])
    return make_transform(R, p_wrist + UR10E.d_m[5] * R[:, 2])


@pytest.mark.parametrize("excess_m", [1e-3, 1e-7, 1e-12, 0.0, -1e-12])
def test_at_the_wrist_cylinder_there_are_solutions(excess_m: float) -> None:
    T = cylinder_pose(UR10E.d_m[3] + excess_m)
    solutions = inverse_kinematics(T, q6_hint=0.0)
    assert np.all(np.isfinite(solutions))
    assert residual(solutions, T) <= 1e-9


@pytest.mark.parametrize("radius_m", [0.0, 0.1, UR10E.d_m[3] - 1e-6])
def test_inside_the_wrist_cylinder_there_are_none(radius_m: float) -> None:
    with pytest.raises(UnreachableError, match="axis of joint 1"):
        inverse_kinematics(cylinder_pose(radius_m), q6_hint=0.0)


def test_out_of_reach_names_the_pose() -> None:
    T = make_transform(np.eye(3), np.array([2.0, 0.5, 0.25]))
    with pytest.raises(UnreachableError, match=r"\(2\.0000, 0\.5000, 0\.2500\) m.*from the shoulder") as caught:
        inverse_kinematics(T, q6_hint=0.0)
    np.testing.assert_array_equal(caught.value.T_base_tool, T)


def test_a_pose_that_is_not_finite_is_refused() -> None:
    T = make_transform(np.eye(3), np.array([np.nan, 0.5, 0.25]))
    with pytest.raises(UnreachableError, match="not finite"):
        inverse_kinematics(T, q6_hint=0.0)


def test_branches_keep_their_place_along_a_path() -> None:
    """Follow the tool along a line: each branch's angles change smoothly, with the speed the Jacobian says."""
    start = forward_kinematics(np.array([2.8, -1.9, 1.95, -1.6, -1.57, 2.8]))
    offset = np.array([0.1, 0.2, -0.3])
    s = np.linspace(0.0, 1.0, 2001)
    poses = make_transform(start[:3, :3], start[:3, 3] + s[:, None] * offset)
    branches = inverse_kinematics_branches(poses, q6_hint=0.0).reshape(len(s), 8, 6)
    twist = np.concatenate([offset, np.zeros(3)])
    num_followed = 0
    for k in np.flatnonzero(np.isfinite(branches).all(axis=(0, 2))):
        steps = wrap_angle(np.diff(branches[:, k], axis=0))
        expected = np.linalg.solve(geometric_jacobian(branches[:-1, k]), twist) * (s[1] - s[0])
        np.testing.assert_allclose(steps, expected, atol=2e-6)
        num_followed += 1
    assert num_followed >= 4


def test_choosing_prefers_the_nearest_and_unwraps_to_it() -> None:
    qpos = np.array([3.3, -1.9, 1.9, -1.6, -4.0, 6.0])
    solutions = inverse_kinematics(forward_kinematics(qpos), q6_hint=0.0)
    near = qpos + 0.05
    np.testing.assert_allclose(choose_solution(solutions, near, UR10E_LIMITS), qpos, atol=1e-9)


@given(any_angles, any_angles)
def test_chosen_solutions_lie_within_limits_and_reach_the_pose(qpos: np.ndarray, near: np.ndarray) -> None:
    T = forward_kinematics(qpos)
    chosen = choose_solution(inverse_kinematics(T, q6_hint=float(qpos[5])), near, UR10E_LIMITS)
    assert UR10E_LIMITS.contain(chosen)
    assert residual(chosen[None], T) <= 1e-9


@given(arrays(np.float64, 6, elements=st.floats(-np.pi, np.pi)), any_angles)
def test_no_whole_turn_inside_the_limits_comes_nearer(qpos: np.ndarray, near: np.ndarray) -> None:
    turned = nearest_turns(qpos, near, UR10E_LIMITS)
    candidates = qpos + 2 * np.pi * np.arange(-2, 3)[:, None]
    inside = (candidates >= UR10E_LIMITS.qpos_low) & (candidates <= UR10E_LIMITS.qpos_high)
    best = np.where(inside, np.abs(candidates - near), np.inf).min(axis=0)
    np.testing.assert_allclose(np.abs(turned - near), best, atol=1e-9)


def test_weights_change_the_choice() -> None:
    solutions = np.array([[1.0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1.5]])
    near = np.zeros(6)
    cheap_wrist = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.1])
    np.testing.assert_array_equal(choose_solution(solutions, near, UR10E_LIMITS), solutions[0])
    np.testing.assert_array_equal(choose_solution(solutions, near, UR10E_LIMITS, cheap_wrist), solutions[1])


def test_solutions_outside_the_limits_are_not_chosen() -> None:
    tight = JointLimits(
        np.full(6, -1.0), np.full(6, 1.0), UR10E_LIMITS.qvel_max, UR10E_LIMITS.qacc_max, UR10E_LIMITS.qjerk_max
    )
    inside, outside = np.full(6, 0.9), np.array([0.0, 0.0, 1.1, 0.0, 0.0, 0.0])
    np.testing.assert_array_equal(choose_solution(np.stack([outside, inside]), np.zeros(6), tight), inside)
    with pytest.raises(JointLimitError, match=r"joints \[3\]"):
        choose_solution(outside[None], np.zeros(6), tight)
