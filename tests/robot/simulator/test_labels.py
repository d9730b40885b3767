"""Boxes from pixels: whole, hidden and cut-off cubes, and agreement with the projected corners."""

from __future__ import annotations

import numpy as np

from handeye.robot.config import WorkCellConfig
from handeye.robot.simulator.labels import Label, label_objects
from handeye.robot.simulator.objects import CLUTTER_CLASS_ID, Part, SceneObject
from handeye.robot.simulator.ray_renderer import RayRenderer
from handeye.robot.simulator.scene import Scene, build_scene
from tests.robot.simulator.conftest import make_cube
from tests.robot.simulator.test_rendering import plain_look, project

EDGE_M = 0.05


def labels_of(cell: WorkCellConfig, *objects: SceneObject) -> tuple[Scene, list[Label]]:
    scene = build_scene(cell, objects, plain_look())
    renderer = RayRenderer(cell.camera)
    renderer.load(scene)
    return scene, label_objects(scene, renderer.segment(scene.data), cell.camera, clutter=False)


def test_box_of_a_free_cube_is_that_of_its_projected_corners(cell: WorkCellConfig) -> None:
    centre = np.array([0.55, 0.12, EDGE_M / 2])
    scene, (label,) = labels_of(cell, make_cube(EDGE_M, tuple(centre)))
    offsets = EDGE_M / 2 * np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    pixels = np.array([project(scene, cell.camera, centre + offset)[:2] for offset in offsets])
    left, top, width, height = label.box_xywh
    # A pixel counts when its centre is covered; the box reaches half a pixel beyond its outermost centres.
    np.testing.assert_allclose([left - 0.5, top - 0.5], pixels.min(0), atol=0.55)
    np.testing.assert_allclose([left + width - 0.5, top + height - 0.5], pixels.max(0), atol=0.55)
    assert label.visible_fraction > 0.97
    assert not label.is_ignored


def test_hidden_cube_is_ignored_and_half_hidden_one_counts_with_its_visible_box(cell: WorkCellConfig) -> None:
    cube = make_cube(EDGE_M, (0.55, 0.0, EDGE_M / 2))
    free = labels_of(cell, cube)[1][0]
    fractions = []
    for offset in (0.0, 0.03):
        lid = Part("box", (0.06, 0.03, 0.002), pos=(0.0, offset, 0.0))
        cover = SceneObject("object_1", (lid,), (0.1, 0.1, 0.1, 1.0), 0.05, 0.002, 0.07).placed((0.55, 0.0, 0.07))
        found = labels_of(cell, cube, cover)[1]
        fractions.append(found[0].visible_fraction if found else 0.0)
        if offset > 0:
            assert found[0].box_xywh[2] < 0.75 * free.box_xywh[2]
            assert not found[0].is_ignored
        else:
            assert not found or found[0].is_ignored
    assert fractions[0] < 0.25 < fractions[1] < 0.75


def test_cube_at_the_border_is_cut_off_there_and_its_fraction_says_so(cell: WorkCellConfig) -> None:
    scene = build_scene(cell, [], plain_look())
    pose = scene.data.cam("wrist")
    right_edge = np.linalg.inv(cell.camera.K) @ [cell.camera.width_px - 0.5, 240.0, 1.0]
    ray = (pose.xmat.reshape(3, 3) * [1, -1, -1]) @ right_edge
    x, y, z = pose.xpos + ray * (pose.xpos[2] - EDGE_M / 2) / -ray[2]
    (label,) = labels_of(cell, make_cube(EDGE_M, (float(x), float(y), float(z))))[1]
    assert label.box_xywh[0] + label.box_xywh[2] == cell.camera.width_px
    assert 0.3 < label.visible_fraction < 0.7


def test_distractors_and_cubes_out_of_sight_have_no_label(cell: WorkCellConfig) -> None:
    away = make_cube(EDGE_M, (-0.3, 0.5, EDGE_M / 2))
    other = make_cube(EDGE_M, (0.55, 0.0, EDGE_M / 2), class_id=None, name="object_1")
    assert labels_of(cell, away, other)[1] == []


def test_small_boxes_and_cubes_that_touch_the_lens_are_ignored(cell: WorkCellConfig) -> None:
    assert Label(0, (10, 10, 5, 30), 100, 1.0).is_ignored
    assert not Label(0, (10, 10, 6, 30), 100, 1.0).is_ignored
    scene = build_scene(cell, [], plain_look())
    pose = scene.data.cam("wrist")
    x, y, z = pose.xpos - pose.xmat.reshape(3, 3)[:, 2] * 0.04
    found = labels_of(cell, make_cube(EDGE_M, (float(x), float(y), float(z))))[1]
    assert all(label.is_ignored for label in found)


def test_clutter_is_labelled_on_request_with_the_box_of_all_its_parts(cell: WorkCellConfig) -> None:
    parts = (Part("sphere", (0.02,)), Part("cylinder", (0.01, 0.03), pos=(0.03, 0.0, 0.0)))
    odd = SceneObject("object_0", parts, (0.8, 0.1, 0.1, 1.0), 0.05, 0.03, 0.05).placed((0.55, 0.0, 0.03))
    scene = build_scene(cell, [odd], plain_look())
    renderer = RayRenderer(cell.camera)
    renderer.load(scene)
    geom_ids = renderer.segment(scene.data)
    assert label_objects(scene, geom_ids, cell.camera, clutter=False) == []
    (label,) = label_objects(scene, geom_ids, cell.camera, clutter=True)
    seen = np.argwhere(np.isin(geom_ids, [scene.model.geom(f"object_0_{number}").id for number in (0, 1)]))
    (top, left), (bottom, right) = seen.min(0), seen.max(0)
    assert label.class_id == CLUTTER_CLASS_ID
    assert label.box_xywh == (left, top, right + 1 - left, bottom + 1 - top)
    assert 0.5 < label.visible_fraction <= 1.0
