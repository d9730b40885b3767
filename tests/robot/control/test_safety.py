"""The gates together: what is emitted is always safe, a violation holds and latches, and only reset opens the latch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handeye.robot.config import WorkCellConfig
from handeye.robot.control.gates import GateReason, check_joint_limits, check_table, check_workspace
from handeye.robot.control.safety import SafetyConfig, SafetyGates
from handeye.robot.errors import SafetyError
from handeye.robot.kinematics.collision_geometry import points_of_cell
from handeye.robot.kinematics.forward import forward_kinematics, link_frames
from handeye.robot.kinematics.limits import joint_limits_from_config
from handeye.robot.kinematics.ur10e_ik import choose_solution, inverse_kinematics
from handeye.robot.motion.trajectory import ToolLimits, plan_joint_motion, plan_linear_motion
from handeye.robot.transforms import apply_transform
from handeye.vision.config import validate_config
from handeye.vision.errors import ConfigError

CELL = WorkCellConfig()
LIMITS = joint_limits_from_config(CELL.joint_limits)
HOME = np.array(CELL.home_qpos)
T_HOME = forward_kinematics(HOME)
DT_S = 1.0 / CELL.control_hz
LIMIT_VALUES: dict[str, float] = {
    "joint_margin_rad": 0.02,
    "step_max_rad": 0.03,
    "velocity_fraction": 1.0,
    "acceleration_fraction": 1.1,
    "tool_speed_max_m_s": 2.0,
    "table_clearance_m": 0.001,
    "wrist_sine_min": 0.05,
    "elbow_sine_min": 0.05,
    "shoulder_reach_min_m": 0.02,
    "hold_age_s": 0.1,
    "stop_age_s": 0.3,
    "ahead_max_s": 0.01,
}


def make_config(**changes: Any) -> SafetyConfig:
    return validate_config(SafetyConfig, {**LIMIT_VALUES, **changes}, origin="safety")


def make_gates(qpos: np.ndarray = HOME, **changes: Any) -> SafetyGates:
    gates = SafetyGates(make_config(**changes), CELL)
    gates.reset(qpos, 0.05)
    return gates


def above(p_tcp: tuple[float, float, float], near: np.ndarray = HOME) -> np.ndarray:
    """Joint angles with the grasp point at p_tcp, the tool pointing down as at home."""
    T = T_HOME.copy()
    T[:3, 3] = np.array(p_tcp) - T_HOME[:3, 2] * CELL.tool_tcp.translation_m[2]
    return choose_solution(inverse_kinematics(T, q6_hint=float(near[5])), near, LIMITS)


def send(gates: SafetyGates, qpos: np.ndarray, gripper_m: float = 0.05, age_s: float = 0.0) -> tuple[GateReason, ...]:
    decision = gates.check(qpos, gripper_m, observation_age_s=age_s)
    assert decision.allowed == (not decision.violations)
    return decision.reasons


def test_planned_motions_pass() -> None:
    gates = make_gates()
    trajectory = plan_joint_motion(HOME, np.zeros(6), above((0.45, -0.55, 0.3)), LIMITS, DT_S)
    down = forward_kinematics(trajectory.qpos[-1])
    down[2, 3] -= 0.2
    line = plan_linear_motion(
        forward_kinematics(trajectory.qpos[-1]),
        down,
        start_qpos=trajectory.qpos[-1],
        limits=LIMITS.slowed(0.95),
        tool_limits=ToolLimits(0.5, 2.5, 25.0, 2.0, 10.0, 100.0),
        dt_s=DT_S,
    )
    for row in np.concatenate([trajectory.qpos, line.qpos]):
        decision = gates.check(row, 0.05, observation_age_s=0.05)
        assert decision.allowed, [str(violation) for violation in decision.violations]
        np.testing.assert_array_equal(decision.qpos_command, row)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.floats(-0.005, 0.09))
def test_whatever_comes_what_is_emitted_is_safe(seed: int, gripper_m: float) -> None:
    """Random accelerations about as great as allowed, from a low place: every emitted set-point keeps every limit."""
    rng, start = np.random.default_rng(seed), above((0.5, 0.0, 0.02))
    gates, config, points = make_gates(start), make_config(), points_of_cell(CELL)
    push = rng.uniform(-1.15, 1.15, (40, 6)) * LIMITS.qacc_max
    velocity = np.cumsum(push * DT_S, axis=0)
    ages_s = rng.choice([0.0, 0.2, 0.35], size=40, p=[0.96, 0.02, 0.02])
    sent, has_latched = [start, start], False
    for target, age_s in zip(start + np.cumsum(velocity * DT_S, axis=0), ages_s, strict=True):
        decision = gates.check(target, gripper_m, observation_age_s=float(age_s))
        qpos = decision.qpos_command
        np.testing.assert_array_equal(qpos, target if decision.allowed else sent[-1])
        assert not (has_latched and decision.allowed)
        has_latched = has_latched or decision.is_latched
        assert np.all(np.abs(qpos - sent[-1]) <= config.step_max_rad * (1 + 1e-5))
        assert np.all(np.abs(qpos - sent[-1]) <= LIMITS.qvel_max * DT_S * (1 + 1e-5))
        if decision.allowed:
            second = np.abs(qpos - 2 * sent[-1] + sent[-2])
            assert np.all(second <= 1.1 * LIMITS.qacc_max * DT_S**2 * (1 + 1e-5))
            assert age_s <= config.hold_age_s
        assert 0.0 <= decision.gripper_command_m <= CELL.gripper.opening_max_m
        assert LIMITS.contain(qpos, config.joint_margin_rad)
        links = link_frames(qpos)
        assert CELL.workspace.contains(apply_transform(links[6], np.array(CELL.tool_tcp.translation_m)))
        assert points.lowest_m(links).min() >= config.table_clearance_m
        sent.append(qpos)


def step_towards(start: np.ndarray, goal: np.ndarray, size_rad: float = 1e-4) -> np.ndarray:
    return start + size_rad * (goal - start) / np.abs(goal - start).max()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_refused(bad: float) -> None:
    target = HOME.copy()
    target[1] = bad
    assert send(make_gates(), target) == (GateReason.NOT_FINITE,)
    assert send(make_gates(), HOME, bad) == (GateReason.NOT_FINITE,)


def test_a_jump_is_refused_by_every_gate_it_offends() -> None:
    reasons = send(make_gates(), above((0.6, 0.3, 0.3)))
    assert set(reasons) == {GateReason.STEP, GateReason.VELOCITY, GateReason.ACCELERATION, GateReason.TOOL_SPEED}


def test_a_start_at_full_speed_is_an_acceleration_too_great() -> None:
    target = HOME.copy()
    target[0] += 0.9 * LIMITS.qvel_max[0] * DT_S
    assert send(make_gates(), target) == (GateReason.ACCELERATION,)


def test_speed_is_measured_from_the_last_command_and_not_from_where_the_arm_lags() -> None:
    """A creep of legal steps away from a standing arm is legal; each step counts from the one before."""
    gates, target = make_gates(), HOME.copy()
    for step in (0.0002, 0.0005, 0.0008, 0.0008, 0.0008):
        target = target + step
        assert send(gates, target) == ()


@pytest.mark.parametrize(
    ("inside", "outside", "reason"),
    [
        ((0.6, 0.0, CELL.workspace.low_m[2] + 1e-5), (0.6, 0.0, 0.0), GateReason.WORKSPACE),
        ((0.6, CELL.workspace.high_m[1] - 1e-5, 0.3), (0.6, 0.7, 0.3), GateReason.WORKSPACE),
    ],
)
def test_the_edge_of_the_workspace_is_not_crossed(
    inside: tuple[float, float, float], outside: tuple[float, float, float], reason: GateReason
) -> None:
    start = above(inside)
    assert send(make_gates(start), step_towards(start, above(outside, start))) == (reason,)


def test_nothing_but_the_grasp_point_comes_near_the_table_either() -> None:
    """A clearance above the fingertips' height at a legal grasp point: the table gate alone objects."""
    start = above((0.6, 0.0, 0.1))
    gates = make_gates(start, table_clearance_m=0.0879)
    assert send(gates, step_towards(start, above((0.6, 0.0, 0.05), start), 5e-4)) == (GateReason.TABLE,)


def test_joint_limits_hold_with_their_margin() -> None:
    start = HOME.copy()
    start[5] = 2 * np.pi - 0.0201
    target = start.copy()
    target[5] += 0.0002
    assert send(make_gates(start), target) == (GateReason.JOINT_LIMIT,)


@pytest.mark.parametrize(("joint", "margin"), [(4, "wrist_sine_min"), (2, "elbow_sine_min")])
def test_the_neighbourhood_of_a_singularity_is_closed(joint: int, margin: str) -> None:
    """Creep from a place just outside the margin towards a stretched joint until the gate shuts."""
    gates = make_gates(HOME, **{margin: abs(float(np.sin(HOME[joint]))) - 1e-6})
    decisions = []
    for k in range(20):
        target = HOME.copy()
        target[joint] += 3e-4 * k
        decisions.append(gates.check(target, 0.05, observation_age_s=0.0))
    assert decisions[0].allowed
    assert decisions[-1].reasons == (GateReason.SINGULARITY,)
    assert [violation.where for violation in gates.latched] == [margin.split("_")[0]]


@pytest.mark.parametrize("gripper_m", [-1e-6, 0.0851])
def test_the_gripper_keeps_its_range(gripper_m: float) -> None:
    assert send(make_gates(), HOME, gripper_m) == (GateReason.GRIPPER_RANGE,)


def test_an_old_observation_holds_and_a_new_one_lets_go() -> None:
    gates, target = make_gates(), HOME + 1e-4
    decision = gates.check(target, 0.05, observation_age_s=0.2)
    assert decision.reasons == (GateReason.STALE_OBSERVATION,)
    assert not decision.is_latched
    np.testing.assert_array_equal(decision.qpos_command, HOME)
    assert send(gates, target) == ()


def test_a_lost_observation_latches() -> None:
    gates = make_gates()
    assert send(gates, HOME, age_s=0.31) == (GateReason.LOST_OBSERVATION,)
    assert send(gates, HOME) == (GateReason.LOST_OBSERVATION,)


def test_the_latch_keeps_its_reasons_until_reset() -> None:
    gates = make_gates()
    assert gates.latched == ()
    first = gates.check(above((0.6, 0.3, 0.3)), 0.05, observation_age_s=0.0)
    assert first.is_latched
    for _ in range(3):
        again = gates.check(HOME, 0.05, observation_age_s=0.0)
        assert (again.allowed, again.is_latched, again.violations) == (False, True, first.violations)
        np.testing.assert_array_equal(again.qpos_command, HOME)
    assert gates.latched == first.violations
    gates.reset(HOME, 0.05)
    assert gates.latched == ()
    assert send(gates, HOME) == ()


def test_after_a_hold_motion_must_start_from_rest() -> None:
    gates, target = make_gates(), HOME
    speed = 0.0
    for _ in range(20):
        speed += 3e-4
        target = target + speed
        assert send(gates, target) == ()
    assert send(gates, target, age_s=0.2) == (GateReason.STALE_OBSERVATION,)
    assert send(gates, target + speed) == (GateReason.ACCELERATION,)


def test_the_gates_keep_their_own_copy_of_what_was_commanded() -> None:
    gates, target = make_gates(), HOME + 1e-4
    send(gates, target)
    target += 1.0
    decision = gates.check(target, 0.05, observation_age_s=0.0)
    np.testing.assert_array_equal(decision.qpos_command, HOME + 1e-4)


def test_gates_must_be_told_where_the_arm_is() -> None:
    with pytest.raises(SafetyError, match="reset"):
        SafetyGates(make_config(), CELL).check(HOME, 0.05, observation_age_s=0.0)


def test_reset_refuses_a_place_outside_the_gates_and_changes_nothing() -> None:
    gates = make_gates()
    send(gates, HOME + 1.0)
    latched = gates.latched
    for wrong in (np.zeros(6), np.full(6, np.nan)):
        with pytest.raises(SafetyError, match="outside its gates"):
            gates.reset(wrong, 0.05)
    assert gates.latched == latched


@pytest.mark.parametrize(("measured_m", "commanded_m"), [(-1e-4, 0.0), (0.0853, 0.085), (0.04, 0.04)])
def test_a_measured_opening_beyond_the_range_counts_as_its_end(measured_m: float, commanded_m: float) -> None:
    gates = SafetyGates(make_config(), CELL)
    gates.reset(HOME, measured_m)
    assert gates.check(HOME, 0.05, observation_age_s=1.0).gripper_command_m == commanded_m


@pytest.mark.parametrize("name", list(LIMIT_VALUES))
def test_no_limit_has_a_default(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}.*required"):
        validate_config(SafetyConfig, {key: LIMIT_VALUES[key] for key in LIMIT_VALUES if key != name}, origin="safety")


@pytest.mark.parametrize("name", list(LIMIT_VALUES))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.01, "much"])
def test_limits_that_would_switch_a_gate_off_are_refused(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name):
        make_config(**{name: value})


def test_holding_comes_before_stopping() -> None:
    with pytest.raises(ConfigError, match="hold_age_s"):
        make_config(hold_age_s=0.5)


def test_a_margin_must_leave_the_joints_room() -> None:
    with pytest.raises(ConfigError, match="no room"):
        SafetyGates(make_config(joint_margin_rad=3.2), CELL)


@pytest.mark.parametrize(("opening_m", "sent_m"), [(0.08500000000000002, 0.085), (-1e-17, 0.0)])
def test_an_opening_that_rounding_put_beside_the_range_is_sent_as_its_end(opening_m: float, sent_m: float) -> None:
    gates = make_gates()
    decision = gates.check(HOME, opening_m, observation_age_s=0.0)
    assert decision.allowed
    assert decision.gripper_command_m == sent_m
    assert not gates.check(HOME, 0.0851, observation_age_s=0.0).allowed


def test_places_at_a_limit_pass_with_the_rounding_of_sums_and_no_more() -> None:
    low, high = np.zeros(3), np.ones(3)
    for excess, is_inside in ((1e-12, True), (1e-6, False)):
        assert (not check_workspace(high + excess, low, high)) is is_inside
        assert (not check_table(np.array([-excess]), 0.0, ["tip"])) is is_inside
        beyond = LIMITS.qpos_high - 0.02 + excess
        assert (not check_joint_limits(beyond, LIMITS, 0.02)) is is_inside
