"""Injected faults: before its time a fault changes nothing, after it what its name says; no limit is ever broken."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from handeye.robot.errors import ArmError, CameraError, PolicyInputError
from handeye.robot.pick import SHIPPED_DETECTOR, SHIPPED_POLICY, PickConfig, PickStation, open_station
from handeye.robot.simulator.device_faults import (
    AHEAD_S,
    ARM_FAULTS,
    CAMERA_FAULTS,
    CLOCK_FAULTS,
    CLOCK_JUMP_S,
    DETECTOR_FAULTS,
    FAULT_NAMES,
    JUMP_RAD,
    POLICY_FAULTS,
    PROCESS_FAULTS,
    SCENE_FAULTS,
    FaultName,
    Injection,
    faulty_arm,
    faulty_camera,
    faulty_clock,
    faulty_detector,
    faulty_policy,
    sample_injection,
)
from handeye.robot.timing import ManualClock
from handeye.robot.types import CommandState, Observation
from handeye.vision.errors import ConfigError
from handeye.vision.runtime.detections import Detections
from tests.robot.control.fake_devices import HOME, TASK, FakeArm, FakeCamera, ListedPolicy

AT_S = 1.0


def test_every_fault_has_one_place() -> None:
    places = [
        *CAMERA_FAULTS,
        *DETECTOR_FAULTS,
        *POLICY_FAULTS,
        *ARM_FAULTS,
        *CLOCK_FAULTS,
        *SCENE_FAULTS,
        *PROCESS_FAULTS,
    ]
    assert sorted(places) == sorted(FAULT_NAMES)
    assert len(set(places)) == len(places) >= 18


def test_the_time_of_a_fault_is_that_of_its_seed() -> None:
    drawn = [sample_injection("slip", (0.5, 3.5), seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(0.5 <= one.at_s <= 3.5 for one in drawn if one is not None)
    assert sample_injection(None, (0.5, 3.5), 1) is None


@pytest.mark.parametrize("name", FAULT_NAMES)
def test_only_the_part_with_the_fault_is_replaced(name: FaultName) -> None:
    clock = ManualClock()
    parts: list[Any] = [FakeCamera(clock), FakeArm(clock), ListedPolicy([HOME]), lambda image: image]
    fault = Injection(name, AT_S)
    makers = (faulty_camera, faulty_arm, faulty_policy, faulty_detector)
    replaced = [make(part, clock, fault) is not part for make, part in zip(makers, parts, strict=True)]
    replaced.append(faulty_clock(clock, fault) is not clock)
    assert sum(replaced) == (0 if name in (*SCENE_FAULTS, *PROCESS_FAULTS) else 1)
    assert bool(fault.scene_faults(0)) == (name in SCENE_FAULTS)


@pytest.mark.parametrize("name", CAMERA_FAULTS)
def test_a_camera_is_sound_until_its_fault_begins(name: FaultName) -> None:
    clock = ManualClock()
    camera = faulty_camera(FakeCamera(clock), clock, Injection(name, AT_S))
    sound = camera.read()
    assert (sound.stamp_s, sound.image_rgb[0, 0, 0], sound.depth_m[0, 0]) == (0.0, 128, np.float32(0.6))
    clock.wait_until(AT_S)
    if name == "camera_lost":
        with pytest.raises(CameraError):
            camera.read()
        return
    frame = camera.read()
    changed = {
        "black_image": frame.image_rgb.max() == 0,
        "depth_zero": frame.depth_m.max() == 0.0,
        "depth_nan": np.isnan(frame.depth_m).all(),
        "depth_in_mm": frame.depth_m[0, 0] == pytest.approx(600.0),
        "depth_shifted": frame.depth_m[0, 0] == pytest.approx(0.65),
        "frames_ahead": frame.stamp_s == AT_S + AHEAD_S,
        "frozen_camera": frame is sound,
        "dropped_frames": frame is sound,
    }
    assert changed[name]
    if name == "dropped_frames":
        stamps_s = set()
        for _ in range(4):
            clock.advance(0.1)
            stamps_s |= {camera.read().stamp_s, camera.read().stamp_s}
        assert len(stamps_s) == 2, "one of four frames comes through, however often they are read"


@pytest.mark.parametrize("name", PROCESS_FAULTS)
def test_in_lock_step_no_process_can_be_killed(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} needs a real clock"):
        PickStation(PickConfig.model_validate({"fault": name}), lambda image: Detections.empty(("red_cube",)))


def test_detectors_that_see_nothing_or_too_much() -> None:
    clock, image = ManualClock(), np.zeros((100, 200, 3), np.uint8)
    one = Detections(np.array([[10, 10, 30, 30]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int64), ("cube",))
    blind = faulty_detector(lambda image: one, clock, Injection("missed_detections", AT_S))
    seeing = faulty_detector(lambda image: one, clock, Injection("false_detections", AT_S))
    assert blind(image) is seeing(image) is one
    clock.wait_until(AT_S)
    assert len(blind(image)) == 0
    np.testing.assert_array_equal(seeing(image).boxes_xyxy, [[10, 10, 30, 30], [50, 10, 70, 30], [10, 30, 30, 50]])


def see(stamp_s: float) -> Observation:
    joints = FakeArm(ManualClock(stamp_s)).read_state()
    return Observation(joints, None, (), stamp_s, CommandState.at_rest(HOME))


@pytest.mark.parametrize("name", POLICY_FAULTS)
def test_a_policy_is_sound_until_its_fault_begins(name: FaultName) -> None:
    clock = ManualClock()
    policy = faulty_policy(ListedPolicy([HOME, HOME + 0.1]), clock, Injection(name, AT_S))
    policy.reset(TASK)
    np.testing.assert_array_equal(policy.act(see(0.0)).qpos_target[0], HOME)
    clock.wait_until(AT_S)
    if name == "policy_error":
        with pytest.raises(PolicyInputError):
            policy.act(see(AT_S))
        return
    chunk = policy.act(see(AT_S))
    expected = {
        "policy_nan": np.full(6, np.nan),
        "policy_jump": HOME + 0.1 + JUMP_RAD,
        "policy_silent": HOME,
        "policy_out_of_reach": HOME + [0.0, 0.15, -0.15, 0.0, 0.0, 0.0],
    }
    np.testing.assert_allclose(chunk.qpos_target[0], expected[name])
    assert (chunk.stamp_s == 0.0) == (name == "policy_silent")


@pytest.mark.parametrize("name", ARM_FAULTS)
def test_an_arm_is_sound_until_its_fault_begins(name: FaultName) -> None:
    clock = ManualClock()
    real = FakeArm(clock)
    arm = faulty_arm(real, clock, Injection(name, AT_S))
    assert arm.read_state().stamp_s == 0.0
    arm.command(HOME, 0.05)
    clock.wait_until(AT_S)
    if name == "protective_stop":
        with pytest.raises(ArmError, match="protective stop"):
            arm.command(HOME, 0.05)
        assert real.stops == 1
    elif name == "connection_cut":
        for call in (arm.read_state, arm.stop, lambda: arm.command(HOME, 0.05)):
            with pytest.raises(ArmError, match="closed"):
                call()
    else:
        assert arm.read_state().stamp_s == (0.0 if name == "stale_joints" else AT_S + AHEAD_S)
    assert len(real.commands) == 1


def test_a_clock_jumps_once() -> None:
    clock = ManualClock()
    jumping = faulty_clock(clock, Injection("clock_jump", AT_S))
    for stamp_s, expected in ((0.5, 0.5), (1.0, 1.0), (1.1, 1.1 + CLOCK_JUMP_S), (1.2, 1.1 + CLOCK_JUMP_S), (2.0, 2.0)):
        jumping.wait_until(stamp_s)
        assert clock.now_s() == pytest.approx(expected)


STOPS = ("camera_error", "arm_error", "policy_error", "perception_error", "gate_")
GIVES_UP = ("not_found", "lost", "verify_failed", "grasp_failed", "unreachable", "timeout", "motion_failed")


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["scripted", pytest.param("act", marks=pytest.mark.long)])
@pytest.mark.parametrize("name", [name for name in FAULT_NAMES if name not in PROCESS_FAULTS])
def test_with_every_fault_an_episode_succeeds_or_ends_by_name_and_no_limit_is_broken(
    name: FaultName, policy: str
) -> None:
    """Joints, speeds, workspace and contacts by the simulator's truth, and the differences of what was sent."""
    config = PickConfig.model_validate({"fault": name})
    with open_station(config, SHIPPED_DETECTOR, SHIPPED_POLICY if policy == "act" else None) as station:
        result = station.run(1001)
    assert result.limit_breaches == {}
    assert result.success or (result.reason or "").startswith((*STOPS, *GIVES_UP)), result.reason
    assert not result.check_reason.startswith("unsafe_contact")
    if result.stop_s is not None:
        assert result.stop_s < 0.45
