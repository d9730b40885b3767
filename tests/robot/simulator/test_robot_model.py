"""The simulated UR10e: same geometry as the kinematics, servos that follow, a driver that keeps its promises."""

from __future__ import annotations

import numpy as np
import pytest

from handeye.robot.config import PoseConfig, WorkCellConfig
from handeye.robot.errors import ArmError
from handeye.robot.interfaces import Arm
from handeye.robot.kinematics.collision_geometry import ArmShape
from handeye.robot.kinematics.forward import forward_kinematics
from handeye.robot.kinematics.hand_geometry import PAD_THICKNESS_M
from handeye.robot.simulator.appearance import sample_appearance
from handeye.robot.simulator.cell import SimulatedCell
from handeye.robot.simulator.objects import Profile
from handeye.robot.simulator.scene import build_scene, place_arm
from handeye.robot.transforms import rotation_to_quat_wxyz, rpy_to_rotation

DT_S = 0.008


def test_model_and_denavit_hartenberg_table_agree(cell: WorkCellConfig) -> None:
    rng = np.random.default_rng(0)
    scene = build_scene(cell, [], sample_appearance(rng, Profile.TRAIN))
    for qpos in rng.uniform(-np.pi, np.pi, (50, 6)):
        place_arm(scene, qpos, 0.05)
        T_base_tool = forward_kinematics(qpos)
        site, tcp, camera = scene.data.site("tool"), scene.data.site("tcp"), scene.data.cam("wrist")
        np.testing.assert_allclose(site.xpos, T_base_tool[:3, 3], atol=1e-9)
        np.testing.assert_allclose(site.xmat.reshape(3, 3), T_base_tool[:3, :3], atol=1e-9)
        np.testing.assert_allclose(tcp.xpos, (T_base_tool @ cell.T_tool_tcp)[:3, 3], atol=1e-9)
        T_base_camera = T_base_tool @ cell.T_tool_camera
        np.testing.assert_allclose(camera.xpos, T_base_camera[:3, 3], atol=1e-9)
        ours = camera.xmat.reshape(3, 3) * [1, -1, -1]
        np.testing.assert_allclose(ours, T_base_camera[:3, :3], atol=1e-9)


@pytest.mark.parametrize("rpy_rad", [(0.0, 0.0, 0.7), (0.2, -0.1, -2.5)])
def test_the_gripper_is_mounted_as_the_frame_of_the_grasp_point_says(rpy_rad: tuple[float, float, float]) -> None:
    """Geoms of the compiled model against the shapes that gates and occlusion use, and pads against the site `tcp`."""
    rotation = rpy_to_rotation(np.array(rpy_rad))
    w, x, y, z = rotation_to_quat_wxyz(rotation).tolist()
    tcp = PoseConfig(translation_m=(0.02, 0.01, 0.17), quat_wxyz=(w, x, y, z))
    camera = PoseConfig(translation_m=(0.06, -0.07, 0.045), quat_wxyz=(w, x, y, z))
    cell = WorkCellConfig(tool_tcp=tcp, tool_camera=camera)
    scene = build_scene(cell, [], sample_appearance(np.random.default_rng(0), Profile.TRAIN))
    qpos, opening_m = np.array([0.3, -1.2, 1.4, -0.5, 0.8, 2.0]), 0.06
    place_arm(scene, qpos, opening_m)
    arm = ArmShape(cell).place(qpos, opening_m)
    names = (
        "palm",
        "finger_left_back",
        "pad_left",
        "finger_right_back",
        "pad_right",
        "camera_bracket",
        "camera_housing",
    )
    for name, T_base_box, half_m in zip(names, arm.T_base_box, arm.half_m, strict=True):
        geom = scene.data.geom(name)
        np.testing.assert_allclose(geom.xpos, T_base_box[:3, 3], atol=1e-9, err_msg=name)
        np.testing.assert_allclose(geom.xmat.reshape(3, 3), T_base_box[:3, :3], atol=1e-9, err_msg=name)
        np.testing.assert_allclose(scene.model.geom(name).size, half_m, atol=1e-9, err_msg=name)
    coupling = scene.data.geom("coupling")
    np.testing.assert_allclose(coupling.xpos, 0.5 * (arm.starts[-1] + arm.ends[-1]), atol=1e-9)
    site, pads = scene.data.site("tcp"), [scene.data.geom(name).xpos for name in ("pad_left", "pad_right")]
    apart = site.xmat.reshape(3, 3).T @ (pads[0] - pads[1])
    np.testing.assert_allclose(apart, [opening_m + PAD_THICKNESS_M, 0.0, 0.0], atol=1e-9)
    between = site.xmat.reshape(3, 3).T @ (0.5 * (pads[0] + pads[1]) - site.xpos)
    np.testing.assert_allclose(between[:2], 0.0, atol=1e-9)


def test_links_have_the_published_masses(cell: WorkCellConfig) -> None:
    scene = build_scene(cell, [], sample_appearance(np.random.default_rng(0), Profile.TRAIN))
    names = ("shoulder_pan", "shoulder_lift", "elbow", "wrist_1", "wrist_2", "wrist_3")
    masses = [scene.model.body(name).mass[0] for name in names]
    np.testing.assert_allclose(masses, [7.369, 13.051, 3.989, 2.1, 1.98, 0.615], atol=1e-9)


def test_servos_follow_a_smooth_stream_and_end_on_it_without_swinging(simulated: SimulatedCell) -> None:
    simulated.reset(0)
    home = np.array(simulated.cell.home_qpos)
    swing = np.array([0.3, -0.3, 0.4, 0.5, -0.5, 0.5])
    errors, after = [], []
    with simulated.arm as arm:
        for k in range(175):
            # One second out and back at the limits of acceleration, then 0.4 s of holding still.
            target = home + swing * (1 - np.cos(2 * np.pi * min(k * DT_S, 1.0))) / 2
            arm.command(target, 0.085)
            simulated.clock.wait_until((k + 1) * DT_S)
            state = arm.read_state()
            (errors if k * DT_S < 1.0 else after).append(np.abs(state.qpos - target).max())
        assert np.abs(arm.read_state().qvel).max() < 1e-3
    assert max(errors) < 0.005
    assert max(after[10:]) < 2e-4


def test_arm_holds_still_against_gravity_and_the_load_of_its_gripper(simulated: SimulatedCell) -> None:
    simulated.reset(1)
    with simulated.arm as arm:
        simulated.clock.wait_until(1.0)
        np.testing.assert_allclose(arm.read_state().qpos, simulated.cell.home_qpos, atol=1e-6)


def test_driver_follows_the_protocol(simulated: SimulatedCell) -> None:
    assert isinstance(simulated.arm, Arm)
    with pytest.raises(ArmError, match="reset"):
        simulated.arm.__enter__()
    simulated.reset(0)
    home = np.array(simulated.cell.home_qpos)
    with pytest.raises(ArmError, match="with"):
        simulated.arm.read_state()
    with simulated.arm as arm:
        with pytest.raises(ArmError, match="finite"):
            arm.command(np.array([np.nan, 0, 0, 0, 0, 0]), 0.05)
        with pytest.raises(ArmError, match="finite"):
            arm.command(home, float("inf"))
        beyond = home.copy()
        beyond[2] = 4.0
        assert arm.command(beyond, 0.05)[2] == pytest.approx(np.pi)
        assert arm.read_state().stamp_s == 0.0
    with pytest.raises(ArmError, match="with"):
        arm.command(home, 0.05)


def test_leaving_the_context_brakes_the_arm(simulated: SimulatedCell) -> None:
    simulated.reset(0)
    home = np.array(simulated.cell.home_qpos)
    with simulated.arm as arm:
        for k in range(40):
            arm.command(home + 0.01 * k, 0.085)
            simulated.clock.wait_until((k + 1) * DT_S)
        moving = arm.read_state()
        assert np.abs(moving.qvel).max() > 1.0
    simulated.clock.wait_until(0.8)
    with simulated.arm as arm:
        stopped = arm.read_state()
    assert np.abs(stopped.qvel).max() < 1e-3
    # A cubic stop from 1.25 rad/s at 12 rad/s^2 takes 0.16 s and half of that way.
    assert np.abs(stopped.qpos - moving.qpos).max() < 0.11


def test_gripper_opens_and_closes_at_its_speed(simulated: SimulatedCell) -> None:
    simulated.reset(0)
    gripper = simulated.cell.gripper
    home = np.array(simulated.cell.home_qpos)
    with simulated.arm as arm:
        arm.command(home, 0.0)
        simulated.clock.wait_until(0.2)
        closing = arm.read_state().gripper_opening_m
        assert closing == pytest.approx(gripper.opening_max_m - 0.2 * gripper.speed_m_s, abs=0.006)
        simulated.clock.wait_until(1.0)
        assert arm.read_state().gripper_opening_m == pytest.approx(0.0, abs=5e-4)
        arm.command(home, 1.0)
        simulated.clock.wait_until(2.0)
        assert arm.read_state().gripper_opening_m == pytest.approx(gripper.opening_max_m, abs=5e-4)
