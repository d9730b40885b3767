"""Where the arm was at an exposure, and that perception hands on what each of its parts gave."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handeye.robot.errors import CameraError, RobotError, TransformError
from handeye.robot.kinematics.collision_geometry import ArmShape
from handeye.robot.kinematics.forward import forward_kinematics
from handeye.robot.perception.pipeline import HISTORY_S, Detector, JointHistory, Perception, PerceptionConfig
from handeye.robot.timing import StageTimer
from handeye.robot.transforms import apply_transform, inverse
from handeye.robot.types import Frame, JointState
from handeye.vision.runtime.detections import Detections
from tests.robot.control.fake_devices import CELL, HOME

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


@dataclass
class MiddleDetector:
    """One box of 40 pixels in the middle of the image, or as many as one likes."""

    number: int = 1

    def __call__(self, image_rgb: np.ndarray) -> Detections:
        boxes = np.tile(np.array([300, 220, 340, 260], np.float32), (self.number, 1))
        scores, class_ids = np.full(self.number, 0.8, np.float32), np.zeros(self.number, np.int64)
        return Detections(boxes, scores, class_ids, ("red_cube",))


def block_on_a_table(T_base_camera: np.ndarray, top_m: float) -> np.ndarray:
    """Depth of the table z = 0, and of a plane at `top_m` within the box of MiddleDetector."""
    K, shape = CELL.camera.K, (CELL.camera.height_px, CELL.camera.width_px)
    v, u = np.indices(shape)
    rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones(shape)], axis=-1)
    down = rays @ T_base_camera[2, :3]
    height = np.where((u >= 300) & (u < 340) & (v >= 220) & (v < 260), top_m, 0.0)
    return ((height - T_base_camera[2, 3]) / down).astype(np.float32)


def build_perception(
    detector: Detector, timer: StageTimer, T_tool_camera: np.ndarray = CELL.T_tool_camera
) -> Perception:
    return Perception(
        detector,
        PerceptionConfig(),
        T_tool_camera=T_tool_camera,
        arm_shape=ArmShape(CELL),
        table_height_m=0.0,
        timer=timer,
    )


def good_frame(stamp_s: float = 1.0) -> Frame:
    """A block of 5 cm on the table before the camera at home."""
    image = np.zeros((CELL.camera.height_px, CELL.camera.width_px, 3), np.uint8)
    T_base_camera = forward_kinematics(HOME) @ CELL.T_tool_camera
    return Frame(image, block_on_a_table(T_base_camera, 0.05), CELL.camera.K, stamp_s)


def test_a_detection_becomes_a_track_where_it_stands_and_each_part_is_timed() -> None:
    timer = StageTimer()
    perception = build_perception(MiddleDetector(), timer)
    T_base_camera = forward_kinematics(HOME) @ CELL.T_tool_camera
    frame = good_frame()
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


SHAPE_HW = (CELL.camera.height_px, CELL.camera.width_px)
MIRRORED = CELL.T_tool_camera @ np.diag([-1.0, 1.0, 1.0, 1.0])
SHEARED = CELL.T_tool_camera @ np.array([[1.0, 0.2, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ("changes", "T_tool_camera", "error", "words"),
    [
        ({"depth_m": np.full(SHAPE_HW, 580.0, np.float32)}, CELL.T_tool_camera, RobotError, "millimetres"),
        ({"K": np.diag([0.5, 0.5, 1.0]) @ CELL.camera.K}, CELL.T_tool_camera, CameraError, "another resolution"),
        ({}, MIRRORED, TransformError, "determinant -1"),
        ({}, SHEARED, TransformError, "expected a rotation"),
        ({"stamp_s": 0.5}, CELL.T_tool_camera, RobotError, "backwards"),
    ],
    ids=["depth in mm", "K of half the size", "mirrored", "no rotation", "time going backwards"],
)
def test_bad_input_is_refused_with_its_reason(
    changes: dict[str, np.ndarray], T_tool_camera: np.ndarray, error: type[RobotError], words: str
) -> None:
    perception = build_perception(MiddleDetector(), StageTimer(), T_tool_camera)
    if not np.allclose(T_tool_camera, CELL.T_tool_camera):
        with pytest.raises(error, match=words):
            perception.perceive(good_frame(), AT_HOME)
        return
    assert len(perception.perceive(good_frame(), AT_HOME).tracks) == 1
    with pytest.raises(error, match=words):
        perception.perceive(replace(good_frame(2.0), **changes), AT_HOME)
    # The refused frame has changed nothing: the next good one goes on with the same track.
    (track,) = perception.perceive(good_frame(2.0), AT_HOME).tracks
    assert (track.track_id, track.num_hits) == (1, 2)


@pytest.mark.parametrize("value", [np.nan, 0.0], ids=["NaN", "all zero"])
def test_without_depth_the_ray_to_the_table_places_the_cube_less_certainly(value: float) -> None:
    perception = build_perception(MiddleDetector(), StageTimer())
    seen = perception.perceive(good_frame(), AT_HOME).positions[0]
    perception.reset()
    blind = replace(good_frame(), depth_m=np.full(SHAPE_HW, value, np.float32))
    (placed,) = perception.perceive(blind, AT_HOME).positions
    assert np.linalg.norm(placed.p_base - seen.p_base) < 0.02
    assert np.trace(placed.covariance_base) > 4.0 * np.trace(seen.covariance_base)
    assert placed.yaw_rad is None


@pytest.mark.parametrize(
    ("number", "num_tracks"),
    [(0, 0), pytest.param(500, 1, marks=pytest.mark.slow), pytest.param(5000, 1, marks=pytest.mark.long)],
)
def test_no_detection_and_five_thousand_of_one_cube(number: int, num_tracks: int) -> None:
    perception = build_perception(MiddleDetector(number), StageTimer())
    percept = perception.perceive(good_frame(), AT_HOME)
    assert len(percept.positions) == number
    assert len(percept.tracks) == num_tracks
