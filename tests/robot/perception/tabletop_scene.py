"""A tabletop with exact identity: cubes that look alike, one pushed, two crossing, an arm that passes before them.

From depth with a stereo camera's noise, through positions and visibility, to tracks: nothing is told to the tracker but
boxes and depth. Cubes are placed by their centres, so who is who is known in every frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from handeye.robot.perception.camera_view import ProjectionConfig
from handeye.robot.perception.localize import locate_objects
from handeye.robot.perception.object_tracker import ObjectTracker, TrackerConfig
from handeye.robot.perception.occlusion import VisibilityConfig, build_visibility
from handeye.robot.types import Track, TrackStatus
from tests.robot.perception.ray_scene import (
    Box,
    add_stereo_noise,
    box_of,
    cast,
    count_pixels,
    cube,
    detections_of,
    frame_of,
    look_at,
)

FRAME_S = 0.1
NUM_FRAMES = 18
NEAR_M = 0.03
MIN_SEEN = 0.35
EDGE_M = 0.048
T_BASE_CAMERA = look_at(np.array([0.45, 0.0, 0.62]), np.array([0.6, 0.0, 0.0]), roll=0.3)


@dataclass(frozen=True)
class Scenario:
    """Where the cubes (the first is the target) and the arm are in one frame."""

    cubes: list[Box]
    arm: Box


@dataclass(frozen=True)
class Outcome:
    """What became of one scene."""

    num_switches: int
    target_switches: int
    num_hidden: int
    is_target_kept: bool


def build_scenario(rng: np.random.Generator) -> list[Scenario]:
    """Two pass each other 75 mm apart, one is pushed, three stand; the arm sweeps over all of them from the left."""
    start = np.array([[0.53, -0.10], [0.60, 0.0], [0.53, 0.135], [0.69, -0.10], [0.67, 0.06], [0.61, -0.13]])
    start = start + rng.uniform(-0.003, 0.003, start.shape)
    yaws = rng.uniform(-np.pi / 4, np.pi / 4, len(start))
    travel = np.zeros((len(start), 2))
    travel[2], travel[4] = [0.14, 0.0], [-0.14, 0.0]
    travel[1] = [0.0, rng.uniform(-0.05, -0.02)]
    offset = rng.uniform(-0.02, 0.02)
    scenarios = []
    for frame in range(NUM_FRAMES):
        part = np.clip((frame - 3) / (NUM_FRAMES - 4), 0.0, 1.0)
        cubes = [cube(x, y, EDGE_M, yaw) for (x, y), yaw in zip(start + part * travel, yaws, strict=True)]
        arm_y = -0.26 + 0.52 * frame / (NUM_FRAMES - 1) + offset
        scenarios.append(Scenario(cubes, Box(np.array([0.58, arm_y, 0.22]), np.array([0.5, 0.09, 0.06]))))
    return scenarios


def run_scene(seed: int) -> Outcome:
    """Track one scenario; a cube changes hands when the track at its place is another than the last one there."""
    rng = np.random.default_rng(seed)
    tracker = ObjectTracker(TrackerConfig())
    last: dict[int, int] = {}
    switches = np.zeros(6, dtype=int)
    num_hidden, tracks = 0, ()
    for k, scenario in enumerate(build_scenario(rng)):
        depth, hit = cast([*scenario.cubes, scenario.arm], T_BASE_CAMERA)
        frame = frame_of(add_stereo_noise(depth, rng), FRAME_S * k)
        seen = [index for index, solid in enumerate(scenario.cubes) if _is_seen(hit, index, solid)]
        num_hidden += len(scenario.cubes) - len(seen)
        boxes = [box + rng.normal(0, 1.5, 4) for index in seen if (box := box_of(hit, index)) is not None]
        positions = locate_objects(detections_of(boxes), frame, T_BASE_CAMERA, ProjectionConfig(), table_height_m=0.0)
        visible = build_visibility(frame, T_BASE_CAMERA, VisibilityConfig())
        tracks = tracker.update(positions, frame.stamp_s, visible=visible)
        for index in seen:
            holder = _track_at(tracks, scenario.cubes[index].centre)
            if holder is None:
                continue
            switches[index] += last.get(index, holder) != holder
            last[index] = holder
    target = build_scenario(np.random.default_rng(seed))[-1].cubes[0].centre
    kept = _track_at(tracks, target) == last.get(0)
    return Outcome(int(switches.sum()), int(switches[0]), num_hidden, kept and 0 in last)


def _is_seen(hit: np.ndarray, index: int, solid: Box) -> bool:
    return bool((hit == index).sum() > MIN_SEEN * count_pixels(solid, T_BASE_CAMERA))


def _track_at(tracks: tuple[Track, ...], centre: np.ndarray) -> int | None:
    """The confirmed track nearest to a cube, if it is there at all."""
    held = [track for track in tracks if track.status is TrackStatus.CONFIRMED]
    if not held:
        return None
    nearest = min(held, key=lambda track: float(np.linalg.norm(track.p_base - centre)))
    return nearest.track_id if np.linalg.norm(nearest.p_base - centre) < NEAR_M else None
