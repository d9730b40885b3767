"""The perception pipeline: detect objects in a frame, locate them in the base frame, track them. Each stage is timed.

The camera is on the arm, so its pose comes from the joints at the exposure of the frame, not from the newest ones.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from handeye.robot.errors import CameraError
from handeye.robot.kinematics.collision_geometry import ArmShape, PlacedArm, occluded_by_arm
from handeye.robot.kinematics.forward import forward_kinematics
from handeye.robot.perception.camera_view import ProjectionConfig
from handeye.robot.perception.localize import locate_objects
from handeye.robot.perception.object_tracker import ObjectTracker, TrackerConfig, Visible
from handeye.robot.perception.occlusion import VisibilityConfig, build_visibility, without_arm
from handeye.robot.timing import StageTimer
from handeye.robot.types import Frame, JointState, ObjectPosition, Track
from handeye.vision.config import Config
from handeye.vision.runtime.detections import Detections

HISTORY_S = 2.0
"""Joint states are kept this long; an exposure that lies further back is too old to act upon."""


class PerceptionConfig(Config):
    """Localization, visibility and tracking."""

    projection: ProjectionConfig = ProjectionConfig()
    visibility: VisibilityConfig = VisibilityConfig()
    tracker: TrackerConfig = TrackerConfig()


@runtime_checkable
class Detector(Protocol):
    """Finds objects in a colour image; `vision.runtime.image_detector.ImageDetector` is one."""

    def __call__(self, image_rgb: UInt8[np.ndarray, "h w 3"]) -> Detections:
        """Boxes in pixels of `image_rgb`."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Percept:
    """The result of one frame. T_base_camera is the camera's pose at the exposure."""

    frame: Frame
    T_base_camera: Float[np.ndarray, "4 4"]
    detections: Detections
    positions: tuple[ObjectPosition, ...]
    tracks: tuple[Track, ...]


class Perception:
    """Detector, localization and tracker in a row; `timer` receives the stages detect, project and track."""

    def __init__(
        self,
        detector: Detector,
        config: PerceptionConfig,
        *,
        T_tool_camera: Float[np.ndarray, "4 4"],
        arm_shape: ArmShape,
        table_height_m: float,
        timer: StageTimer,
    ) -> None:
        self._detector = detector
        self._config = config
        self._tracker = ObjectTracker(config.tracker)
        self._T_tool_camera = T_tool_camera
        self._arm_shape = arm_shape
        self._table_height_m = table_height_m
        self._timer = timer

    def reset(self) -> None:
        """Forget all tracks."""
        self._tracker = ObjectTracker(self._config.tracker)

    def perceive(self, frame: Frame, joints: JointState) -> Percept:
        """Detections, positions and tracks after `frame`; `joints` are those at its exposure."""
        T_base_camera = forward_kinematics(joints.qpos) @ self._T_tool_camera
        with self._timer.stage("detect"):
            detections = self._detector(frame.image_rgb)
        with self._timer.stage("project"):
            arm = self._arm_shape.place(joints.qpos, joints.gripper_opening_m)
            positions = locate_objects(
                detections,
                without_arm(frame, T_base_camera, arm, detections, self._config.projection),
                T_base_camera,
                self._config.projection,
                table_height_m=self._table_height_m,
            )
        with self._timer.stage("track"):
            visible = seen_past_arm(frame, T_base_camera, arm, self._config.visibility)
            tracks = self._tracker.update(positions, frame.stamp_s, visible=visible)
        return Percept(frame, T_base_camera, detections, positions, tracks)


class JointHistory:
    """The joint states of the last HISTORY_S, to look up where the arm was at an exposure."""

    def __init__(self) -> None:
        self._states: deque[JointState] = deque()

    def add(self, state: JointState) -> None:
        """Append the newest state; a state that is not newer than the last one replaces it."""
        while self._states and self._states[-1].stamp_s >= state.stamp_s:
            self._states.pop()
        self._states.append(state)
        while self._states[0].stamp_s < state.stamp_s - HISTORY_S:
            self._states.popleft()

    def state_at(self, stamp_s: float) -> JointState:
        """Joints and fingers at `stamp_s`, linear between the states around it; after the newest they stay.

        Raises CameraError when `stamp_s` lies before everything remembered: the frame is then too old.
        """
        later = None
        for state in reversed(self._states):
            if state.stamp_s <= stamp_s:
                return state if later is None else _between(state, later, stamp_s)
            later = state
        oldest = f"{self._states[0].stamp_s:.3f} s" if self._states else "nothing"
        raise CameraError(f"a frame was exposed at {stamp_s:.3f} s, but the joints are remembered since {oldest}")


def seen_past_arm(
    frame: Frame, T_base_camera: Float[np.ndarray, "4 4"], arm: PlacedArm, config: VisibilityConfig
) -> Visible:
    """Whether the camera sees an object at p_base: neither depth nor the arm's pose shows anything before it."""
    is_free = build_visibility(frame, T_base_camera, config)
    radius_m = config.object_radius_m

    return lambda p_base: is_free(p_base) and not occluded_by_arm(p_base, T_base_camera, arm, radius_m=radius_m)


def _between(before: JointState, after: JointState, stamp_s: float) -> JointState:
    part = (stamp_s - before.stamp_s) / (after.stamp_s - before.stamp_s)
    return JointState(
        before.qpos + part * (after.qpos - before.qpos),
        before.qvel + part * (after.qvel - before.qvel),
        before.gripper_opening_m + part * (after.gripper_opening_m - before.gripper_opening_m),
        stamp_s,
    )
