"""Depth of the arm measures nothing else: a hand before a cube is not taken for it, and what ends there is cut off."""

from __future__ import annotations

import numpy as np
import pytest

from handeye.robot.config import CameraConfig, WorkCellConfig
from handeye.robot.kinematics.collision_geometry import ArmShape
from handeye.robot.perception.camera_view import ProjectionConfig
from handeye.robot.perception.localize import locate_objects
from handeye.robot.perception.occlusion import without_arm
from handeye.robot.types import Frame
from handeye.vision.runtime.detections import Detections

pytest.importorskip("mujoco", reason="the simulator is not installed: pip install 'handeye[sim]'")

from handeye.robot.simulator.labels import label_objects
from handeye.robot.simulator.layout import object_pose
from handeye.robot.simulator.objects import CUBE_CLASSES
from handeye.robot.simulator.renderers import build_renderer
from handeye.robot.simulator.rendering import RendererKind
from handeye.robot.simulator.tracking_scenarios import Scenario, ScenarioKind, sample_scenario

CELL = WorkCellConfig(camera=CameraConfig(width_px=320, height_px=240, cx_px=159.5, cy_px=119.5))
CONFIG = ProjectionConfig()


def boxes_of(course: Scenario, geom_ids: np.ndarray) -> Detections:
    """Boxes around what is seen of the cubes of which a third is."""
    labels = label_objects(course.scene, geom_ids, course.camera, clutter=False, camera_name=course.camera_name)
    rows = [(label.box_xywh, label.class_id) for label in labels if label.visible_fraction > 1 / 3]
    corners = np.array([[x, y, x + w, y + h] for (x, y, w, h), _ in rows], np.float32).reshape(-1, 4)
    return Detections(corners, np.ones(len(rows), np.float32), np.array([label for _, label in rows]), CUBE_CLASSES)


def one_box(*corners: float) -> Detections:
    return Detections(np.array([corners], np.float32), np.ones(1, np.float32), np.zeros(1, np.int64), CUBE_CLASSES)


def worst_errors_m(course: Scenario, moments: slice) -> np.ndarray:
    """Per moment, how far the worst placed cube is from any: by depth as it is, and by what is not the arm's."""
    renderer = build_renderer(RendererKind.RAYS, course.camera, camera_name=course.camera_name)
    renderer.load(course.scene)
    worst = []
    for moment in course.moments[moments]:
        course.pose(moment)
        centres = np.array([object_pose(course.scene, item)[:3, 3] for item in course.scene.objects])
        found, rendered = boxes_of(course, renderer.segment(course.scene.data)), renderer.render(course.scene.data)
        depth_m = np.where(np.isfinite(rendered.depth_m), rendered.depth_m, np.nan).astype(np.float32)
        raw = Frame(rendered.image_rgb, depth_m, course.camera.K, 0.0)
        arm = ArmShape(CELL).place(moment.qpos, moment.opening_m)
        filtered = without_arm(raw, course.T_base_camera, arm, found, CONFIG)
        positions = [
            locate_objects(found, frame, course.T_base_camera, CONFIG, table_height_m=0.0) for frame in (raw, filtered)
        ]
        assert len(positions[0]) == len(positions[1])
        worst.append([max(np.linalg.norm(centres - p.p_base, axis=1).min() for p in own) for own in positions])
    return np.array(worst)


def test_a_hand_partly_before_a_cube_is_not_taken_for_it() -> None:
    as_it_is, filtered = worst_errors_m(sample_scenario(ScenarioKind.ARM, CELL, 0), slice(8, 18)).T
    assert as_it_is.max() > 0.1  # on the palm, which fills most of the cube's box
    assert filtered.max() < 0.02
    assert np.median(filtered) < 0.003


def test_fingers_that_push_a_cube_are_no_part_of_it() -> None:
    as_it_is, filtered = worst_errors_m(sample_scenario(ScenarioKind.PUSH, CELL, 1), slice(19, 31, 3)).T
    assert np.median(as_it_is) > 0.0045
    assert np.median(filtered) < 0.0035


def test_only_readings_in_and_around_boxes_and_on_the_arm_are_taken_out() -> None:
    course = sample_scenario(ScenarioKind.ARM, CELL, 0)
    moment = course.moments[24]
    course.pose(moment)
    renderer = build_renderer(RendererKind.RAYS, course.camera, camera_name=course.camera_name)
    renderer.load(course.scene)
    geom_ids, depth_m = renderer.segment(course.scene.data), renderer.render(course.scene.data).depth_m
    frame = Frame(np.zeros((240, 320, 3), np.uint8), depth_m, course.camera.K, 0.0)
    arm = ArmShape(CELL).place(moment.qpos, moment.opening_m)
    nothing = Detections.empty(CUBE_CLASSES)
    assert without_arm(frame, course.T_base_camera, arm, nothing, CONFIG).depth_m is not depth_m
    np.testing.assert_array_equal(without_arm(frame, course.T_base_camera, arm, nothing, CONFIG).depth_m, depth_m)
    whole = one_box(0, 0, 320, 240)
    taken = without_arm(frame, course.T_base_camera, arm, whole, CONFIG).depth_m < 0.0
    is_arm = course.scene.model.geom_contype[geom_ids] == 2
    assert taken[is_arm].mean() > 0.999
    assert taken[~is_arm].mean() < 0.01  # what is near the arm within the sensor's noise


def test_cubes_under_the_home_pose_lose_no_reading() -> None:
    course = sample_scenario(ScenarioKind.CROSSING, CELL, 0)
    moment = course.moments[0]
    course.pose(moment)
    depth_m = np.full((240, 320), 0.5, np.float32)
    frame = Frame(np.zeros((240, 320, 3), np.uint8), depth_m, course.camera.K, 0.0)
    whole = one_box(40, 0, 280, 160)
    arm = ArmShape(CELL).place(moment.qpos, moment.opening_m)
    assert (without_arm(frame, course.T_base_camera, arm, whole, CONFIG).depth_m > 0.0).all()
