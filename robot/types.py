"""The data types that pass through one tick: stamped, frozen, with unit and frame in their names."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from jaxtyping import Float, Float32, UInt8

NUM_JOINTS = 6
HELD_TOLERANCE_RAD = 1e-4
"""A command that differs from the policy's target by more than this was changed on its way."""

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
class Observation:
    """All that a policy may know: the measured joints, the newest frame if one came this tick, and the tracks.

    qpos_command is the set-point that was really sent to the arm last (rad), None before the first.
    """

    joints: JointState
    frame: Frame | None
    tracks: tuple[Track, ...]
    stamp_s: float
    qpos_command: Float[np.ndarray, " 6"] | None = None

    def command_held_at(self, qpos_target: Float[np.ndarray, " 6"]) -> Float[np.ndarray, " 6"] | None:
        """The last command where a gate or the driver has held the arm short of `qpos_target`; None otherwise."""
        held = self.qpos_command
        return held if held is not None and np.abs(held - qpos_target).max() > HELD_TOLERANCE_RAD else None


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
