"""From the simulator's camera to positions: its geometry and its depth noise were not written for this test."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from robot.config import WorkCellConfig
from robot.observation import Frame
from robot.projection.object_positions import locate_objects
from robot.projection.view import ProjectionConfig
from robot.transforms import make_transform
from vision.runtime.detections import Detections

pytest.importorskip("mujoco", reason="the simulator is not installed: pip install 'handeye[sim]'")

from robot.simulator.depth_noise import DepthNoiseConfig, noisy_depth
from robot.simulator.examples import View, pose_scene
from robot.simulator.labels import label_objects
from robot.simulator.layout import object_pose
from robot.simulator.objects import CUBE_CLASSES, Profile, SceneObject
from robot.simulator.rendering import Renderer, RendererKind, build_renderer
from robot.simulator.scene import Scene

CELL = WorkCellConfig()


def standing_cubes(scene: Scene, renderer: Renderer) -> list[tuple[SceneObject, np.ndarray]]:
    """Cubes on the table that are almost wholly in view, with their boxes."""
    segmentation = renderer.segment(scene.data)
    found = []
    for item in [item for item in scene.objects if item.class_id is not None]:
        labels = label_objects(replace(scene, objects=(item,)), segmentation, CELL.camera, clutter=False)
        stands = abs(object_pose(scene, item)[2, 3] - 0.5 * item.edge_m) < 0.002
        if labels and stands and labels[0].visible_fraction > 0.95:
            left, top, width, height = labels[0].box_xywh
            found.append((item, np.array([left, top, left + width, top + height], dtype=np.float32)))
    return found


def take_frame(scene: Scene, renderer: Renderer, rng: np.random.Generator) -> tuple[Frame, np.ndarray]:
    """A frame with noise on its depth, and T_base_camera."""
    picture = renderer.render(scene.data)
    depth_m = noisy_depth(picture.depth_m, CELL.camera.fx_px, DepthNoiseConfig(), rng)
    camera = scene.data.camera("wrist")
    R_base_camera = camera.xmat.reshape(3, 3) @ np.diag([1.0, -1.0, -1.0])  # MuJoCo's cameras look along -z
    return Frame(picture.image_rgb, depth_m, CELL.camera.K, 0.0), make_transform(R_base_camera, camera.xpos.copy())


def test_cubes_are_found_where_the_simulator_put_them():
    errors_mm, normalised, yaw_errors_deg = [], [], []
    renderer = build_renderer(RendererKind.RAYS, CELL.camera)
    for seed in range(6):
        rng = np.random.default_rng(seed)
        scene = pose_scene(CELL, Profile.TRAIN, [View.OVERVIEW, View.OBLIQUE][seed % 2], rng)
        renderer.load(scene)
        frame, T_base_camera = take_frame(scene, renderer, rng)
        for item, box in standing_cubes(scene, renderer):
            one = Detections(box[None], np.ones(1, np.float32), np.array([item.class_id]), CUBE_CLASSES)
            (position,) = locate_objects(one, frame, T_base_camera, ProjectionConfig(), table_height_m=0.0)
            pose = object_pose(scene, item)
            error = position.p_base - pose[:3, 3]
            errors_mm.append(1e3 * np.linalg.norm(error))
            normalised.append(error @ np.linalg.solve(position.covariance_base, error))
            level = pose[:2, int(np.argmin(np.abs(pose[2, :3])))]
            difference = (position.yaw_rad or 0.0) - np.arctan2(level[1], level[0])
            yaw_errors_deg.append(np.degrees(abs((difference + np.pi / 4) % (np.pi / 2) - np.pi / 4)))
    renderer.close()
    assert len(errors_mm) >= 12
    assert np.median(errors_mm) <= 3.0
    assert max(errors_mm) <= 8.0
    assert np.median(yaw_errors_deg) <= 3.0
    assert np.mean(normalised) < 4.0  # the calibration is perfect here, so 3 is not reached
