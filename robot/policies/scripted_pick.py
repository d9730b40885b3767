"""The scripted pick: look, approach, look again, grasp, check, lift, carry, place, verify, and retry.

`PickScript._attempt` is the whole skill on one screen; the stages follow below it in their order. A stage that cannot
go on returns its `FailureReason`, and the next attempt begins with a new look.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum

import numpy as np
from jaxtyping import Float
from pydantic import Field

from handeye.robot.config import WorkCellConfig
from handeye.robot.interfaces import PickTask
from handeye.robot.kinematics.forward import forward_kinematics
from handeye.robot.policies.grasp import (
    Grasp,
    GraspConfig,
    GraspPlanner,
    camera_pose_down,
    points_around,
    tool_pose_down,
)
from handeye.robot.policies.motions import MotionConfig, Motions, Script
from handeye.robot.policies.target_selection import (
    LookConfig,
    RecentHits,
    is_in_place,
    looks_like_target,
)
from handeye.robot.transforms import translation, wrap_angle
from handeye.robot.types import Observation, Track
from handeye.vision.config import Config


class CarryConfig(Config):
    """How a held object travels and is set down."""

    lift_m: float = Field(default=0.15, gt=0)
    """How far straight up before travelling."""
    wall_clearance_m: float = Field(default=0.04, gt=0)
    """Room between the object's lower edge and the top of the place's walls when it arrives above them."""
    drop_m: float = Field(default=0.06, ge=0)
    """Height of the object's lower edge above the place's floor when the fingers open."""
    release_s: float = Field(default=2.0, gt=0)
    """How long to go on opening fingers that do not let go."""
    verify_s: float = Field(default=0.8, gt=0)
    """How long to look for the object in its place before looking for it on the table."""


class PickSkillConfig(Config):
    """The scripted pick skill."""

    look: LookConfig = LookConfig()
    grasp: GraspConfig = GraspConfig()
    carry: CarryConfig = CarryConfig()
    motion: MotionConfig = MotionConfig()
    timeout_s: float = Field(default=45.0, gt=0)
    """The skill gives up after this time, counted from its first observation."""


Condition = Callable[[Track], bool]

NEIGHBOUR_RADIUS_M = 0.12
"""Nothing farther from the object's middle than this can touch the fingers."""
PLACE_YAWS_RAD = np.linspace(-np.pi, np.pi, 24, endpoint=False)
"""Directions of the hand to choose from above the place."""
SEARCH_PARTS = (0.25, 0.75)
"""The closer views look down at these parts of the table's length and width."""


class Stage(Enum):
    """What the skill does now."""

    LOOK = "look"
    SEARCH = "search"
    APPROACH = "approach"
    RELOOK = "relook"
    GRASP = "grasp"
    LIFT = "lift"
    CARRY = "carry"
    PLACE = "place"
    VERIFY = "verify"
    DONE = "done"


class FailureReason(Enum):
    """Why an attempt, or in the end the whole task, failed."""

    NOT_FOUND = "not_found"
    """No view of the table shows the object."""
    UNREACHABLE = "unreachable"
    """It was seen where the arm cannot grasp."""
    GRASP_FAILED = "grasp_failed"
    """The fingers closed on nothing."""
    LOST = "lost"
    """It was seen and then not again, or it slipped out of the fingers on the way."""
    NOT_RELEASED = "not_released"
    """The fingers did not open over the place."""
    VERIFY_FAILED = "verify_failed"
    """It was released over its place, but was seen neither there nor on the table."""
    MOTION_FAILED = "motion_failed"
    """No trajectory was found."""
    TIMEOUT = "timeout"
    """The skill's time was up."""


class TaskFailed(Exception):  # noqa: N818 - a decision, not an error
    """Ends the script when nothing is left to try."""

    def __init__(self, reason: FailureReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class PickScript:
    """One task. `stage` and `attempts` (grasps begun) tell how far `run` has come."""

    def __init__(self, cell: WorkCellConfig, config: PickSkillConfig, task: PickTask, motions: Motions) -> None:
        self.stage = Stage.LOOK
        self.attempts = 0
        self._was_seen = False
        self._failed_ids: set[int] = set()
        self._cell = cell
        self._config = config
        self._task = task
        self._arm = motions
        self._planner = GraspPlanner(cell, config.grasp)

    def run(self) -> Script[None]:
        """Do the task; returns when the object was seen in its place, raises TaskFailed when nothing is left to try."""
        reason: FailureReason | None = FailureReason.NOT_FOUND
        for _ in range(self._config.grasp.max_attempts):
            reason = yield from self._attempt()
            if reason is None:
                return
        raise TaskFailed(reason or FailureReason.NOT_FOUND)

    def _attempt(self) -> Script[FailureReason | None]:
        """Once through all stages. Returns why the attempt failed, None if it did not."""
        target = yield from self._look()
        if target is None:
            return (yield from self._explain_absence())
        self._was_seen = True
        grasp = yield from self._approach(target)
        if grasp is None:
            return FailureReason.LOST
        if not (yield from self._grasp(grasp)):
            self._failed_ids.add(grasp.track_id)
            yield from self._let_go()
            return FailureReason.GRASP_FAILED
        if not (yield from self._lift(grasp)):
            return FailureReason.LOST
        if not (yield from self._carry(grasp)):
            return FailureReason.LOST
        yield from self._place(grasp)
        return (yield from self._verify())

    # Look -----------------------------------------------------------------------------------------------------------

    def _look(self) -> Script[Track | None]:
        """The object, seen from home or from one of the closer views; None when none shows it.

        One within the workspace is preferred; one outside of it is returned only when there is no other.
        """
        for stage, qpos in self._views():
            self.stage = stage
            yield from self._arm.move(qpos, self._cell.gripper.opening_max_m)
            target = yield from self._watch(self._is_target_inside, self._config.look.wait_s, self._preference)
            if target is not None:
                return target
        return RecentHits([]).best(self._arm.observation.tracks, self._is_target, self._config.look.min_hits)

    def _explain_absence(self) -> Script[FailureReason | None]:
        """Not on the table: never seen, or lost on the way, perhaps right into its place."""
        if not self._was_seen:
            raise TaskFailed(FailureReason.NOT_FOUND)
        if self.attempts > 0:
            self.stage = Stage.VERIFY
            height_m = self._task.place_wall_m + self._config.carry.wall_clearance_m
            yield from self._arm.move(self._reach_over_place(height_m), self._cell.gripper.opening_max_m)
            if (yield from self._watch(self._is_in_place, self._config.carry.verify_s)) is not None:
                return None
        raise TaskFailed(FailureReason.LOST)

    def _views(self) -> Iterator[tuple[Stage, Float[np.ndarray, " 6"]]]:
        """Home sees the whole table; the views after it see a quarter each, from nearer by."""
        home_qpos = np.array(self._cell.home_qpos)
        yield Stage.LOOK, home_qpos
        low, high = np.array(self._cell.table.cubes_low_xy_m), np.array(self._cell.table.cubes_high_xy_m)
        height = self._cell.table.height_m + self._config.look.search_height_m
        for part_x in SEARCH_PARTS:
            for part_y in SEARCH_PARTS:
                xy = low + np.array([part_x, part_y]) * (high - low)
                qpos = self._planner.reach(camera_pose_down(np.append(xy, height), np.pi / 2, self._cell), home_qpos)
                if qpos is not None:
                    yield Stage.SEARCH, qpos

    def _watch(
        self, is_candidate: Condition, wait_s: float, prefer: Callable[[Track], float] = lambda track: 0.0
    ) -> Script[Track | None]:
        """Hold still until a candidate has been detected often enough to act upon, at most `wait_s`."""
        hits, min_hits = RecentHits(self._arm.observation.tracks), self._config.look.min_hits

        def best() -> Track | None:
            return hits.best(self._arm.observation.tracks, is_candidate, min_hits, prefer)

        yield from self._arm.wait(wait_s, stop=lambda _: best() is not None)
        return best()

    def _is_target(self, track: Track) -> bool:
        """What looks like the target and is not in its place already."""
        is_similar = looks_like_target(track, self._task, self._cell, self._config.look)
        return is_similar and not is_in_place(self._task, track.p_base)

    def _is_target_inside(self, track: Track) -> bool:
        return self._is_target(track) and self._cell.workspace.contains(track.p_base)

    def _preference(self, track: Track) -> float:
        """Tracks on which a grasp has failed come last, then those without a measured size."""
        return 2.0 * (track.track_id not in self._failed_ids) + (track.size_m is not None)

    # Approach and look again ----------------------------------------------------------------------------------------

    def _approach(self, target: Track) -> Script[Grasp | None]:
        """Go above the object, look again from there and correct; follows an object that has moved. None: lost."""
        for _ in range(self._config.grasp.max_approaches):
            grasp = self._choose_grasp(target)
            self.stage = Stage.APPROACH
            yield from self._arm.move(grasp.qpos_above, grasp.opening_m, stop=self._has_left(grasp, target.track_id))
            self.stage = Stage.RELOOK
            is_here = self._is_at(grasp)
            seen = yield from self._watch(self._is_target_inside, self._config.look.wait_s, is_here)
            if seen is None:
                return None
            if is_here(seen):
                return (yield from self._correct(seen, grasp))
            target = seen
        return None

    def _choose_grasp(self, target: Track) -> Grasp:
        grasp = self._planner.choose(target, self._arm.qpos_target, self._seen_surfaces(target))
        if grasp is None:
            raise TaskFailed(FailureReason.UNREACHABLE)
        return grasp

    def _seen_surfaces(self, target: Track) -> Float[np.ndarray, "N 3"]:
        """What the newest frame shows around the object; nothing when no frame has come yet."""
        if self._arm.latest_view is None:
            return np.zeros((0, 3))
        frame, T_base_camera = self._arm.latest_view
        return points_around(frame, T_base_camera, target.p_base, NEIGHBOUR_RADIUS_M)

    def _has_left(self, grasp: Grasp, track_id: int) -> Callable[[Observation], bool]:
        """Whether the track that `grasp` is for has been found to be somewhere else by now."""
        is_here = self._is_at(grasp)
        return lambda seen: any(track.track_id == track_id and not is_here(track) for track in seen.tracks)

    def _is_at(self, grasp: Grasp) -> Condition:
        """Whether a track is where `grasp` expects its object."""
        moved_m = self._config.grasp.moved_m
        return lambda track: bool(np.linalg.norm(track.p_base[:2] - grasp.p_base[:2]) <= moved_m)

    def _correct(self, seen: Track, grasp: Grasp) -> Script[Grasp]:
        """Shift and turn by what the closer look has found."""
        better = self._choose_grasp(seen)
        turn_rad = abs(wrap_angle(better.yaw_rad - grasp.yaw_rad))
        shift_m = float(np.linalg.norm(better.p_base[:2] - grasp.p_base[:2]))
        if shift_m > self._config.grasp.correct_m or turn_rad > self._config.grasp.correct_rad:
            yield from self._arm.move(better.qpos_above, better.opening_m)
            return better
        return grasp

    # Grasp, lift, carry, place --------------------------------------------------------------------------------------

    def _grasp(self, grasp: Grasp) -> Script[bool]:
        """Straight down, close, and check whether something is between the fingers."""
        self.stage = Stage.GRASP
        self.attempts += 1
        yield from self._arm.move_straight(grasp.T_base_tool)
        yield from self._arm.move_fingers(0.0)
        return self._holds(grasp)

    def _holds(self, grasp: Grasp) -> bool:
        """Whether the fingers are about as far apart as the object is wide: neither closed nor stuck open."""
        opening_m = self._arm.joints.gripper_opening_m
        return self._config.grasp.held_opening_min_m < opening_m < grasp.width_m + self._config.grasp.finger_gap_m

    def _let_go(self) -> Script[None]:
        """Open and back off upwards, so that the next look sees the table and not the hand."""
        yield from self._arm.move_fingers(self._cell.gripper.opening_max_m)
        yield from self._rise(self._config.grasp.clearance_m)

    def _rise(self, height_m: float) -> Script[None]:
        T_base_tool = forward_kinematics(self._arm.qpos_target)
        yield from self._arm.move_straight(translation(0.0, 0.0, height_m) @ T_base_tool)

    def _lift(self, grasp: Grasp) -> Script[bool]:
        """Straight up; whether the object came along."""
        self.stage = Stage.LIFT
        yield from self._rise(self._config.carry.lift_m)
        return self._holds(grasp)

    def _carry(self, grasp: Grasp) -> Script[bool]:
        """Over the place, as high as the walls ask for; breaks off when the fingers have lost the object."""
        self.stage = Stage.CARRY
        hangs_m = grasp.p_base[2] - self._cell.table.height_m
        height_m = self._task.place_wall_m + self._config.carry.wall_clearance_m + hangs_m
        qpos = self._reach_over_place(height_m)
        yield from self._arm.move(qpos, 0.0, stop=lambda _: not self._holds(grasp))
        return self._holds(grasp)

    def _reach_over_place(self, height_m: float) -> Float[np.ndarray, " 6"]:
        """Joints with the grasp point over the middle of the place, the hand turned the quickest way."""
        p_tcp = self._task.place_p_base + np.array([0.0, 0.0, height_m])
        poses = (tool_pose_down(p_tcp, float(yaw), self._cell) for yaw in PLACE_YAWS_RAD)
        reached = (self._planner.reach(pose, self._arm.qpos_target) for pose in poses)
        possible = [qpos for qpos in reached if qpos is not None]
        if not possible:
            raise TaskFailed(FailureReason.UNREACHABLE)
        return min(possible, key=lambda qpos: float(np.abs(qpos - self._arm.qpos_target).max()))

    def _place(self, grasp: Grasp) -> Script[None]:
        """Down between the walls, open, and up again."""
        self.stage = Stage.PLACE
        depth_m = self._task.place_wall_m + self._config.carry.wall_clearance_m - self._config.carry.drop_m
        yield from self._rise(-depth_m)
        yield from self._release(grasp)
        yield from self._rise(depth_m)

    def _release(self, grasp: Grasp) -> Script[None]:
        """Open until the fingers have let go; raises TaskFailed when they do not."""
        until_s = self._arm.now_s + self._config.carry.release_s
        widest_m = self._cell.gripper.opening_max_m
        released_m = min(grasp.width_m + self._config.grasp.finger_gap_m / 2, (grasp.width_m + widest_m) / 2)
        while self._arm.now_s < until_s:
            yield from self._arm.move_fingers(widest_m)
            if self._arm.joints.gripper_opening_m > released_m:
                return
        raise TaskFailed(FailureReason.NOT_RELEASED)

    # Verify ---------------------------------------------------------------------------------------------------------

    def _verify(self) -> Script[FailureReason | None]:
        """Look into the place; if the object is not seen there, look whether it still is on the table."""
        self.stage = Stage.VERIFY
        if (yield from self._watch(self._is_in_place, self._config.carry.verify_s)) is not None:
            return None
        yield from self._arm.move(np.array(self._cell.home_qpos), self._cell.gripper.opening_max_m)
        if (yield from self._watch(self._is_target, self._config.look.wait_s)) is not None:
            return FailureReason.LOST
        raise TaskFailed(FailureReason.VERIFY_FAILED)

    def _is_in_place(self, track: Track) -> bool:
        return track.class_name == self._task.class_name and is_in_place(self._task, track.p_base)
