"""The state of a pick as a learned policy gets it (joints, gripper, target estimate), and the progress of the pick.

Nothing here is simulator ground truth. The same reader makes the states of demonstrations and of execution, so a
policy runs on what it was trained on. The cube is out of sight near the grasp: the target estimate then stays where
the tracker had it, and moves with the hand while the fingers hold something.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from jaxtyping import Float, Float32

from handeye.robot.config import WorkCellConfig
from handeye.robot.interfaces import Outcome, PickTask, PolicyStatus
from handeye.robot.kinematics.forward import forward_kinematics
from handeye.robot.policies.target_selection import LookConfig, RecentHits, is_in_place, looks_like_target
from handeye.robot.transforms import wrap_angle
from handeye.robot.types import NUM_JOINTS, JointState, Observation, Track, TrackStatus

STATE_NAMES = (
    *(f"qpos_{joint}" for joint in range(1, NUM_JOINTS + 1)),
    "gripper_opening_m",
    "gripper_rate_m_s",
    "is_holding",
    "cube_is_known",
    "cube_x_base_m",
    "cube_y_base_m",
    "cube_z_base_m",
    "cube_dx_m",
    "cube_dy_m",
    "cube_dz_m",
    "cube_yaw_error_rad",
    "cube_near_x",
    "cube_near_y",
    "cube_near_z",
)
"""The numbers of a state vector, in their order; cube_d*_m is cube minus grasp point along the base axes, and
cube_near_* is tanh(cube_d* / NEAR_M): on the scale of the table the last millimetres before a grasp do not show."""
ACTION_NAMES = (*(f"qpos_target_{joint}" for joint in range(1, NUM_JOINTS + 1)), "gripper_target_m")
"""The numbers of an action, in their order."""

NEAR_M = 0.015
LOOK = LookConfig()
"""How many detections and which size an object needs before it becomes the target estimate."""
HELD_OPENING_M = (0.015, 0.070)
"""Fingers that close and come to rest between these openings have something between them."""
STILL_M_S = 0.01
KEEP_S = 2.0
"""An estimate outlives its last detection by this: the hand hides the cube while it goes down on it."""
FAILED_GRASP_RADIUS_M = 0.05
"""Fingers that close on nothing this near to the target estimate have failed to grasp it."""
QUARTER_TURN_RAD = np.pi / 2
CLOSING_M_S = -0.05
CLEAR_M = 0.045
"""A cube counts as released for good when the grasp point is this far above the walls of its place ..."""
SURE_S = 0.3
"""... and has been for this long, with the cube detected in the place."""
TIMEOUT = "timeout"


@dataclass(frozen=True, slots=True, eq=False)
class PickState:
    """One moment of a pick. p_cube_base is the target estimate, None while there is none.

    yaw_error_rad turns the hand until its fingers are parallel to two faces of the cube, by less than an eighth turn.
    cube_age_s is the time since the cube was last detected or held. is_verified: the cube has been detected in its
    place since the fingers released it.
    """

    qpos: Float[np.ndarray, " 6"]
    p_tcp_base: Float[np.ndarray, " 3"]
    hand_yaw_rad: float
    gripper_opening_m: float
    gripper_rate_m_s: float
    is_holding: bool
    p_cube_base: Float[np.ndarray, " 3"] | None
    yaw_error_rad: float
    cube_age_s: float
    is_placed: bool
    is_verified: bool

    def vector(self) -> Float32[np.ndarray, " S"]:
        """The numbers of STATE_NAMES; those of an unknown cube are 0."""
        known = self.p_cube_base is not None
        cube = np.zeros(3) if self.p_cube_base is None else self.p_cube_base
        offset = np.zeros(3) if self.p_cube_base is None else self.p_cube_base - self.p_tcp_base
        flags = [self.gripper_opening_m, self.gripper_rate_m_s, float(self.is_holding), float(known)]
        near = np.tanh(offset / NEAR_M)
        return np.concatenate([self.qpos, flags, cube, offset, [self.yaw_error_rad], near]).astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class _TargetEstimate:
    """Where the cube was last known to be. track_id is None where that does not come from a track."""

    p_base: Float[np.ndarray, " 3"]
    yaw_rad: float | None
    seen_s: float
    track_id: int | None


class PickStateReader:
    """Turns observations into states; remembers what the fingers held and which detections are newer than that."""

    def __init__(self, cell: WorkCellConfig) -> None:
        self._cell = cell
        self._p_tool_tcp = np.append(np.array(cell.tool_tcp.translation_m), 1.0)
        self._x_tool_tcp = cell.T_tool_tcp[:3, 0]
        self._task: PickTask | None = None

    def reset(self, task: PickTask) -> None:
        """Forget everything and begin `task`."""
        self._task = task
        self._hits = RecentHits([])
        self._target: _TargetEstimate | None = None
        self._held = False
        self._last: JointState | None = None
        self._failed_ids: set[int] = set()

    def read(self, observation: Observation, opening_command_m: float) -> PickState:
        """The state now; call at the policy's rate. opening_command_m is the last commanded opening.

        Raises RuntimeError before the first `reset`.
        """
        if self._task is None:
            raise RuntimeError("the state reader has no task yet: call reset first")
        joints = observation.joints
        T_base_tool = forward_kinematics(joints.qpos)
        p_tcp = (T_base_tool @ self._p_tool_tcp)[:3]
        rate = self._opening_rate(joints)
        holding = self._holds(joints.gripper_opening_m, rate, opening_command_m)
        if joints.gripper_opening_m < HELD_OPENING_M[0] and abs(rate) < STILL_M_S:
            self._mark_failed(p_tcp)
        self._update_target(observation, p_tcp, holding=holding)
        target = self._target
        x_hand = T_base_tool[:3, :3] @ self._x_tool_tcp
        yaw_hand = float(np.arctan2(x_hand[1], x_hand[0]))
        placed = target is not None and not holding and is_in_place(self._task, target.p_base)
        return PickState(
            qpos=joints.qpos,
            p_tcp_base=p_tcp,
            hand_yaw_rad=yaw_hand,
            gripper_opening_m=joints.gripper_opening_m,
            gripper_rate_m_s=rate,
            is_holding=holding,
            p_cube_base=None if target is None else target.p_base,
            yaw_error_rad=_yaw_error(target, yaw_hand, holding=holding),
            cube_age_s=np.inf if target is None else observation.stamp_s - target.seen_s,
            is_placed=placed,
            is_verified=placed and target is not None and target.track_id is not None,
        )

    def _opening_rate(self, joints: JointState) -> float:
        last, self._last = self._last, joints
        if last is None or joints.stamp_s <= last.stamp_s:
            return 0.0
        return (joints.gripper_opening_m - last.gripper_opening_m) / (joints.stamp_s - last.stamp_s)

    def _holds(self, opening_m: float, rate_m_s: float, command_m: float) -> bool:
        """Fingers that were commanded to close and rest apart hold something, and do so until they move."""
        low, high = HELD_OPENING_M
        rest_apart = low < opening_m < high and abs(rate_m_s) < STILL_M_S
        return rest_apart and (self._held or command_m < opening_m - low / 2)

    def _mark_failed(self, p_tcp: Float[np.ndarray, " 3"]) -> None:
        """The fingers have closed on nothing at the target estimate: other candidates come first from now on."""
        target = self._target
        if (
            target is not None
            and target.track_id is not None
            and np.linalg.norm(target.p_base - p_tcp) < FAILED_GRASP_RADIUS_M
        ):
            self._failed_ids.add(target.track_id)

    def _update_target(self, observation: Observation, p_tcp: Float[np.ndarray, " 3"], *, holding: bool) -> None:
        """Held: the cube is between the fingers. Just released: it lies below, until there is a newer detection."""
        tracks, now_s = observation.tracks, observation.stamp_s
        if holding:
            self._held = True
            self._target = _TargetEstimate(p_tcp, None, now_s, None)
            return
        if self._held:
            self._held = False
            self._hits = RecentHits(tracks)
            self._target = self._where_it_fell(p_tcp, now_s)
        seen = self._hits.best(tracks, self._is_candidate, LOOK.min_hits, self._preference)
        if seen is not None:
            self._target = _TargetEstimate(seen.p_base, seen.yaw_rad, seen.last_seen_s, seen.track_id)
        elif self._target is not None and now_s - self._target.seen_s > KEEP_S:
            self._target = None

    def _where_it_fell(self, p_tcp: Float[np.ndarray, " 3"], now_s: float) -> _TargetEstimate | None:
        """A cube let go over its place is in it; one that slipped out elsewhere may lie anywhere."""
        assert self._task is not None
        floor = np.array([p_tcp[0], p_tcp[1], self._task.place_p_base[2] + self._cell.cube_edge_m[0] / 2])
        return _TargetEstimate(floor, None, now_s, None) if is_in_place(self._task, floor) else None

    def _is_candidate(self, track: Track) -> bool:
        """A confirmed track that looks like the target, where the grasp point may go."""
        assert self._task is not None
        return (
            track.status is TrackStatus.CONFIRMED
            and looks_like_target(track, self._task, self._cell, LOOK)
            and self._cell.workspace.contains(track.p_base)
        )

    def _preference(self, track: Track) -> float:
        """The track of the present estimate is kept, unless a grasp has failed there."""
        is_target = self._target is not None and self._target.track_id == track.track_id
        return 4.0 * (track.track_id not in self._failed_ids) + 2.0 * is_target + (track.size_m is not None)


def _yaw_error(target: _TargetEstimate | None, yaw_hand: float, *, holding: bool) -> float:
    """From the hand's yaw to the nearest direction of the cube's faces; 0 where that is not known."""
    if target is None or target.yaw_rad is None or holding:
        return 0.0
    return wrap_angle(target.yaw_rad - yaw_hand, QUARTER_TURN_RAD)


class PickStage(Enum):
    """The stage of a pick, as far as its state shows."""

    LOOK = "look"
    APPROACH = "approach"
    GRASP = "grasp"
    CARRY = "carry"
    VERIFY = "verify"
    DONE = "done"


NOT_BEGUN = PolicyStatus(PickStage.LOOK.value, Outcome.RUNNING)
"""The status before the first state."""


class PickProgress:
    """Progress of one pick, from its states alone: stage, grasps begun, and whether it is over.

    This is the status of policies that have no script of stages.
    """

    def __init__(self, task: PickTask, timeout_s: float) -> None:
        """timeout_s: the pick has failed when it takes longer, counted from its first state."""
        # Above the place, not above where the fingers opened: a cube that fell from high up is in it too.
        self._clear_z = float(task.place_p_base[2]) + task.place_wall_m + CLEAR_M
        self._timeout_s = timeout_s
        self._began_s: float | None = None
        self._attempts = 0
        self._was_closing = False
        self._done_since_s: float | None = None
        self._status = NOT_BEGUN

    @property
    def status(self) -> PolicyStatus:
        """The status after the latest state; once over it stays."""
        return self._status

    def update(self, state: PickState, stamp_s: float) -> None:
        """Take in the state at `stamp_s`."""
        if self._status.is_over:
            return
        self._began_s = stamp_s if self._began_s is None else self._began_s
        is_closing = state.gripper_rate_m_s < CLOSING_M_S
        self._attempts += is_closing and not self._was_closing
        self._was_closing = is_closing
        stage = _stage_of(state, is_closing=is_closing)
        if self._is_done(state, stamp_s):
            self._status = PolicyStatus(PickStage.DONE.value, Outcome.SUCCEEDED, None, self._attempts)
        elif stamp_s - self._began_s > self._timeout_s:
            self._status = PolicyStatus(stage.value, Outcome.FAILED, TIMEOUT, self._attempts)
        else:
            self._status = PolicyStatus(stage.value, Outcome.RUNNING, None, self._attempts)

    def _is_done(self, state: PickState, stamp_s: float) -> bool:
        """Detected in its place for a while, with the hand well above it."""
        if not (state.is_verified and float(state.p_tcp_base[2]) > self._clear_z):
            self._done_since_s = None
            return False
        self._done_since_s = stamp_s if self._done_since_s is None else self._done_since_s
        return stamp_s - self._done_since_s >= SURE_S


def _stage_of(state: PickState, *, is_closing: bool) -> PickStage:
    if state.is_holding:
        return PickStage.CARRY
    if state.is_placed:
        return PickStage.VERIFY
    if is_closing:
        return PickStage.GRASP
    return PickStage.LOOK if state.p_cube_base is None else PickStage.APPROACH
