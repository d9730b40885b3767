"""The judge of contacts: arm against itself, table, bin and clutter, at any force, and what of it fails an episode."""

from __future__ import annotations

import numpy as np
import pytest

from handeye.robot.config import WorkCellConfig
from handeye.robot.kinematics.fixtures import BIN_FLOOR_M
from handeye.robot.kinematics.limits import joint_limits_from_config
from handeye.robot.kinematics.ur10e_ik import choose_solution, inverse_kinematics
from handeye.robot.pick import PickConfig
from handeye.robot.policies.grasp import tool_pose_down
from handeye.robot.simulator.appearance import sample_appearance
from handeye.robot.simulator.cell import SimulatedCell
from handeye.robot.simulator.contacts import ContactReader, Touched
from handeye.robot.simulator.layout import move_object, object_pose
from handeye.robot.simulator.limit_watch import LimitWatch
from handeye.robot.simulator.objects import UPRIGHT, Profile, SceneObject
from handeye.robot.simulator.samples import joints_for, tool_grasping_at, tool_rotation
from handeye.robot.simulator.scene import build_scene, place_arm
from handeye.robot.simulator.success import PickSuccessCheck
from tests.robot.simulator.conftest import make_cube, straight_line

DT_S = 0.008
FOLDED = {2: 2.7, 3: -0.8}


def go(simulated: SimulatedCell, qpos: np.ndarray, time_s: float, opening_m: float = 0.085) -> None:
    start, begin_s = simulated.arm.read_state().qpos, simulated.clock.now_s()
    for tick, row in enumerate(straight_line(start, qpos, round(time_s / DT_S)), start=1):
        simulated.arm.command(row, opening_m)
        simulated.clock.wait_until(begin_s + tick * DT_S)


def finger_pose(simulated: SimulatedCell, p_base: np.ndarray) -> np.ndarray:
    """Joints with the grasp point there, pointing down; also below the workspace."""
    pose, home = tool_pose_down(p_base, np.pi / 2, simulated.cell), np.array(simulated.cell.home_qpos)
    limits = joint_limits_from_config(simulated.cell.joint_limits)
    return choose_solution(inverse_kinematics(pose, q6_hint=home[5]), home, limits)


def put_target_in_bin(simulated: SimulatedCell) -> None:
    place = np.array([*simulated.cell.bin.centre_xy_m, 0.05])
    move_object(simulated.scene, simulated.target, place, np.array(UPRIGHT))
    simulated.clock.wait_until(simulated.clock.now_s() + 0.5)


def neighbour(simulated: SimulatedCell) -> SceneObject:
    """A cube that is not the target, alone in the middle of the table."""
    found = next(item for item in simulated.scene.objects if item.class_id not in (None, simulated.target.class_id))
    for number, item in enumerate(simulated.scene.objects):
        beside = np.array([0.42, -0.25 + 0.09 * number, item.height_m + 0.001])
        move_object(simulated.scene, item, beside, np.array(UPRIGHT))
    move_object(simulated.scene, found, np.array([0.7, 0.05, found.height_m + 0.001]), np.array(UPRIGHT))
    return found


def test_an_arm_that_touches_itself_fails_and_breaks_a_limit(simulated: SimulatedCell) -> None:
    simulated.reset(0)
    success_check = PickSuccessCheck(simulated)
    home = np.array(simulated.cell.home_qpos)
    folded = home.copy()
    folded[list(FOLDED)] = list(FOLDED.values())
    with simulated.arm, LimitWatch(simulated.physics, simulated.cell, PickConfig().safety) as watch:
        put_target_in_bin(simulated)
        assert success_check().success
        assert not success_check.contacts
        go(simulated, folded, 1.5)
        go(simulated, home, 1.5)
    checked = success_check()
    assert not checked.success
    assert checked.reason.startswith("self_contact: ")
    assert "against" in checked.reason
    assert checked.contacts.keys() == {"self"}
    assert watch.breaches["self_contact"] > 0
    assert watch.breaches["table_contact"] == watch.breaches["fixture_contact"] == 0
    success_check.reset()
    assert not success_check.contacts
    assert not success_check.self_contact


def test_a_neighbour_that_is_pushed_aside_is_counted_and_does_not_fail(simulated: SimulatedCell) -> None:
    simulated.reset(1)
    success_check = PickSuccessCheck(simulated)
    with simulated.arm, LimitWatch(simulated.physics, simulated.cell, PickConfig().safety) as watch:
        put_target_in_bin(simulated)
        other = neighbour(simulated)
        put_target_in_bin(simulated)
        before = object_pose(simulated.scene, other)[:3, 3]
        go(simulated, finger_pose(simulated, before + [0.0, 0.12, 0.15]), 1.5)
        go(simulated, finger_pose(simulated, before + [0.0, 0.12, 0.0]), 1.0)
        assert not success_check.contacts
        go(simulated, finger_pose(simulated, before + [0.0, 0.04, 0.0]), 1.5)
        go(simulated, finger_pose(simulated, before + [0.0, 0.04, 0.2]), 1.0)
    assert np.linalg.norm(object_pose(simulated.scene, other)[:3, 3] - before) > 0.01
    checked = success_check()
    assert checked.success, checked.reason
    assert checked.contacts == {"clutter": 1}
    assert not any(name.endswith("_contact") and count for name, count in watch.breaches.items())


@pytest.mark.parametrize(
    ("below", "key"),
    [((0.7, 0.05, 0.0), "table"), ((0.45, -0.55, BIN_FLOOR_M), "fixture")],
    ids=["table", "bin"],
)
def test_a_light_touch_is_counted_and_breaks_a_limit_without_failing(
    below: tuple[float, float, float], key: str, simulated: SimulatedCell
) -> None:
    """Closed fingertips lowered by a fifth of a millimetre into what is below, twice."""
    simulated.reset(2)
    success_check = PickSuccessCheck(simulated)
    tip = np.array([0.0, 0.0, simulated.cell.gripper.fingertip_beyond_tcp_m])
    other = neighbour(simulated)
    move_object(simulated.scene, other, np.array([0.42, 0.25, 0.05]), np.array(UPRIGHT))
    move_object(simulated.scene, simulated.target, np.array([0.42, 0.35, 0.05]), np.array(UPRIGHT))
    with simulated.arm, LimitWatch(simulated.physics, simulated.cell, PickConfig().safety) as watch:
        above = finger_pose(simulated, np.array(below) + tip + [0.0, 0.0, 0.05])
        go(simulated, above, 2.0, 0.0)
        assert not success_check.contacts
        for _ in range(2):
            go(simulated, finger_pose(simulated, np.array(below) + tip - [0.0, 0.0, 0.0002]), 1.0, 0.0)
            go(simulated, above, 1.0, 0.0)
    assert success_check.contacts == {key: 2}
    assert success_check.unsafe_contacts == []
    assert {name for name, count in watch.breaches.items() if count} >= {f"{key}_contact"}
    assert watch.breaches["self_contact"] == 0


def test_contacts_are_read_by_kind_with_the_part_of_the_arm_first() -> None:
    cell = WorkCellConfig()
    cube = make_cube(0.05, (0.6, 0.0, 0.025))
    scene = build_scene(cell, [cube], sample_appearance(np.random.default_rng(0), Profile.TRAIN))
    reader = ContactReader(scene)
    assert reader.read() == []
    folded = np.array(cell.home_qpos)
    folded[list(FOLDED)] = list(FOLDED.values())
    place_arm(scene, folded, 0.05)
    found = {(contact.part, contact.other, contact.touched) for contact in reader.read()}
    assert {touched for _, _, touched in found} == {Touched.SELF}
    assert any({"palm", "shoulder_lift_1"} == {part, other} for part, other, _ in found)
    tool = tool_grasping_at(np.array([0.6, 0.0, 0.02]), tool_rotation(0.0, 0.0, 0.0), cell)
    qpos = joints_for(tool, cell)
    assert qpos is not None
    place_arm(scene, qpos, 0.04)
    found = {(contact.part, contact.other, contact.touched) for contact in reader.read()}
    assert found == {(pad, "object_0_0", Touched.OBJECT) for pad in ("pad_left", "pad_right")}
    assert all(reader.force_n(contact) > 0.0 for contact in reader.read())


def test_a_tube_that_runs_right_through_the_table_is_found() -> None:
    """A capsule in a thin box: MuJoCo finds its contact only where it does not come out on the other side."""
    scene = build_scene(WorkCellConfig(), [], sample_appearance(np.random.default_rng(0), Profile.TRAIN))
    place_arm(scene, np.array([2.84, 0.79, -2.7, 4.3, -1.03, -1.35]), 0.05)
    found = {(contact.part, contact.touched) for contact in ContactReader(scene).read()}
    assert {("shoulder_lift_1", Touched.TABLE), ("elbow_1", Touched.TABLE)} <= found


def test_no_part_touches_another_at_home_and_where_picks_lead() -> None:
    cell = WorkCellConfig()
    scene = build_scene(cell, [], sample_appearance(np.random.default_rng(0), Profile.TRAIN))
    reader, rng = ContactReader(scene), np.random.default_rng(1)
    low, high = np.array(cell.table.cubes_low_xy_m), np.array(cell.table.cubes_high_xy_m)
    for opening_m in (0.0, 0.04, 0.085):
        place_arm(scene, np.array(cell.home_qpos), opening_m)
        assert reader.read() == []
        for yaw_rad in rng.uniform(-np.pi / 4, np.pi / 4, 30):
            p_base = np.array([*rng.uniform(low, high), rng.uniform(0.02, 0.4)])
            qpos = joints_for(tool_grasping_at(p_base, tool_rotation(float(yaw_rad), 0.0, 0.0), cell), cell)
            assert qpos is not None
            place_arm(scene, qpos, opening_m)
            assert reader.read() == []
