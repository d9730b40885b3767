"""The simulated cell as a whole: fair episodes, exact repetition, camera timing, faults and success checks."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from handeye.robot.config import LatencyConfig, WorkCellConfig
from handeye.robot.errors import CameraError
from handeye.robot.simulator.cell import SimulatedCell, SimulatorConfig
from handeye.robot.simulator.faults import CubeMoved, CubeNudged, FramesDropped, GripperStuck, free_nudge
from handeye.robot.simulator.layout import move_object, object_pose
from handeye.robot.simulator.objects import UPRIGHT
from handeye.robot.simulator.scene import PHYSICS_DT_S
from handeye.robot.simulator.servo_arm import RAMP_ACCELERATION
from handeye.robot.simulator.success import PickSuccessCheck


def test_every_episode_has_one_target_at_rest_within_reach_with_room_for_fingers(simulated: SimulatedCell) -> None:
    places = []
    for seed in range(20):
        simulated.reset(seed)
        target = simulated.target
        assert [item.class_id for item in simulated.scene.objects].count(0) == 1
        pose = object_pose(simulated.scene, target)
        assert simulated.cell.table.is_reachable(pose[:3, 3])
        assert pose[2, 2] == pytest.approx(1.0, abs=1e-3)
        for item in simulated.scene.objects:
            if item is not target:
                gap = np.hypot(*(object_pose(simulated.scene, item)[:2, 3] - pose[:2, 3]))
                assert gap > target.radius_m + 0.03
        before = simulated.scene.data.qpos.copy()
        simulated.clock.wait_until(0.1)
        np.testing.assert_allclose(object_pose(simulated.scene, target), pose, atol=1e-3)
        np.testing.assert_allclose(simulated.scene.data.qpos[:8], before[:8], atol=1e-6)
        places.append(pose[:2, 3])
    assert np.ptp(places, axis=0).min() > 0.2


def run_a_little(simulated: SimulatedCell) -> tuple[np.ndarray, list[np.ndarray]]:
    simulated.reset(11, faults=[CubeMoved(at_s=0.1, by_xy_m=(0.03, 0.0))])
    images = []
    with simulated.arm as arm, simulated.camera as camera:
        for k in range(40):
            arm.command(np.array(simulated.cell.home_qpos) + 0.01 * k, 0.085 - 0.002 * k)
            simulated.clock.wait_until((k + 1) * 0.008)
            if k % 13 == 12:
                frame = camera.read()
                images += [frame.image_rgb, frame.depth_m]
    return simulated.scene.data.qpos.copy(), images


def test_an_episode_repeats_to_the_last_bit(simulated: SimulatedCell) -> None:
    first_qpos, first_pictures = run_a_little(simulated)
    simulated.reset(3)
    again_qpos, again_pictures = run_a_little(simulated)
    np.testing.assert_array_equal(first_qpos, again_qpos)
    for first, again in zip(first_pictures, again_pictures, strict=True):
        np.testing.assert_array_equal(first, again)


def test_clock_counts_steps_and_ignores_the_past(simulated: SimulatedCell) -> None:
    simulated.reset(0)
    for k in range(1, 6):
        simulated.clock.wait_until(k * 0.008)
        assert simulated.clock.now_s() == pytest.approx(k * 0.008, abs=1e-12)
    simulated.clock.wait_until(0.001)
    assert simulated.clock.now_s() == pytest.approx(0.04, abs=1e-12)
    simulated.clock.wait_until(0.0401)
    assert simulated.clock.now_s() == pytest.approx(0.042, abs=1e-12)
    simulated.reset(0)
    assert simulated.clock.now_s() == 0.0


def test_camera_exposes_at_its_rate_and_gives_the_newest_frame(simulated: SimulatedCell) -> None:
    simulated.reset(0)
    with simulated.camera as camera:
        first = camera.read()
        assert first.stamp_s == 0.0
        assert first.image_rgb.shape == (480, 640, 3)
        simulated.clock.wait_until(0.097)
        assert camera.read() is first
        simulated.clock.wait_until(0.35)
        assert camera.read().stamp_s == pytest.approx(0.3, abs=1e-9)
        np.testing.assert_array_equal(camera.read().K, simulated.cell.camera.K)
    with pytest.raises(CameraError, match="with"):
        camera.read()


def test_frame_shows_the_moment_of_its_exposure_not_of_its_reading(simulated: SimulatedCell) -> None:
    simulated.reset(0)
    with simulated.arm as arm, simulated.camera as camera:
        still = camera.read().image_rgb
        for k in range(10):
            arm.command(np.array(simulated.cell.home_qpos) + 0.02 * k, 0.085)
            simulated.clock.wait_until((k + 1) * 0.008)
        np.testing.assert_array_equal(camera.read().image_rgb, still)
        simulated.clock.wait_until(0.1)
        assert np.mean(camera.read().image_rgb != still) > 0.2


def test_latency_delays_delivery_but_not_the_stamp(cell: WorkCellConfig) -> None:
    config = SimulatorConfig.model_validate({"renderer": "rays"})
    slow = SimulatedCell(cell, config, LatencyConfig(camera_s=0.05))
    slow.reset(0)
    with slow.camera as camera:
        with pytest.raises(CameraError, match="no frame yet"):
            camera.read()
        slow.clock.wait_until(0.14)
        assert camera.read().stamp_s == 0.0
        slow.clock.wait_until(0.15)
        assert camera.read().stamp_s == pytest.approx(0.1)


def test_camera_opened_before_the_reset_works_after_it(simulated: SimulatedCell) -> None:
    with simulated.camera as camera:
        for seed in (0, 1):
            simulated.reset(seed)
            image = camera.read().image_rgb
        simulated.reset(0)
        assert np.mean(camera.read().image_rgb != image) > 0.2


def test_dropped_frames_leave_the_last_one(simulated: SimulatedCell) -> None:
    simulated.reset(0, faults=[FramesDropped(at_s=0.15, until_s=0.45)])
    with simulated.camera as camera:
        stamps = []
        for k in range(1, 7):
            simulated.clock.wait_until(0.1 * k)
            stamps.append(camera.read().stamp_s)
    np.testing.assert_allclose(stamps, [0.1, 0.1, 0.1, 0.1, 0.5, 0.6], atol=1e-9)


def test_moved_cube_is_elsewhere_and_at_rest(simulated: SimulatedCell) -> None:
    simulated.reset(0, faults=[CubeMoved(at_s=0.1, by_xy_m=(-0.05, 0.02))])
    before = object_pose(simulated.scene, simulated.target)
    simulated.clock.wait_until(0.3)
    moved = object_pose(simulated.scene, simulated.target)[:3, 3] - before[:3, 3]
    np.testing.assert_allclose(moved, [-0.05, 0.02, 0.0], atol=0.002)


def test_a_nudged_target_stands_free_within_reach_as_far_away_as_asked(simulated: SimulatedCell) -> None:
    moved = 0
    for seed in range(12):
        simulated.reset(seed, faults=[CubeNudged(0.05, (0.04, 0.15), seed)])
        before = object_pose(simulated.scene, simulated.target)[:3, 3]
        simulated.clock.wait_until(0.2)
        after = object_pose(simulated.scene, simulated.target)[:3, 3]
        distance_m = np.hypot(*(after - before)[:2])
        if distance_m < 1e-3:
            continue
        moved += 1
        assert 0.04 - 1e-3 <= distance_m <= 0.15 + 1e-3
        assert simulated.cell.table.is_reachable(after)
        for item in simulated.scene.objects:
            if item is not simulated.target:
                gap_m = np.hypot(*(object_pose(simulated.scene, item)[:2, 3] - after[:2]))
                assert gap_m > item.radius_m + simulated.target.radius_m
    assert moved >= 6


def test_a_nudge_without_room_moves_nothing(simulated: SimulatedCell) -> None:
    simulated.reset(0)
    far = CubeNudged(0.0, (3.0, 4.0), 0)
    assert free_nudge(simulated.scene, simulated.target.name, far, simulated.cell.table) == (0.0, 0.0)


def test_stuck_gripper_ignores_commands_until_it_is_free(simulated: SimulatedCell) -> None:
    simulated.reset(0, faults=[GripperStuck(at_s=0.0, until_s=0.8)])
    with simulated.arm as arm:
        arm.command(np.array(simulated.cell.home_qpos), 0.0)
        simulated.clock.wait_until(0.79)
        assert arm.read_state().gripper_opening_m > 0.08
        simulated.clock.wait_until(1.7)
        assert arm.read_state().gripper_opening_m < 0.002


def put_target(simulated: SimulatedCell, p_base: tuple[float, float, float], wait_s: float = 0.4) -> None:
    move_object(simulated.scene, simulated.target, np.array(p_base), np.array(UPRIGHT))
    simulated.clock.wait_until(simulated.clock.now_s() + wait_s)


def test_judge_tells_success_from_every_kind_of_failure(simulated: SimulatedCell) -> None:
    simulated.reset(0)
    success_check = PickSuccessCheck(simulated)
    x, y = simulated.cell.bin.centre_xy_m
    assert success_check().reason == "never_held"
    put_target(simulated, (x, y, 0.4), wait_s=0.1)
    assert success_check().reason == "never_held"
    put_target(simulated, (x, y, 0.1), wait_s=0.04)
    assert success_check().reason == "still_moving"
    put_target(simulated, (x, y, 0.05), wait_s=0.5)
    assert success_check().success
    assert success_check().reason == ""
    put_target(simulated, (x + 0.3, y, 0.05), wait_s=0.5)
    assert not success_check().success
    put_target(simulated, (1.5, 0.0, 0.1), wait_s=0.6)
    assert success_check().reason == "fell_off_the_table"


def test_judge_notes_that_the_gripper_was_pushed_into_the_table(simulated: SimulatedCell) -> None:
    simulated.reset(0)
    success_check = PickSuccessCheck(simulated)
    with simulated.arm as arm:
        qpos = np.array(simulated.cell.home_qpos)
        for k in range(220):
            qpos = qpos + np.array([0.0, 0.004, 0.0, -0.004, 0.0, 0.0])
            arm.command(qpos, 0.085)
            simulated.clock.wait_until((k + 1) * 0.008)
            if success_check.unsafe_contacts:
                break
    assert success_check.unsafe_contacts
    assert success_check.unsafe_contacts[0].against == "table"
    put_target(simulated, (*simulated.cell.bin.centre_xy_m, 0.05), wait_s=0.5)
    assert success_check().reason.startswith("unsafe_contact")
    success_check.reset()
    assert success_check.unsafe_contacts == []


def test_video_frames_show_the_whole_cell(simulated: SimulatedCell) -> None:
    simulated.reset(0)
    first = simulated.video_frame()
    assert first.shape == (480, 640, 3)
    with simulated.arm as arm:
        for k in range(60):
            arm.command(np.array(simulated.cell.home_qpos) + [0.01 * k, 0, 0, 0, 0, 0], 0.085)
            simulated.clock.wait_until((k + 1) * 0.008)
    assert 0.02 < np.mean(np.any(simulated.video_frame() != first, axis=-1)) < 0.6


def test_an_empty_cell_says_so() -> None:
    with pytest.raises(RuntimeError, match="reset"):
        SimulatedCell(WorkCellConfig(), SimulatorConfig()).scene  # noqa: B018


def test_scene_images_have_the_view_of_video_frames_at_their_size(simulated: SimulatedCell) -> None:
    simulated.reset(4)
    seen, film = simulated.scene_image(), simulated.video_frame()
    assert seen.shape == (*simulated.config.scene_camera_hw, 3)
    small = cv2.resize(film, seen.shape[1::-1], interpolation=cv2.INTER_AREA).astype(float)
    # Shadows and antialiasing apart they are one image; shifted by three pixels they no longer are.
    assert np.median(np.abs(small - seen)) < 3.0
    error, shifted = (np.abs(small - np.roll(seen, by, axis=1)).mean() for by in (0, 3))
    assert error < 0.8 * shifted
    simulated.reset(5)
    assert (simulated.scene_image() != seen).any()
    simulated.close()
    simulated.close()


@pytest.mark.parametrize("cause", ["stop", "silence"])
def test_an_arm_in_motion_that_is_stopped_or_hears_nothing_brakes_on_a_ramp(
    simulated: SimulatedCell, cause: str
) -> None:
    """The servos' targets change their velocity by a ramp; before, their velocity fell to zero within one step."""
    cell = simulated
    cell.reset(3)
    dt_s, home = 1 / cell.cell.control_hz, np.array(cell.cell.home_qpos)
    aims: list[np.ndarray] = []
    cell.physics.after_step.append(lambda stamp_s: aims.append(cell.scene.data.ctrl[:6].copy()))
    with cell.arm:
        for tick in range(1, 60):
            cell.arm.command(home + np.array([1e-4 * tick**2, 0, 0, 0, 0, 0]), 0.085)
            cell.clock.wait_until(tick * dt_s)
        if cause == "stop":
            cell.arm.stop()
        cell.clock.wait_until(60 * dt_s + 1.0)
    speed = np.diff(np.array(aims)[:, 0]) / PHYSICS_DT_S
    assert speed.max() > 1.0
    assert speed[-1] == 0.0
    per_period = speed[:: round(dt_s / PHYSICS_DT_S)]
    assert np.abs(np.diff(per_period)).max() / dt_s <= RAMP_ACCELERATION * cell.cell.joint_limits.qacc_rad_s2[0] * (
        1 + 1e-6
    )
