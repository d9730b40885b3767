"""Inject faults into what lies between the parts of a robot: camera, detector, policy, arm and clock.

A fault begins at a time of the episode and stays. Stand-ins give the devices' answers until then, and wrong ones or
none after it; faults of the scene itself are those of `robot.simulator.faults`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float, UInt8

from handeye.robot.errors import ArmError, CameraError, PolicyInputError
from handeye.robot.interfaces import Arm, Camera, Clock, PickTask, Policy, PolicyStatus
from handeye.robot.perception.pipeline import Detector
from handeye.robot.simulator.faults import CubeMoved, CubeNudged, Fault, FrictionLowered, GripperStuck
from handeye.robot.types import NUM_JOINTS, ActionChunk, Frame, JointState, Observation
from handeye.vision.runtime.detections import Detections

AHEAD_S = 0.5
CLOCK_JUMP_S = 0.3
JUMP_RAD = 1.0
REMOVED_M = (0.0, 3.0)
"""Off the table."""


def _depth(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Frame], Frame]:
    return lambda frame: replace(frame, depth_m=change(frame.depth_m).astype(np.float32))


FRAME_FAULTS: dict[str, Callable[[Frame], Frame]] = {
    "black_image": lambda frame: replace(frame, image_rgb=np.zeros_like(frame.image_rgb)),
    "depth_zero": _depth(np.zeros_like),
    "depth_nan": _depth(lambda depth_m: np.full_like(depth_m, np.nan)),
    "depth_in_mm": _depth(lambda depth_m: 1000.0 * depth_m),
    "depth_shifted": _depth(lambda depth_m: depth_m + 0.05),
    "frames_ahead": lambda frame: replace(frame, stamp_s=frame.stamp_s + AHEAD_S),
}
CAMERA_FAULTS = (*FRAME_FAULTS, "frozen_camera", "dropped_frames", "camera_lost")
DETECTOR_FAULTS = ("false_detections", "missed_detections")
POLICY_FAULTS = ("policy_nan", "policy_jump", "policy_silent", "policy_out_of_reach", "policy_error")
ARM_FAULTS = ("stale_joints", "joints_ahead", "connection_cut", "protective_stop")
CLOCK_FAULTS = ("clock_jump",)
PROCESS_FAULTS = ("camera_killed", "control_killed", "perception_killed", "recorder_killed")
"""With a real clock only: in lock-step there is one process."""
SCENE_FAULTS: dict[str, Callable[[float, int], Fault]] = {
    "object_moved": lambda at_s, seed: CubeNudged(at_s, (0.06, 0.15), seed),
    "object_removed": lambda at_s, seed: CubeMoved(at_s, REMOVED_M),
    "slip": lambda at_s, seed: FrictionLowered(at_s, 0.01, at_s + 1.0),
    "gripper_stuck": lambda at_s, seed: GripperStuck(at_s, at_s + 1.0),
}
FaultName = Literal[
    "black_image",
    "camera_killed",
    "camera_lost",
    "clock_jump",
    "connection_cut",
    "control_killed",
    "depth_in_mm",
    "depth_nan",
    "depth_shifted",
    "depth_zero",
    "dropped_frames",
    "false_detections",
    "frames_ahead",
    "frozen_camera",
    "gripper_stuck",
    "joints_ahead",
    "missed_detections",
    "object_moved",
    "object_removed",
    "perception_killed",
    "policy_error",
    "policy_jump",
    "policy_nan",
    "policy_out_of_reach",
    "policy_silent",
    "protective_stop",
    "recorder_killed",
    "slip",
    "stale_joints",
]
"""Everything that `handeye pick --faults` knows."""
FAULT_NAMES: tuple[FaultName, ...] = get_args(FaultName)


@dataclass(frozen=True, slots=True)
class Injection:
    """A fault by name, and when it begins, s."""

    name: str
    at_s: float

    def scene_faults(self, seed: int) -> list[Fault]:
        """What happens to the scene itself."""
        return [SCENE_FAULTS[self.name](self.at_s, seed)] if self.name in SCENE_FAULTS else []


def sample_injection(name: FaultName | None, at_s: tuple[float, float], seed: int) -> Injection | None:
    """The fault of episode `seed`: it begins somewhere between the two times."""
    if name is None:
        return None
    return Injection(name, float(np.random.default_rng([seed, 0xDEF]).uniform(*at_s)))


class _StandIn:
    """Answers as the part does, but for what a subclass changes."""

    def __init__(self, part: Any, clock: Clock, fault: Injection) -> None:
        self._part, self._clock, self._fault = part, clock, fault

    @property
    def _name(self) -> str:
        """The name of the fault once it has begun, empty before."""
        return self._fault.name if self._clock.now_s() >= self._fault.at_s else ""


class FaultyCamera(_StandIn):
    """A camera that freezes, loses three of four frames, goes dark, is lost, or gives wrong depths or stamps."""

    _last: Frame | None = None
    _newest_s, _count = float("-inf"), 0

    def __enter__(self) -> FaultyCamera:
        """Open the camera."""
        self._part.__enter__()
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the camera."""
        self._part.__exit__(error_type, error, traceback)

    def read(self) -> Frame:
        """A frame, as the fault leaves it. Raises CameraError."""
        name = self._name
        if name == "camera_lost":
            raise CameraError("the camera has gone")
        frame: Frame = self._part.read()
        if frame.stamp_s > self._newest_s:
            self._newest_s, self._count = frame.stamp_s, self._count + 1
        if self._last is not None and (name == "frozen_camera" or (name == "dropped_frames" and self._count % 4)):
            return self._last
        self._last = FRAME_FAULTS[name](frame) if name in FRAME_FAULTS else frame
        return self._last


class FaultyDetector(_StandIn):
    """A detector that sees nothing, or sees everything twice more, elsewhere in the image."""

    def __call__(self, image_rgb: UInt8[np.ndarray, "h w 3"]) -> Detections:
        """Detections, as the fault leaves them."""
        found: Detections = self._part(image_rgb)
        match self._name:
            case "missed_detections":
                return Detections.empty(found.class_names)
            case "false_detections":
                height, width = image_rgb.shape[:2]
                shifts = [(0.0, 0.0), (0.2 * width, 0.0), (0.0, 0.2 * height)]
                boxes = np.concatenate([found.boxes_xyxy + [*shift, *shift] for shift in shifts])
                return Detections(
                    boxes.clip(0, [width, height, width, height]).astype(np.float32),
                    np.tile(found.scores, len(shifts)),
                    np.tile(found.class_ids, len(shifts)),
                    found.class_names,
                )
            case _:
                return found


class FaultyPolicy(_StandIn):
    """A policy that gives NaN, jumps, falls silent, strives out of reach, or fails."""

    _last: ActionChunk | None = None

    def reset(self, task: PickTask) -> None:
        """Begin a task."""
        self._part.reset(task)

    @property
    def status(self) -> PolicyStatus:
        """The policy's own."""
        return self._part.status

    def act(self, observation: Observation) -> ActionChunk:
        """A chunk, as the fault leaves it. Raises PolicyInputError."""
        name = self._name
        if name == "policy_error":
            raise PolicyInputError("the network has failed")
        if name == "policy_silent" and self._last is not None:
            return self._last
        chunk: ActionChunk = self._part.act(observation)
        if name in ("policy_nan", "policy_jump"):
            actions = chunk.actions.copy()
            actions[:, :NUM_JOINTS] += np.nan if name == "policy_nan" else JUMP_RAD
            chunk = replace(chunk, actions=actions)
        elif name == "policy_out_of_reach" and observation.command is not None:
            # Shoulder and elbow towards straight: outwards, farther and farther.
            towards = observation.command.qpos + np.array([0.0, 0.15, -0.15, 0.0, 0.0, 0.0])
            chunk = ActionChunk(np.append(towards, chunk.gripper_target_m[0])[None], chunk.dt_s, observation.stamp_s)
        self._last = chunk
        return chunk


class FaultyArm(_StandIn):
    """An arm whose joints are old or stamped ahead, whose connection is cut, or whose controller has stopped it."""

    _last: JointState | None = None

    def __enter__(self) -> FaultyArm:
        """Take control."""
        self._part.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop and release."""
        self._part.__exit__(kind, error, trace)

    def read_state(self) -> JointState:
        """A state, as the fault leaves it. Raises ArmError."""
        name = self._name
        if name == "connection_cut":
            raise ArmError("the connection is closed")
        state: JointState = self._part.read_state()
        if name == "joints_ahead":
            return replace(state, stamp_s=state.stamp_s + AHEAD_S)
        if name == "stale_joints" and self._last is not None:
            return self._last
        self._last = state
        return state

    def command(self, qpos_command: Float[np.ndarray, " 6"], gripper_opening_m: float) -> Float[np.ndarray, " 6"]:
        """Pass the command on. Raises ArmError."""
        if self._name == "protective_stop":
            self._part.stop()
            raise ArmError("protective stop")
        if self._name == "connection_cut":
            raise ArmError("the connection is closed")
        return self._part.command(qpos_command, gripper_opening_m)

    def stop(self) -> None:
        """Stop the arm, if it can be reached. Raises ArmError."""
        if self._name == "connection_cut":
            raise ArmError("the connection is closed")
        self._part.stop()


class FaultyClock(_StandIn):
    """A clock that jumps: the loop was suspended, the world went on."""

    _has_jumped = False

    def now_s(self) -> float:
        """The time, s."""
        return self._part.now_s()

    def wait_until(self, stamp_s: float) -> None:
        """Wait, once for much longer."""
        if self._name == "clock_jump" and not self._has_jumped:
            self._has_jumped = True
            stamp_s += CLOCK_JUMP_S
        self._part.wait_until(stamp_s)


def faulty_camera(camera: Camera, clock: Clock, fault: Injection | None) -> Camera:
    """The camera with the fault, where it is one of cameras."""
    return FaultyCamera(camera, clock, fault) if fault is not None and fault.name in CAMERA_FAULTS else camera


def faulty_detector(detector: Detector, clock: Clock, fault: Injection | None) -> Detector:
    """The detector with the fault, where it is one of detectors."""
    return FaultyDetector(detector, clock, fault) if fault is not None and fault.name in DETECTOR_FAULTS else detector


def faulty_policy(policy: Policy, clock: Clock, fault: Injection | None) -> Policy:
    """The policy with the fault, where it is one of policies."""
    return FaultyPolicy(policy, clock, fault) if fault is not None and fault.name in POLICY_FAULTS else policy


def faulty_arm(arm: Arm, clock: Clock, fault: Injection | None) -> Arm:
    """The arm with the fault, where it is one of arms."""
    return FaultyArm(arm, clock, fault) if fault is not None and fault.name in ARM_FAULTS else arm


def faulty_clock(clock: Clock, fault: Injection | None) -> Clock:
    """The clock with the fault, where it is one of clocks."""
    return FaultyClock(clock, clock, fault) if fault is not None and fault.name in CLOCK_FAULTS else clock
