"""What is sent: always within the limits, in stops too; a violation stops and latches, and only reset opens it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handeye.robot.config import WorkCellConfig
from handeye.robot.control.gates import GateReason, check_joint_limits, check_workspace
from handeye.robot.control.safety import SafetyConfig
from handeye.robot.control.set_point_stream import GateDecision, SetPointStream
from handeye.robot.errors import SafetyError
from handeye.robot.kinematics.clearance import CellClearance
from handeye.robot.kinematics.forward import forward_kinematics, link_frames
from handeye.robot.kinematics.limits import joint_limits_from_config
from handeye.robot.kinematics.ur10e_ik import choose_solution, inverse_kinematics
from handeye.robot.motion.set_points import SetPoint
from handeye.robot.motion.trajectory import ToolLimits, plan_joint_motion, plan_linear_motion
from handeye.vision.config import validate_config
from handeye.vision.errors import ConfigError

CELL = WorkCellConfig()
LIMITS = joint_limits_from_config(CELL.joint_limits)
HOME = np.array(CELL.home_qpos)
T_HOME = forward_kinematics(HOME)
DT_S = 1.0 / CELL.control_hz
LIMIT_VALUES: dict[str, float] = {
    "joint_margin_rad": 0.02,
    "step_max_rad": 0.35,
    "velocity_fraction": 1.0,
    "acceleration_fraction": 1.5,
    "jerk_fraction": 4.0,
    "tool_speed_max_m_s": 2.0,
    "table_clearance_m": 0.001,
    "fixture_clearance_m": 0.005,
    "self_clearance_m": 0.005,
    "held_clearance_m": 0.003,
    "wrist_sine_min": 0.05,
    "elbow_sine_min": 0.05,
    "shoulder_reach_min_m": 0.02,
    "hold_age_s": 0.1,
    "stop_age_s": 0.3,
    "policy_silent_max_s": 1.0,
    "ahead_max_s": 0.01,
}


def make_config(**changes: Any) -> SafetyConfig:
    return validate_config(SafetyConfig, {**LIMIT_VALUES, **changes}, origin="safety")


def make_stream(qpos: np.ndarray = HOME, **changes: Any) -> SetPointStream:
    stream = SetPointStream(make_config(**changes), CELL)
    stream.reset(qpos, 0.05)
    return stream


def step(stream: SetPointStream, qpos: np.ndarray, gripper_m: float = 0.05, age_s: float = 0.0) -> GateDecision:
    return stream.step(SetPoint(qpos, np.zeros(6), gripper_m), observation_age_s=age_s)


def above(p_tcp: tuple[float, float, float], near: np.ndarray = HOME) -> np.ndarray:
    """Joint angles with the grasp point at p_tcp, the tool pointing down as at home."""
    T = T_HOME.copy()
    T[:3, 3] = np.array(p_tcp) - T_HOME[:3, 2] * CELL.tool_tcp.translation_m[2]
    return choose_solution(inverse_kinematics(T, q6_hint=float(near[5])), near, LIMITS)


def send(
    stream: SetPointStream, qpos: np.ndarray, gripper_m: float = 0.05, age_s: float = 0.0
) -> tuple[GateReason, ...]:
    decision = step(stream, qpos, gripper_m, age_s)
    assert decision.allowed == (not decision.violations)
    return decision.reasons


def run_to_rest(stream: SetPointStream, target: np.ndarray, ticks: int = 400) -> tuple[GateReason, ...]:
    """Ask for the same target again and again; the reasons of the first refusal."""
    for _ in range(ticks):
        reasons = send(stream, target)
        if reasons:
            return reasons
    return ()


def assert_limits_kept(sent: list[np.ndarray], start: np.ndarray) -> None:
    """Velocity, acceleration and jerk of the set-points that were sent, from rest at `start`."""
    config, qpos = make_config(), np.array([start, start, start, *sent])
    bounds = (
        LIMITS.qvel_max * config.velocity_fraction,
        LIMITS.qacc_max * config.acceleration_fraction,
        LIMITS.qjerk_max * config.jerk_fraction,
    )
    for order, bound in enumerate(bounds, start=1):
        assert (np.abs(np.diff(qpos, order, axis=0)) <= bound * DT_S**order * (1 + 1e-5)).all(), f"difference {order}"


def assert_places_legal(sent: list[np.ndarray]) -> None:
    qpos, config = np.array(sent), make_config()
    links = link_frames(qpos)
    p_tcp = links[:, 6, :3, :3] @ np.array(CELL.tool_tcp.translation_m) + links[:, 6, :3, 3]
    assert LIMITS.contain(qpos, config.joint_margin_rad).all()
    assert (p_tcp >= np.array(CELL.workspace.low_m) - 1e-9).all()
    assert (p_tcp <= np.array(CELL.workspace.high_m) + 1e-9).all()
    assert not CellClearance(CELL, config.clearances).too_near(qpos, links, 0.085, holds=False).any()


def test_planned_motions_pass() -> None:
    stream = make_stream()
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
        decision = step(stream, row, age_s=0.05)
        assert decision.allowed, [str(violation) for violation in decision.violations]
        np.testing.assert_array_equal(decision.qpos_command, row)


JUMPS = st.sampled_from([0.0, 1e-5, 1e-3, 0.02, 0.1, 0.34, 1.0, 7.0, np.nan, np.inf])
AGES_S = st.sampled_from([0.0, 0.0, 0.0, 0.2, 0.35, -0.1, np.nan])


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    phases=st.lists(st.tuples(JUMPS, AGES_S), min_size=1, max_size=8),
    gripper_m=st.floats(-0.005, 0.09),
    resets=st.booleans(),
)
def test_whatever_comes_what_is_sent_keeps_every_limit(
    seed: int, phases: list[tuple[float, float]], gripper_m: float, *, resets: bool
) -> None:
    """Targets that creep, jump, are NaN or huge, with observations of any age, from a low place near the edge."""
    rng, start = np.random.default_rng(seed), above((0.5, 0.0, 0.02))
    stream, target, sent, has_latched = make_stream(start), start.copy(), [], False
    for size, age_s in phases:
        direction = rng.uniform(-1.0, 1.0, 6)
        for tick in range(25):
            target = target + (direction * size if tick % 10 == 0 else direction * 1e-3)
            decision = step(stream, target, gripper_m, age_s)
            sent.append(decision.qpos_command)
            assert not (has_latched and decision.allowed)
            assert decision.allowed == (not decision.violations)
            has_latched = has_latched or decision.is_latched
            assert 0.0 <= decision.gripper_command_m <= CELL.gripper.opening_max_m
        if not np.isfinite(target).all():
            target = stream.command.qpos.copy()
        if resets and has_latched:
            while not stream.command.is_at_rest:
                sent.append(stream.hold(stream.latched).qpos_command)
            stream.reset(stream.command.qpos, 0.05)
            target, has_latched = stream.command.qpos.copy(), False
    for _ in range(120):
        sent.append(stream.hold().qpos_command)
    np.testing.assert_array_equal(sent[-1], sent[-2])
    assert_limits_kept(sent, start)
    assert_places_legal(sent)


@pytest.mark.parametrize("cause", ["stale", "lost", "nan", "jump", "end"])
def test_at_full_speed_every_stop_is_over_in_its_time_and_distance(cause: str) -> None:
    """A cubic stop from v: 1.5 v / a or sqrt(6 v / j), whichever is longer, and half of v times that."""
    stream, config = make_stream(stop_age_s=1.0), make_config()
    goal = HOME + np.array([-1.2, 0.0, 0.0, 0.0, 0.0, 0.0])
    motion = plan_joint_motion(HOME, np.zeros(6), goal, LIMITS, DT_S).qpos
    fastest = int(np.argmax(np.abs(np.diff(motion[:, 0]))))
    sent = [step(stream, row).qpos_command for row in motion[:fastest]]
    speed = abs(float(stream.command.qvel[0]))
    assert speed > 0.9 * LIMITS.qvel_max[0]
    here = stream.command.qpos
    targets = {"nan": np.full(6, np.nan), "jump": HOME + 1.0}
    ages_s = {"stale": 0.2, "lost": 1.5}
    stop = []
    while not stream.command.is_at_rest:
        decision = (
            stream.hold() if cause == "end" else step(stream, targets.get(cause, here), age_s=ages_s.get(cause, 0.0))
        )
        assert not decision.allowed
        stop.append(decision.qpos_command)
    assert decision.is_latched == (cause in ("lost", "nan", "jump"))
    acceleration, jerk = config.acceleration_fraction * LIMITS.qacc_max[0], config.jerk_fraction * LIMITS.qjerk_max[0]
    longest_s = max(1.5 * speed / acceleration, np.sqrt(6.0 * speed / jerk))
    assert len(stop) * DT_S <= longest_s + 4 * DT_S
    assert abs(stop[-1][0] - here[0]) <= 0.5 * speed * (longest_s + DT_S)
    assert_limits_kept([*sent, *stop], HOME)


def test_before_the_edge_it_stops_on_this_side() -> None:
    """Driven at the workspace's edge with full speed: the stop that would cross it is refused in advance."""
    start = above((0.6, 0.3, 0.3))
    stream, target, sent = make_stream(start, step_max_rad=10.0), above((0.6, 0.9, 0.3), start), []
    reasons = ()
    while not reasons:
        decision = step(stream, target)
        sent.append(decision.qpos_command)
        reasons = decision.reasons
    assert GateReason.WORKSPACE in reasons
    assert np.abs(stream.command.qvel).max() > 0.3, "it crept there"
    while not stream.command.is_at_rest:
        sent.append(step(stream, target).qpos_command)
    assert_limits_kept(sent, start)
    assert_places_legal(sent)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_refused(bad: float) -> None:
    target = HOME.copy()
    target[1] = bad
    assert send(make_stream(), target) == (GateReason.NOT_FINITE,)
    assert send(make_stream(), HOME, bad) == (GateReason.NOT_FINITE,)


def test_a_target_far_from_what_was_sent_last_is_refused() -> None:
    assert send(make_stream(), HOME + np.array([0.0, 0.0, 0.0, 0.0, 0.36, 0.0])) == (GateReason.STEP,)
    assert send(make_stream(), HOME + np.array([0.0, 0.0, 0.0, 0.0, 0.34, 0.0])) == ()


def test_a_target_that_jumps_is_followed_within_the_limits() -> None:
    stream, target, sent = make_stream(), HOME + np.array([0.3, 0.0, 0.0, 0.2, 0.0, 0.0]), []
    while not np.array_equal(stream.command.qpos, target):
        assert send(stream, target) == ()
        sent.append(stream.command.qpos)
        assert len(sent) < 200
    assert_limits_kept(sent, HOME)


@pytest.mark.parametrize(
    ("inside", "outside"),
    [
        ((0.6, 0.0, CELL.workspace.low_m[2] + 1e-3), (0.6, 0.0, 0.0)),
        ((0.6, CELL.workspace.high_m[1] - 1e-3, 0.3), (0.6, 0.7, 0.3)),
    ],
)
def test_the_edge_of_the_workspace_is_not_crossed(
    inside: tuple[float, float, float], outside: tuple[float, float, float]
) -> None:
    start = above(inside)
    assert GateReason.WORKSPACE in run_to_rest(make_stream(start), above(outside, start))


def test_nothing_but_the_grasp_point_comes_near_the_table_either() -> None:
    """A clearance above the fingertips' height at a legal grasp point: the table gate alone objects."""
    start = above((0.6, 0.0, 0.1))
    stream = make_stream(start, table_clearance_m=0.0879)
    assert run_to_rest(stream, above((0.6, 0.0, 0.05), start)) == (GateReason.TABLE,)


def test_a_hand_in_the_bin_does_not_go_into_its_wall() -> None:
    x, y = CELL.bin.centre_xy_m
    start = above((x, y, 0.09))
    stream = make_stream(start)
    assert run_to_rest(stream, above((x, y - 0.12, 0.09), start)) == (GateReason.FIXTURE,)
    assert any("bin_wall_-y" in violation.where for violation in stream.latched)


@pytest.mark.parametrize(
    ("start", "joint", "pair"),
    [
        ((2.02, -1.23, 2.47, -2.55, -0.16, 3.34), 2, "upper arm at wrist 1"),
        ((2.17, -1.12, 2.09, -0.44, -1.73, 2.55), 3, "forearm at camera"),
    ],
)
def test_an_arm_does_not_fold_into_itself(start: tuple[float, ...], joint: int, pair: str) -> None:
    qpos = np.array(start)
    target, stream = qpos.copy(), make_stream(qpos, step_max_rad=1.0)
    target[joint] += 0.5
    assert run_to_rest(stream, target) == (GateReason.SELF_COLLISION,)
    assert pair in [violation.where for violation in stream.latched]


@pytest.mark.parametrize(("gripper_m", "reasons"), [(0.06, ()), (0.05, (GateReason.FIXTURE,))])
def test_what_may_be_held_is_kept_from_the_walls_of_the_bin(gripper_m: float, reasons: tuple[GateReason, ...]) -> None:
    """Fingers sent nearer together than a cube is wide count as holding one."""
    x, y = CELL.bin.centre_xy_m
    start = above((x, y, 0.13))
    stream = make_stream(start)
    at_wall = above((x - CELL.bin.inside_m[0] / 2 + 0.029, y, 0.13), start)
    motion = plan_joint_motion(start, np.zeros(6), at_wall, LIMITS.slowed(0.1), DT_S)
    found = [send(stream, row, gripper_m) for row in motion.qpos]
    assert found[-1] == reasons
    assert all(violation.where == "held object at bin_wall_-x" for violation in stream.latched)


def test_joint_limits_hold_with_their_margin() -> None:
    start = HOME.copy()
    start[5] = 5.9
    target = start.copy()
    target[5] += 0.1
    assert run_to_rest(make_stream(start, joint_margin_rad=2 * np.pi - 5.901), target) == (GateReason.JOINT_LIMIT,)


@pytest.mark.parametrize("joint", range(6))
def test_a_joint_one_turn_away_is_to_be_unwound_first(joint: int) -> None:
    """It looks the same and is within its limits; a motion to it would turn the cable or hit the other end."""
    wound = HOME.copy()
    wound[joint] -= 2 * np.pi * np.sign(wound[joint])
    with pytest.raises(SafetyError, match=f"joint_turn: joint {joint + 1} at 6.283, limit 3.142"):
        make_stream().reset(wound, 0.05)


@pytest.mark.parametrize(("joint", "margin"), [(4, "wrist_sine_min"), (2, "elbow_sine_min")])
def test_the_neighbourhood_of_a_singularity_is_closed(joint: int, margin: str) -> None:
    """Move a joint towards straight from a place outside its margin."""
    stream = make_stream(HOME, **{margin: abs(float(np.sin(HOME[joint]))) - 1e-3})
    target = HOME.copy()
    target[joint] += 0.2
    assert run_to_rest(stream, target) == (GateReason.SINGULARITY,)
    assert [violation.where for violation in stream.latched] == [margin.split("_")[0]]


@pytest.mark.parametrize("gripper_m", [-1e-6, 0.0851])
def test_the_gripper_keeps_its_range(gripper_m: float) -> None:
    assert send(make_stream(), HOME, gripper_m) == (GateReason.GRIPPER_RANGE,)


def test_an_old_observation_stops_and_a_new_one_lets_go() -> None:
    stream, target = make_stream(), HOME + 1e-5
    decision = step(stream, target, age_s=0.2)
    assert decision.reasons == (GateReason.STALE_OBSERVATION,)
    assert not decision.is_latched
    np.testing.assert_array_equal(decision.qpos_command, HOME)
    assert send(stream, target) == ()


def test_a_new_observation_in_the_middle_of_a_stop_goes_on_from_there() -> None:
    stream, goal, sent = make_stream(), HOME + np.array([-0.34, 0.0, 0.0, 0.0, 0.0, 0.0]), []
    for tick in range(300):
        decision = step(stream, goal, age_s=0.2 if 20 <= tick < 24 else 0.0)
        sent.append(decision.qpos_command)
        assert decision.allowed == (not 20 <= tick < 24)
    assert np.abs(sent[24] - sent[23]).max() > 1e-3, "it was at rest"
    np.testing.assert_array_equal(sent[-1], goal)
    assert_limits_kept(sent, HOME)


def test_a_lost_observation_latches() -> None:
    stream = make_stream()
    assert send(stream, HOME, age_s=0.31) == (GateReason.LOST_OBSERVATION,)
    assert send(stream, HOME) == (GateReason.LOST_OBSERVATION,)


def test_an_observation_that_stays_old_latches_in_the_end() -> None:
    stream = make_stream()
    waited = 0
    while not step(stream, HOME, age_s=0.2).is_latched:
        waited += 1
    assert waited * DT_S == pytest.approx(0.3, abs=DT_S)
    assert GateReason.LOST_OBSERVATION in [violation.reason for violation in stream.latched]


def test_a_policy_whose_chunk_ended_long_ago_is_silent() -> None:
    stream = make_stream()
    for past_end_s, reasons in ((1.0, ()), (1.001, (GateReason.POLICY_SILENT,))):
        target = SetPoint(HOME, np.zeros(6), 0.05, past_end_s)
        assert stream.step(target, observation_age_s=0.0).reasons == reasons
    assert stream.latched


def test_the_latch_keeps_its_reasons_until_reset() -> None:
    stream = make_stream()
    assert stream.latched == ()
    first = step(stream, HOME + 1.0)
    assert first.is_latched
    for _ in range(3):
        again = step(stream, HOME)
        assert (again.allowed, again.is_latched, again.violations) == (False, True, first.violations)
        np.testing.assert_array_equal(again.qpos_command, HOME)
    assert stream.latched == first.violations
    stream.reset(HOME, 0.05)
    assert stream.latched == ()
    assert send(stream, HOME) == ()


def test_the_gripper_keeps_its_hold_while_the_arm_stops() -> None:
    stream = make_stream()
    step(stream, HOME, 0.02)
    assert step(stream, HOME + 1.0, 0.08).gripper_command_m == 0.02
    assert stream.hold().gripper_command_m == 0.02


def test_the_stream_keeps_its_own_copy_of_what_was_sent() -> None:
    stream, target = make_stream(), HOME + 1e-5
    send(stream, target)
    target += 1.0
    np.testing.assert_array_equal(stream.command.qpos, HOME + 1e-5)


def test_what_a_driver_has_changed_is_where_the_stream_goes_on() -> None:
    stream = make_stream()
    command = step(stream, HOME + 1e-5).qpos_command
    assert not stream.resync(command)
    assert stream.resync(HOME + 1e-3)
    np.testing.assert_array_equal(stream.command.qpos, HOME + 1e-3)
    assert stream.command.is_at_rest


def test_gates_must_be_told_where_the_arm_is() -> None:
    with pytest.raises(SafetyError, match="reset"):
        step(SetPointStream(make_config(), CELL), HOME)


def test_reset_refuses_a_place_outside_the_gates_and_changes_nothing() -> None:
    stream = make_stream()
    send(stream, HOME + 1.0)
    latched = stream.latched
    for wrong in (np.zeros(6), np.full(6, np.nan)):
        with pytest.raises(SafetyError, match="outside its gates"):
            stream.reset(wrong, 0.05)
    assert stream.latched == latched


@pytest.mark.parametrize(("measured_m", "commanded_m"), [(-1e-4, 0.0), (0.0853, 0.085), (0.04, 0.04)])
def test_a_measured_opening_beyond_the_range_counts_as_its_end(measured_m: float, commanded_m: float) -> None:
    stream = SetPointStream(make_config(), CELL)
    stream.reset(HOME, measured_m)
    assert step(stream, HOME, age_s=1.0).gripper_command_m == commanded_m


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
        SetPointStream(make_config(joint_margin_rad=3.2), CELL)


@pytest.mark.parametrize(("opening_m", "sent_m"), [(0.08500000000000002, 0.085), (-1e-17, 0.0)])
def test_an_opening_that_rounding_put_beside_the_range_is_sent_as_its_end(opening_m: float, sent_m: float) -> None:
    stream = make_stream()
    decision = step(stream, HOME, opening_m)
    assert decision.allowed
    assert decision.gripper_command_m == sent_m
    assert not step(stream, HOME, 0.0851).allowed


def test_places_at_a_limit_pass_with_the_rounding_of_sums_and_no_more() -> None:
    low, high = np.zeros(3), np.ones(3)
    for excess, is_inside in ((1e-12, True), (1e-6, False)):
        assert (not check_workspace(high + excess, low, high)) is is_inside
        beyond = LIMITS.qpos_high - 0.02 + excess
        assert (not check_joint_limits(beyond, LIMITS, 0.02)) is is_inside
