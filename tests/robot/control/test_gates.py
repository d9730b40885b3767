"""Each gate by itself: lets through what it should, stops what it should, and never lets NaN through."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from handeye.robot.control.gates import (
    ROUNDING_SI,
    GateReason,
    GateViolation,
    Violations,
    check_acceleration,
    check_age,
    check_clearance,
    check_finite,
    check_gripper,
    check_jerk,
    check_joint_limits,
    check_singularity,
    check_step,
    check_tool_speed,
    check_turns,
    check_velocity,
    check_workspace,
)
from handeye.robot.kinematics.clearance import NearPair, Obstacle
from handeye.robot.kinematics.forward import SingularityMargins, singularity_measures
from handeye.robot.kinematics.limits import UR10E_LIMITS

DT_S = 0.008
joints = arrays(np.float64, 6, elements=st.floats(-8.0, 8.0))
points = arrays(np.float64, 3, elements=st.floats(-2.0, 2.0))
any_numbers = arrays(np.float64, 6, elements=st.floats(allow_nan=True, allow_infinity=True))
MARGINS = SingularityMargins(0.05, 0.1, 0.02)
LOW, HIGH = np.array([0.2, -0.5, 0.0]), np.array([1.0, 0.5, 0.9])
NAN_JOINTS, NAN_POINT = np.full(6, np.nan), np.full(3, np.nan)


def names(violations: Violations) -> set[str]:
    return {violation.where for violation in violations}


@given(any_numbers, st.floats(allow_nan=True, allow_infinity=True))
def test_finite_gate_passes_exactly_the_finite(qpos: np.ndarray, gripper_m: float) -> None:
    violations = check_finite(qpos, gripper_m)
    bad = {f"joint {i + 1}" for i in range(6) if not np.isfinite(qpos[i])}
    assert names(violations) == bad | ({"gripper"} if not np.isfinite(gripper_m) else set())


@given(joints, st.floats(0.0, 0.5))
def test_joint_gate_passes_what_lies_inside_but_for_rounding(qpos: np.ndarray, margin_rad: float) -> None:
    violations = check_joint_limits(qpos, UR10E_LIMITS, margin_rad)
    assert not violations or not UR10E_LIMITS.contain(qpos, margin_rad)
    assert violations or UR10E_LIMITS.contain(qpos, margin_rad - 2 * ROUNDING_SI)
    for violation in violations:
        joint = int(violation.where.removeprefix("joint ")) - 1
        assert violation.value == qpos[joint]
        outwards = np.sign(violation.value - violation.limit)
        nearest = UR10E_LIMITS.qpos_high if outwards > 0 else UR10E_LIMITS.qpos_low
        assert violation.limit == pytest.approx(nearest[joint] - outwards * margin_rad)


@given(joints, joints, st.floats(1e-4, 20.0))
def test_step_gate_measures_from_the_last_command(target: np.ndarray, last: np.ndarray, step_max: float) -> None:
    violations = check_step(target, last, step_max)
    assert (not violations) == (np.abs(target - last).max() <= step_max * (1 + 1e-6))
    assert check_step(last, target, step_max) == violations
    assert check_step(last, last, step_max) == ()


@pytest.mark.parametrize(
    ("check", "limit", "reason"),
    [
        (check_velocity, UR10E_LIMITS.qvel_max, GateReason.VELOCITY),
        (check_acceleration, UR10E_LIMITS.qacc_max, GateReason.ACCELERATION),
        (check_jerk, UR10E_LIMITS.qjerk_max, GateReason.JERK),
    ],
)
@given(shares=arrays(np.float64, 6, elements=st.floats(-2.0, 2.0)))
def test_rate_gates_pass_up_to_the_limit_in_both_directions(
    check: Callable[[np.ndarray, np.ndarray], Violations], limit: np.ndarray, reason: GateReason, shares: np.ndarray
) -> None:
    violations = check(shares * limit, limit)
    assert names(violations) == {f"joint {i + 1}" for i in np.flatnonzero(np.abs(shares) > 1 + 1e-6)}
    assert all(violation.reason is reason for violation in violations)


@given(joints)
def test_turn_gate_passes_half_a_turn_from_home(offset: np.ndarray) -> None:
    home = np.arange(6.0)
    violations = check_turns(home + offset, home)
    assert names(violations) == {f"joint {i + 1}" for i in np.flatnonzero(np.abs(home + offset - home) > np.pi)}


@given(st.floats(0.0, 0.05), st.floats(0.05, 0.1), st.floats(-0.2, 0.2))
def test_gripper_gate_passes_its_range_but_for_rounding(low_m: float, high_m: float, target_m: float) -> None:
    violations = check_gripper(target_m, low_m, high_m)
    assert (not violations) == (low_m - ROUNDING_SI <= target_m <= high_m + ROUNDING_SI)


@given(points)
def test_workspace_gate_passes_the_box_but_for_rounding(p_base: np.ndarray) -> None:
    violations = check_workspace(p_base, LOW, HIGH)
    outside = (p_base < LOW - ROUNDING_SI) | (p_base > HIGH + ROUNDING_SI)
    assert names(violations) == {f"tcp {'xyz'[i]}" for i in np.flatnonzero(outside)}


def test_the_border_of_the_workspace_belongs_to_it() -> None:
    assert check_workspace(LOW, LOW, HIGH) == check_workspace(HIGH, LOW, HIGH) == ()


@pytest.mark.parametrize(
    ("obstacle", "reason"),
    [
        (Obstacle.SELF, GateReason.SELF_COLLISION),
        (Obstacle.FIXTURE, GateReason.FIXTURE),
        (Obstacle.TABLE, GateReason.TABLE),
    ],
)
def test_clearance_gate_says_what_is_too_near_to_what(obstacle: Obstacle, reason: GateReason) -> None:
    (violation,) = check_clearance([NearPair("forearm at palm", obstacle, 0.002, 0.005)])
    assert violation == GateViolation(reason, "forearm at palm", 0.002, 0.005)
    assert check_clearance([]) == ()


@given(points, points, st.floats(0.01, 5.0))
def test_tool_speed_gate_is_the_distance_over_the_period(p: np.ndarray, p_last: np.ndarray, speed_max: float) -> None:
    violations = check_tool_speed(p, p_last, speed_max, DT_S)
    assert (not violations) == (np.linalg.norm(p - p_last) / DT_S <= speed_max * (1 + 1e-6))


@given(joints)
def test_singularity_gate_names_what_is_singular(qpos: np.ndarray) -> None:
    measures = singularity_measures(qpos)
    expected = {
        name
        for name, measure, margin in zip(("wrist", "elbow", "shoulder"), measures, MARGINS.values, strict=True)
        if measure < margin
    }
    assert names(check_singularity(np.array(measures), MARGINS)) == expected


@pytest.mark.parametrize(
    ("age_s", "reasons"),
    [
        (0.0, []),
        (0.1, []),
        (-0.01, []),
        (0.1001, [GateReason.STALE_OBSERVATION]),
        (0.3, [GateReason.STALE_OBSERVATION]),
        (0.3001, [GateReason.LOST_OBSERVATION]),
        (np.inf, [GateReason.LOST_OBSERVATION]),
        (np.nan, [GateReason.LOST_OBSERVATION]),
        (-0.0101, [GateReason.FUTURE_OBSERVATION]),
        (-np.inf, [GateReason.FUTURE_OBSERVATION]),
    ],
)
def test_age_gate_holds_then_stops(age_s: float, reasons: list[GateReason]) -> None:
    assert [violation.reason for violation in check_age(age_s, 0.1, 0.3, 0.01)] == reasons


@pytest.mark.parametrize(
    ("reason", "violations"),
    [
        (GateReason.NOT_FINITE, check_finite(NAN_JOINTS, 0.0)),
        (GateReason.LOST_OBSERVATION, check_age(float("nan"), 0.1, 0.3, 0.01)),
        (GateReason.JOINT_LIMIT, check_joint_limits(NAN_JOINTS, UR10E_LIMITS, 0.0)),
        (GateReason.STEP, check_step(NAN_JOINTS, np.zeros(6), 0.1)),
        (GateReason.VELOCITY, check_velocity(NAN_JOINTS, UR10E_LIMITS.qvel_max)),
        (GateReason.ACCELERATION, check_acceleration(NAN_JOINTS, UR10E_LIMITS.qacc_max)),
        (GateReason.JERK, check_jerk(NAN_JOINTS, UR10E_LIMITS.qjerk_max)),
        (GateReason.JOINT_TURN, check_turns(NAN_JOINTS, np.zeros(6))),
        (GateReason.GRIPPER_RANGE, check_gripper(float("nan"), 0.0, 0.085)),
        (GateReason.WORKSPACE, check_workspace(NAN_POINT, LOW, HIGH)),
        (GateReason.TOOL_SPEED, check_tool_speed(NAN_POINT, LOW, 1.0, DT_S)),
        (GateReason.SINGULARITY, check_singularity(NAN_POINT, MARGINS)),
    ],
)
def test_no_gate_lets_nan_through(reason: GateReason, violations: Violations) -> None:
    assert violations
    assert all(violation.reason is reason for violation in violations)


def test_the_merely_stale_is_the_only_reason_that_does_not_latch() -> None:
    assert [reason for reason in GateReason if not reason.latches] == [GateReason.STALE_OBSERVATION]


def test_a_violation_reads_as_a_sentence_with_numbers() -> None:
    text = str(GateViolation(GateReason.VELOCITY, "joint 3", 3.5, 3.1416))
    assert text == "velocity: joint 3 at 3.5, limit 3.142"
