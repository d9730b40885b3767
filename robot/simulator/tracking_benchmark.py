"""Benchmark the object tracker on rendered tabletop scenarios with noisy depth and exact identities.

Boxes come from the simulator's segmentation, jittered and sometimes missing, so the scores are those of localisation,
visibility and tracking, not of a detector. Every cube counts in every frame, hidden ones too: the tracker is to know
where they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
from jaxtyping import Bool, Float
from typing_extensions import assert_never

from handeye.robot.config import WorkCellConfig
from handeye.robot.kinematics.collision_geometry import ArmShape, PlacedArm
from handeye.robot.perception.localize import locate_objects
from handeye.robot.perception.object_tracker import ObjectTracker, Visible
from handeye.robot.perception.occlusion import build_visibility, without_arm
from handeye.robot.perception.pipeline import PerceptionConfig, seen_past_arm
from handeye.robot.simulator.labels import label_objects
from handeye.robot.simulator.layout import object_pose
from handeye.robot.simulator.objects import CUBE_CLASSES
from handeye.robot.simulator.renderers import Renderer, RendererKind, build_renderer
from handeye.robot.simulator.sensor_noise import DepthNoiseConfig, noisy_depth
from handeye.robot.simulator.tracking_scenarios import FRAME_S, Scenario, ScenarioKind, sample_scenario
from handeye.robot.types import Frame, ObjectPosition, Track, TrackStatus
from handeye.vision.runtime.detections import Detections
from handeye.vision.tracking.metrics import FramePairs, TrackingScores, score_frames

MATCH_M = 0.03
"""A track farther from a cube than this does not match it."""
_JITTER_PX = 1.5
_MISSED = 0.03
_LEAST_VISIBLE = 0.35


class Visibility(Enum):
    """What the tracker knows about occlusion."""

    ARM = "arm"
    """Occlusion by depth, and by the arm from its joints."""
    DEPTH = "depth"
    """Occlusion by depth."""
    NONE = "none"
    """Nothing: everything counts as visible."""


@dataclass(frozen=True, slots=True, eq=False)
class ScenarioResult:
    """Result of one scenario: errors (m) of cubes with a track, and whether the cube was seen then.

    `hidden` counts hidden cubes over all frames, `false_lost` those of them whose track was lost.
    """

    kind: ScenarioKind
    frames: tuple[FramePairs, ...]
    errors_m: Float[np.ndarray, " E"]
    is_seen: Bool[np.ndarray, " E"]
    hidden: int
    false_lost: int


@dataclass(frozen=True, slots=True)
class BenchmarkSummary:
    """Scores (percent) and errors (mm) over several scenarios."""

    scores: TrackingScores
    frames: int
    hidden: int
    false_lost: int
    error_mm_median: float
    error_mm_p95: float
    hidden_error_mm_median: float


def run_scenarios(
    kinds: tuple[ScenarioKind, ...],
    seeds: range,
    *,
    visibility: Visibility,
    renderer: RendererKind,
    cell: WorkCellConfig,
) -> Iterator[ScenarioResult]:
    """Every kind with every seed, one result after another; each depends on kind, seed and renderer alone."""
    for kind in kinds:
        for seed in seeds:
            scenario = sample_scenario(kind, cell, seed)
            scenario_renderer = build_renderer(renderer, scenario.camera, camera_name=scenario.camera_name)
            try:
                scenario_renderer.load(scenario.scene)
                yield track_scenario(scenario, scenario_renderer, seed, visibility=visibility)
            finally:
                scenario_renderer.close()


def track_scenario(scenario: Scenario, renderer: Renderer, seed: int, *, visibility: Visibility) -> ScenarioResult:
    """Track the cubes of one scenario through its frames."""
    rng = np.random.default_rng([seed, 1])
    config, shape = PerceptionConfig(), ArmShape(scenario.cell)
    tracker, table_m = ObjectTracker(config.tracker), scenario.cell.table.height_m
    names: dict[int, int] = {}
    frames, errors, seen, num_hidden, num_lost = [], [], [], 0, 0
    for number, keyframe in enumerate(scenario.keyframes):
        scenario.pose(keyframe)
        shot = _render_shot(scenario, renderer, FRAME_S * number, rng)
        positions, visible = _perceive(
            shot, visibility, shape.place(keyframe.qpos, keyframe.opening_m), config, table_m
        )
        tracks = tracker.update(positions, shot.frame.stamp_s, visible=visible)
        centres = np.array([object_pose(scenario.scene, item)[:3, 3] for item in scenario.scene.objects])
        pairs, distances = _pair(centres, tracks, names)
        frames.append(pairs)
        nearest = distances.min(axis=1, initial=np.inf)
        errors.append(nearest[nearest <= MATCH_M])
        seen.append(shot.is_seen[nearest <= MATCH_M])
        num_hidden += int(np.count_nonzero(~shot.is_seen))
        num_lost += _count_lost(centres[~shot.is_seen], tracks)
    return ScenarioResult(
        scenario.kind, tuple(frames), np.concatenate(errors), np.concatenate(seen), num_hidden, num_lost
    )


def summarise(results: list[ScenarioResult]) -> BenchmarkSummary:
    """Score several scenarios as one sequence without identities in common."""
    frames, truths, tracks = [], 0, 0
    for result in results:
        frames += [FramePairs(pair.truth_ids + truths, pair.track_ids + tracks, pair.ious) for pair in result.frames]
        truths = 1 + max(int(pair.truth_ids.max(initial=-1)) for pair in frames)
        tracks = 1 + max(int(pair.track_ids.max(initial=-1)) for pair in frames)
    errors = 1e3 * np.concatenate([result.errors_m for result in results])
    is_seen = np.concatenate([result.is_seen for result in results])
    return BenchmarkSummary(
        score_frames(frames),
        len(frames),
        sum(result.hidden for result in results),
        sum(result.false_lost for result in results),
        _percentile(errors[is_seen], 50.0),
        _percentile(errors[is_seen], 95.0),
        _percentile(errors[~is_seen], 50.0),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Shot:
    """One frame as the tracker gets it, and which cubes are visible enough to be detected."""

    frame: Frame
    T_base_camera: Float[np.ndarray, "4 4"]
    detections: Detections
    is_seen: Bool[np.ndarray, " N"]


def _render_shot(scenario: Scenario, renderer: Renderer, stamp_s: float, rng: np.random.Generator) -> _Shot:
    rendering, geom_ids = renderer.render(scenario.scene.data), renderer.segment(scenario.scene.data)
    boxes, classes, is_seen = [], [], []
    for item in scenario.scene.objects:
        alone = replace(scenario.scene, objects=(item,))
        labels = label_objects(alone, geom_ids, scenario.camera, clutter=False, camera_name=scenario.camera_name)
        is_seen.append(bool(labels) and labels[0].visible_fraction >= _LEAST_VISIBLE)
        jitter, is_missed = rng.normal(0.0, _JITTER_PX, 4), rng.random() < _MISSED
        if is_seen[-1] and not is_missed:
            left, top, width, height = labels[0].box_xywh
            boxes.append(np.array([left, top, left + width, top + height]) + jitter)
            classes.append(item.class_id)
    depth_m = noisy_depth(rendering.depth_m, scenario.camera.fx_px, DepthNoiseConfig(), rng)
    detections = Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.full(len(boxes), 0.9, np.float32),
        np.array(classes, np.int64),
        CUBE_CLASSES,
    )
    frame = Frame(rendering.image_rgb, depth_m, scenario.camera.K, stamp_s)
    return _Shot(frame, scenario.T_base_camera, detections, np.array(is_seen))


def _perceive(
    shot: _Shot, visibility: Visibility, arm: PlacedArm, config: PerceptionConfig, table_m: float
) -> tuple[tuple[ObjectPosition, ...], Visible | None]:
    """Object positions, and the visibility that the tracker gets."""
    frame, T_base_camera = shot.frame, shot.T_base_camera
    if visibility is Visibility.ARM:
        frame = without_arm(frame, T_base_camera, arm, shot.detections, config.projection)
    positions = locate_objects(shot.detections, frame, T_base_camera, config.projection, table_height_m=table_m)
    match visibility:
        case Visibility.ARM:
            return positions, seen_past_arm(shot.frame, T_base_camera, arm, config.visibility)
        case Visibility.DEPTH:
            return positions, build_visibility(shot.frame, T_base_camera, config.visibility)
        case Visibility.NONE:
            return positions, None
        case _:
            assert_never(visibility)


def _pair(
    centres: Float[np.ndarray, "N 3"], tracks: tuple[Track, ...], names: dict[int, int]
) -> tuple[FramePairs, Float[np.ndarray, "N T"]]:
    """Cubes and confirmed tracks with their similarity, 1 at distance 0 and 1/2 at MATCH_M; `names` numbers tracks."""
    confirmed = [track for track in tracks if track.status is TrackStatus.CONFIRMED]
    ids = np.array([names.setdefault(track.track_id, len(names)) for track in confirmed], dtype=np.int64)
    places = np.array([track.p_base for track in confirmed]).reshape(-1, 3)
    distances = np.linalg.norm(centres[:, None] - places, axis=-1)
    similarity = np.maximum(1.0 - 0.5 * distances / MATCH_M, 0.0)
    return FramePairs(np.arange(len(centres)), ids, similarity), distances


def _count_lost(hidden: Float[np.ndarray, "H 3"], tracks: tuple[Track, ...]) -> int:
    """How many of these cubes have a lost track at their place."""
    lost = np.array([track.p_base for track in tracks if track.status is TrackStatus.LOST]).reshape(-1, 3)
    return int((np.linalg.norm(hidden[:, None] - lost, axis=-1).min(axis=1, initial=np.inf) <= MATCH_M).sum())


def _percentile(values: Float[np.ndarray, " E"], percent: float) -> float:
    return float(np.percentile(values, percent)) if len(values) else float("nan")
