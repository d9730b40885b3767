"""The data types that pass through one tick: stamped, frozen, with unit and frame in their names."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from jaxtyping import Float, Float32, UInt8

NUM_JOINTS = 6

STATE_KEY = "observation.state"
ENVIRONMENT_KEY = "observation.environment_state"
IMAGE_PREFIX = "observation.images."
ACTION_KEY = "action"
"""Keys of states, images and actions in data sets and exported policies: those of LeRobot."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One colour-and-depth image, depth aligned to colour.

    depth_m is the distance along the camera's z axis, NaN where the sensor has no reading (REP 118). K is the
    pinhole matrix in pixels of this very image; lens distortion has been removed. stamp_s is the exposure time.
    """

    image_rgb: UInt8[np.ndarray, "H W 3"]
    depth_m: Float32[np.ndarray, "H W"]
    K: Float[np.ndarray, "3 3"]
    stamp_s: float


@dataclass(frozen=True, slots=True, eq=False)
class JointState:
    """Measured state of arm and gripper. gripper_opening_m is the distance between the fingers, 0 = closed."""

    qpos: Float[np.ndarray, " 6"]
    qvel: Float[np.ndarray, " 6"]
    gripper_opening_m: float
    stamp_s: float


@dataclass(frozen=True, slots=True, eq=False)
class ObjectPosition:
    """One detection located in the base frame.

    p_base is the estimated centre of the object in the base frame with its covariance (m^2). size_m is the
    extent (length, width, height) along the object's own axes and yaw_rad the rotation of its length axis about
    base z; both are None where the points do not support them.
    """

    p_base: Float[np.ndarray, " 3"]
    covariance_base: Float[np.ndarray, "3 3"]
    yaw_rad: float | None
    size_m: Float[np.ndarray, " 3"] | None
    class_id: int
    class_name: str
    score: float
    stamp_s: float


class TrackStatus(Enum):
    """Life cycle of a track: too few detections, enough, and unseen for longer than it may coast."""

    TENTATIVE = "tentative"
    CONFIRMED = "confirmed"
    LOST = "lost"


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """An object with identity. track_id is never reused in a run; covariance_base belongs to p_base (m^2)."""

    track_id: int
    class_id: int
    class_name: str
    p_base: Float[np.ndarray, " 3"]
    v_base: Float[np.ndarray, " 3"]
    covariance_base: Float[np.ndarray, "3 3"]
    yaw_rad: float | None
    size_m: Float[np.ndarray, " 3"] | None
    score: float
    status: TrackStatus
    last_seen_s: float
    num_hits: int


@dataclass(frozen=True, slots=True, eq=False)
class CommandState:
    """The last set-point sent and the differences that lead to it, for each joint: rad, rad/s and rad/s^2.

    qvel is the step of the last period over its length, qacc its change. Limits are meant for these differences: they
    are what the arm is asked to do.
    """

    qpos: Float[np.ndarray, " D"]
    qvel: Float[np.ndarray, " D"]
    qacc: Float[np.ndarray, " D"]

    @staticmethod
    def at_rest(qpos: Float[np.ndarray, " D"]) -> CommandState:
        """Standing at qpos."""
        return CommandState(qpos.copy(), np.zeros_like(qpos), np.zeros_like(qpos))

    @property
    def is_at_rest(self) -> bool:
        """Whether the last three set-points were the same."""
        return not (self.qvel.any() or self.qacc.any())

    def then(self, qpos: Float[np.ndarray, " D"], dt_s: float) -> CommandState:
        """The state after one more set-point."""
        qvel = (qpos - self.qpos) / dt_s
        return CommandState(qpos.copy(), qvel, (qvel - self.qvel) / dt_s)


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """All that a policy may know: the measured joints, the newest frame if one came this tick, and the tracks.

    T_base_camera is the camera's pose at the exposure of the frame, not now. command is what was really sent to the arm
    last, None before the first set-point. is_held: it was not what the policy had asked for, because a gate or the
    driver objected.
    """

    joints: JointState
    frame: Frame | None
    tracks: tuple[Track, ...]
    stamp_s: float
    command: CommandState | None = None
    is_held: bool = False
    T_base_camera: Float[np.ndarray, "4 4"] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ActionChunk:
    """The targets of a policy: one row per dt_s from stamp_s on, six joint angles in rad and the opening in m."""

    actions: Float[np.ndarray, "T 7"]
    dt_s: float
    stamp_s: float

    @property
    def qpos_target(self) -> Float[np.ndarray, "T 6"]:
        """Joint targets, rad."""
        return self.actions[:, :NUM_JOINTS]

    @property
    def gripper_target_m(self) -> Float[np.ndarray, " T"]:
        """Gripper opening targets, m."""
        return self.actions[:, NUM_JOINTS]
