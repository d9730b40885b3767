"""Where the arm was at an exposure, and that perception hands on what each of its parts gave."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robot.control.perception import HISTORY_S, JointHistory, Perception, PerceptionConfig
from robot.control.timing import StageTimer
from robot.errors import CameraError
from robot.kinematics.arm_shape import ArmShape
from robot.kinematics.chain import forward_kinematics
from robot.observation import Frame, JointState
from robot.transforms import apply_transform, inverse
from tests.robot.control.fake_devices import CELL, HOME
from vision.runtime.detections import Detections

AT_HOME = JointState(HOME, np.zeros(6), 0.085, 1.0)


def state(stamp_s: float, value: float) -> JointState:
    return JointState(np.full(6, value), np.zeros(6), 0.05, stamp_s)


@given(st.floats(0.0, 0.4))
def test_a_linear_motion_is_looked_up_exactly(stamp_s: float) -> None:
    history = JointHistory()
    for k in range(6):
        history.add(state(0.08 * k, 3.0 * 0.08 * k - 1.0))
    np.testing.assert_allclose(history.state_at(stamp_s).qpos, 3.0 * stamp_s - 1.0, atol=1e-9)


def test_after_the_newest_state_the_arm_stays_where_it_was() -> None:
    history = JointHistory()
    history.add(state(1.0, 0.3))
    np.testing.assert_array_equal(history.state_at(1.2).qpos, np.full(6, 0.3))


def test_states_older_than_the_memory_are_dropped_and_asking_for_them_is_an_error() -> None:
    history = JointHistory()
    for k in range(100):
        history.add(state(0.01 * k, 0.0))
    with pytest.raises(CameraError, match="remembered since"):
        history.state_at(0.99 - HISTORY_S - 0.02)


def test_an_empty_history_has_no_answer() -> None:
    with pytest.raises(CameraError, match="nothing"):
        JointHistory().state_at(0.0)


def test_a_state_with_the_same_stamp_replaces_the_last() -> None:
    history = JointHistory()
    history.add(state(1.0, 0.1))
    history.add(state(1.0, 0.2))
    np.testing.assert_array_equal(history.state_at(1.0).qpos, np.full(6, 0.2))


class MiddleDetector:
    """One box of 40 pixels in the middle of the image."""

    def __call__(self, image_rgb: np.ndarray) -> Detections:
        boxes = np.array([[300, 220, 340, 260]], np.float32)
        return Detections(boxes, np.array([0.8], np.float32), np.array([0], np.int64), ("red_cube",))


def block_on_a_table(T_base_camera: np.ndarray, top_m: float) -> np.ndarray:
    """Depth of the table z = 0, and of a plane at `top_m` within the box of MiddleDetector."""
    K, shape = CELL.camera.K, (CELL.camera.height_px, CELL.camera.width_px)
    v, u = np.indices(shape)
    rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones(shape)], axis=-1)
    down = rays @ T_base_camera[2, :3]
    height = np.where((u >= 300) & (u < 340) & (v >= 220) & (v < 260), top_m, 0.0)
    return ((height - T_base_camera[2, 3]) / down).astype(np.float32)


def test_a_detection_becomes_a_track_where_it_stands_and_each_part_is_timed() -> None:
    timer = StageTimer()
    perception = Perception(
        MiddleDetector(),
        PerceptionConfig(),
        T_tool_camera=CELL.T_tool_camera,
        arm_shape=ArmShape(CELL),
        table_height_m=0.0,
        timer=timer,
    )
    T_base_camera = forward_kinematics(HOME) @ CELL.T_tool_camera
    image = np.zeros((CELL.camera.height_px, CELL.camera.width_px, 3), np.uint8)
    frame = Frame(image, block_on_a_table(T_base_camera, 0.05), CELL.camera.K, 1.0)
    percept = perception.perceive(frame, AT_HOME)
    np.testing.assert_allclose(percept.T_base_camera, T_base_camera)
    assert len(percept.detections) == len(percept.positions) == len(percept.tracks) == 1
    p_camera = apply_transform(inverse(T_base_camera), percept.tracks[0].p_base)
    u, v = (CELL.camera.K @ p_camera)[:2] / p_camera[2]
    assert abs(u - 319.5) < 10
    assert abs(v - 239.5) < 25
    assert set(timer.durations_ms()) == {"detect", "project", "track"}
    perception.reset()
    again = perception.perceive(frame, AT_HOME)
    assert [track.num_hits for track in again.tracks] == [1]
