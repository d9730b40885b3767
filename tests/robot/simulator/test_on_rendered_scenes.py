"""From the simulator's camera to positions: its geometry and its depth noise were not written for this test."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy.stats import chi2

from handeye.robot.config import WorkCellConfig
from handeye.robot.perception.camera_view import ProjectionConfig
from handeye.robot.perception.localize import locate_objects
from handeye.robot.transforms import exp_se3, make_transform
from handeye.robot.types import Frame
from handeye.vision.runtime.detections import Detections

pytest.importorskip("mujoco", reason="the simulator is not installed: pip install 'handeye[sim]'")

from handeye.robot.simulator.appearance import sample_appearance
from handeye.robot.simulator.labels import label_objects
from handeye.robot.simulator.layout import object_pose, yaw_quaternion
from handeye.robot.simulator.objects import CUBE_CLASSES, Part, Profile, SceneObject, sample_cube
from handeye.robot.simulator.renderers import Renderer, RendererKind, build_renderer
from handeye.robot.simulator.samples import View, joints_for, pose_scene, tool_looking_at, tool_rotation
from handeye.robot.simulator.scene import Scene, build_scene, place_arm
from handeye.robot.simulator.sensor_noise import DepthNoiseConfig, noisy_depth

CELL = WorkCellConfig()


def standing_cubes(
    scene: Scene, renderer: Renderer, least_visible: float = 0.95
) -> list[tuple[SceneObject, np.ndarray]]:
    """Cubes on the table of which enough is in view, with their boxes."""
    segmentation = renderer.segment(scene.data)
    found = []
    for item in [item for item in scene.objects if item.class_id is not None]:
        labels = label_objects(replace(scene, objects=(item,)), segmentation, CELL.camera, clutter=False)
        stands = abs(object_pose(scene, item)[2, 3] - 0.5 * item.edge_m) < 0.002
        if labels and stands and labels[0].visible_fraction > least_visible:
            left, top, width, height = labels[0].box_xywh
            found.append((item, np.array([left, top, left + width, top + height], dtype=np.float32)))
    return found


def take_frame(scene: Scene, renderer: Renderer, rng: np.random.Generator) -> tuple[Frame, np.ndarray]:
    """A frame with noise on its depth, and T_base_camera."""
    image = renderer.render(scene.data)
    depth_m = noisy_depth(image.depth_m, CELL.camera.fx_px, DepthNoiseConfig(), rng)
    camera = scene.data.camera("wrist")
    R_base_camera = camera.xmat.reshape(3, 3) @ np.diag([1.0, -1.0, -1.0])  # MuJoCo's cameras look along -z
    return Frame(image.image_rgb, depth_m, CELL.camera.K, 0.0), make_transform(R_base_camera, camera.xpos.copy())


@dataclass(frozen=True)
class Errors:
    """Of every cube that is seen whole: scene, distance, part of it away from the camera, normalised square, yaw."""

    seeds: np.ndarray
    position_mm: np.ndarray
    away_mm: np.ndarray
    normalised: np.ndarray
    yaw_deg: np.ndarray


def measure(seeds: range, *, hand_eye_sigmas: np.ndarray) -> Errors:
    """Errors of position and yaw over random scenes, each with its own error of the hand-eye calibration."""
    rows: list[tuple[float, ...]] = []
    renderer = build_renderer(RendererKind.RAYS, CELL.camera)
    for seed in seeds:
        rng = np.random.default_rng(seed)
        scene = pose_scene(CELL, Profile.TRAIN, [View.OVERVIEW, View.OBLIQUE][seed % 2], rng)
        renderer.load(scene)
        frame, T_base_camera = take_frame(scene, renderer, rng)
        T_believed = T_base_camera @ exp_se3(rng.normal(0.0, 1.0, 6) * hand_eye_sigmas)
        for item, box in standing_cubes(scene, renderer):
            one = Detections(box[None], np.ones(1, np.float32), np.array([item.class_id]), CUBE_CLASSES)
            (position,) = locate_objects(one, frame, T_believed, ProjectionConfig(), table_height_m=0.0)
            pose = object_pose(scene, item)
            error = position.p_base - pose[:3, 3]
            level = pose[:2, int(np.argmin(np.abs(pose[2, :3])))]
            difference = (position.yaw_rad or 0.0) - np.arctan2(level[1], level[0])
            yaw_deg = np.degrees(abs((difference + np.pi / 4) % (np.pi / 2) - np.pi / 4))
            normalised = error @ np.linalg.solve(position.covariance_base, error)
            away = (pose[:2, 3] - T_base_camera[:2, 3]) / np.linalg.norm(pose[:2, 3] - T_base_camera[:2, 3])
            rows.append((seed, 1e3 * np.linalg.norm(error), 1e3 * away @ error[:2], normalised, yaw_deg))
    renderer.close()
    return Errors(*np.array(rows).T)


def test_cubes_are_found_where_the_simulator_put_them():
    errors = measure(range(9), hand_eye_sigmas=np.zeros(6))
    assert len(errors.seeds) >= 12
    assert np.median(errors.position_mm) <= 0.6
    assert errors.position_mm.max() <= 8.0
    assert abs(errors.away_mm.mean()) < 0.5  # not drawn to the camera by holes beside the side faces that it sees
    assert np.median(errors.yaw_deg) <= 3.0
    assert np.mean(errors.normalised) < 4.0  # the calibration is perfect here, so 3 is not reached


def touching_scene(rng: np.random.Generator) -> Scene:
    """Two or three cubes of one edge in a row without a gap, and the wrist camera looking at them."""
    edge_m, yaw = rng.uniform(0.042, 0.054), rng.uniform(-np.pi / 4, np.pi / 4)
    first = rng.uniform([0.53, -0.08], [0.65, 0.05])
    step = edge_m * np.array([np.cos(yaw), np.sin(yaw)])
    cubes = []
    for number in range(int(rng.integers(2, 4))):
        look = sample_cube(rng, int(rng.integers(4)), f"object_{number}", CELL)
        x, y = first + number * step
        part = Part("box", (edge_m / 2,) * 3)
        cubes.append(replace(look, parts=(part,)).placed((float(x), float(y), edge_m / 2), yaw_quaternion(yaw)))
    scene = build_scene(CELL, cubes, sample_appearance(rng, Profile.TRAIN))
    tool = tool_rotation(rng.uniform(-np.pi, np.pi), rng.uniform(0.0, np.radians(30)), rng.uniform(-np.pi, np.pi))
    joints = joints_for(tool_looking_at(np.array([*first, 0.0]), rng.uniform(0.4, 0.65), tool, CELL), CELL)
    if joints is None:
        return touching_scene(rng)
    place_arm(scene, joints, CELL.gripper.opening_max_m)
    return scene


def touching_errors(seeds: range) -> np.ndarray:
    """Of each cube: its scene, normalised squared error and distance in mm; each scene errs in its hand-eye."""
    uncertainty = ProjectionConfig().uncertainty
    sigmas = np.repeat([uncertainty.hand_eye_translation_m, uncertainty.hand_eye_rotation_rad], 3)
    renderer, rows = build_renderer(RendererKind.RAYS, CELL.camera), []
    for seed in seeds:
        rng = np.random.default_rng([seed, 7])
        scene = touching_scene(rng)
        renderer.load(scene)
        frame, T_base_camera = take_frame(scene, renderer, rng)
        T_believed = T_base_camera @ exp_se3(rng.normal(0.0, 1.0, 6) * sigmas)
        for item, box in standing_cubes(scene, renderer, least_visible=0.7):
            jittered = (box + rng.normal(0.0, 1.5, 4)).astype(np.float32)
            one = Detections(jittered[None], np.ones(1, np.float32), np.array([item.class_id]), CUBE_CLASSES)
            (position,) = locate_objects(one, frame, T_believed, ProjectionConfig(), table_height_m=0.0)
            error = position.p_base - object_pose(scene, item)[:3, 3]
            rows.append((seed, error @ np.linalg.solve(position.covariance_base, error), 1e3 * np.linalg.norm(error)))
    return np.array(rows)


@pytest.mark.slow
def test_cubes_that_touch_state_their_errors_within_the_chi_square_band():
    scenes = range(60, 85)
    seeds, normalised, error_mm = touching_errors(scenes).T
    assert len(seeds) > 1.7 * len(scenes)
    low, high = chi2.ppf([0.005, 0.995], 3 * len(scenes)) / len(scenes)
    print(
        f"{len(seeds)} cubes: {normalised.mean():.2f} in {low:.2f} to {high:.2f}; median {np.median(error_mm):.2f} mm"
    )
    assert low < normalised.mean() < high
    assert np.mean(normalised > chi2.ppf(0.99, 3)) < 0.04


@pytest.mark.long
def test_over_300_scenes_positions_are_as_good_as_promised_and_their_covariance_is_honest():
    uncertainty = ProjectionConfig().uncertainty
    sigmas = np.repeat([uncertainty.hand_eye_translation_m, uncertainty.hand_eye_rotation_rad], 3)
    errors = measure(range(300), hand_eye_sigmas=sigmas)
    num_scenes = len(np.unique(errors.seeds))
    median_mm, worst_mm = np.percentile(errors.position_mm, [50, 95])
    print(f"{len(errors.seeds)} cubes in {num_scenes} scenes: median {median_mm:.2f} mm, p95 {worst_mm:.2f} mm")
    print(
        f"normalised error squared: mean {errors.normalised.mean():.2f}, yaw median {np.median(errors.yaw_deg):.2f} deg"
    )
    assert median_mm <= 3.0
    assert worst_mm <= 8.0
    # Cubes of one scene share one calibration error: the scenes are the witnesses.
    low, high = chi2.ppf([0.005, 0.995], 3 * num_scenes) / num_scenes
    beyond_gate = np.mean(errors.normalised > chi2.ppf(0.99, 3))
    print(f"99 % band of the mean: {low:.2f} to {high:.2f}; beyond the 99 % gate: {beyond_gate:.3f} of the cubes")
    assert errors.normalised.mean() <= high
    assert beyond_gate <= 0.03
