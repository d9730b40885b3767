"""What the arm hides, by its joints: against the simulator's rays, and by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from handeye.robot.config import CameraConfig, WorkCellConfig
from handeye.robot.kinematics.collision_geometry import ArmShape, PlacedArm, lines_cut, occluded_by_arm, points_on_arm
from handeye.robot.kinematics.forward import forward_kinematics
from handeye.robot.kinematics.limits import UR10E_LIMITS
from handeye.robot.perception.camera_view import pixel_rays
from handeye.robot.transforms import apply_transform, make_transform, translation

CELL = WorkCellConfig()
HOME = np.array(CELL.home_qpos)


def arm_of(*, cylinder: tuple | None = None, box: np.ndarray | None = None, is_round: bool = False) -> PlacedArm:
    """An arm of one solid: a cylinder from z = 0 to 1 at x = 1, or a box of 0.2 m there."""
    starts, ends, radius = ([[1.0, 0.0, 0.0]], [[1.0, 0.0, 1.0]], [0.1]) if cylinder is None else cylinder
    boxes = np.zeros((0, 4, 4)) if box is None else box[None]
    kept = slice(None) if box is None else slice(0, 0)
    return PlacedArm(
        np.array(starts)[kept],
        np.array(ends)[kept],
        np.array(radius)[kept],
        np.array([is_round])[kept],
        boxes,
        np.full((len(boxes), 3), 0.1),
    )


@pytest.mark.parametrize(
    ("point", "is_round", "is_cut"),
    [
        ((2.0, 0.0, 0.5), False, True),
        ((0.85, 0.0, 0.5), False, False),  # before it
        ((2.0, 0.25, 0.5), False, False),  # beside it
        ((2.0, 0.0, 1.06), False, False),  # over its flat end, in which a round one would be
        ((2.0, 0.0, 1.06), True, True),
        ((2.0, 0.0, 1.3), True, False),
        ((-2.0, 0.0, 0.5), False, False),  # behind the eye
    ],
)
def test_a_cylinder_cuts_what_leads_through_it(point: tuple[float, float, float], is_round: bool, is_cut: bool) -> None:
    eye = np.array([0.0, 0.0, point[2]])
    assert lines_cut(eye, np.array([point]), arm_of(is_round=is_round)).tolist() == [is_cut]


def test_a_line_along_the_axis_and_an_eye_inside_are_cut() -> None:
    along = lines_cut(np.array([1.0, 0.0, -1.0]), np.array([[1.0, 0.0, 2.0], [1.0, 0.0, -0.5]]), arm_of())
    assert along.tolist() == [True, False]
    assert lines_cut(np.array([1.0, 0.0, 0.5]), np.array([[5.0, 0.0, 0.5]]), arm_of()).all()


def test_a_turned_box_cuts_by_its_faces() -> None:
    c = np.sqrt(0.5)
    turned = make_transform(np.array([[c, -c, 0.0], [c, c, 0.0], [0.0, 0.0, 1.0]]), np.array([1.0, 0.0, 0.0]))
    points = np.array([[2.0, 0.0, 0.0], [1.0, 0.13, 0.0], [1.0, 0.15, 0.0], [0.8, 0.0, 0.0], [1.0, 0.11, 0.11]])
    eye = points - [0.5, 0.0, 0.0]
    cut = [bool(lines_cut(e, p[None], arm_of(box=turned))[0]) for e, p in zip(eye, points, strict=True)]
    assert cut == [False, True, False, False, False]
    assert lines_cut(np.zeros(3), points[:1], arm_of(box=turned)).all()


def test_the_hand_over_a_cube_hides_it_from_above_and_not_from_the_wrist_camera() -> None:
    shape = ArmShape(CELL)
    arm = shape.place(HOME, CELL.gripper.opening_max_m)
    tcp = (_tool(HOME) @ CELL.T_tool_tcp)[:3, 3]
    below = np.array([tcp[0], tcp[1], 0.025])
    above = translation(tcp[0], tcp[1], 1.5)
    assert occluded_by_arm(below, above, arm, radius_m=0.03)
    assert not occluded_by_arm(below + [0.0, 0.3, 0.0], above, arm, radius_m=0.03)
    assert not occluded_by_arm(below, _tool(HOME) @ CELL.T_tool_camera, arm, radius_m=0.03)


def test_fingers_hide_by_where_they_are() -> None:
    """Seen from the wrist camera a point behind a finger is free when the fingers are elsewhere."""
    T_base_camera = _tool(HOME) @ CELL.T_tool_camera
    behind = (_tool(HOME) @ np.array([0.05, 0.06, 0.2, 1.0]))[:3]
    shape = ArmShape(CELL)
    assert occluded_by_arm(behind, T_base_camera, shape.place(HOME, 0.06), radius_m=0.003)
    assert not occluded_by_arm(behind, T_base_camera, shape.place(HOME, 0.0), radius_m=0.003)


def _tool(qpos: np.ndarray) -> np.ndarray:
    return forward_kinematics(qpos)


def test_points_lie_on_the_arm_within_their_margin() -> None:
    points = np.array([[1.0, 0.0, 0.5], [1.12, 0.0, 0.5], [1.0, 0.05, 1.02], [1.0, 0.0, 1.2], [1.0, 0.0, -0.11]])
    assert points_on_arm(points, arm_of(), np.zeros(5)).tolist() == [True, False, False, False, False]
    assert points_on_arm(points, arm_of(), np.full(5, 0.03)).tolist() == [True, True, True, False, False]
    box = arm_of(box=translation(1.0, 0.0, 0.5))
    assert points_on_arm(points, box, np.array([0.0, 0.01, 0.5, 0.65, 0.0])).tolist() == [
        True,
        False,
        True,
        True,
        False,
    ]
    assert points_on_arm(np.zeros((0, 3)), arm_of(), np.zeros(0)).shape == (0,)


def test_what_the_camera_reads_off_the_arm_lies_on_it_and_nothing_else_does() -> None:
    """Depth of a rendered hand before the outside camera, by the geoms that its pixels show."""
    pytest.importorskip("mujoco", reason="the simulator is not installed: pip install 'handeye[sim]'")
    from handeye.robot.simulator.renderers import RendererKind, build_renderer
    from handeye.robot.simulator.tracking_scenarios import ScenarioKind, sample_scenario

    small = WorkCellConfig(camera=CameraConfig(width_px=320, height_px=240, cx_px=159.5, cy_px=119.5))
    scenario = sample_scenario(ScenarioKind.ARM, small, 0)
    keyframe = scenario.keyframes[24]
    scenario.pose(keyframe)
    renderer = build_renderer(RendererKind.RAYS, scenario.camera, camera_name=scenario.camera_name)
    renderer.load(scenario.scene)
    depth_m, geom_ids = renderer.render(scenario.scene.data).depth_m, renderer.segment(scenario.scene.data)
    rows, columns = np.nonzero(np.isfinite(depth_m))
    rays = pixel_rays(np.stack([columns, rows], axis=1).astype(np.float64), scenario.camera.K)
    points = apply_transform(scenario.T_base_camera, rays * depth_m[rows, columns, None].astype(np.float64))
    arm = ArmShape(small).place(keyframe.qpos, keyframe.opening_m)
    found = points_on_arm(points, arm, np.full(len(points), 1e-4))
    is_arm = scenario.scene.model.geom_contype[geom_ids[rows, columns]] == 2
    assert 0.02 < is_arm.mean() < 0.5
    assert np.mean(found != is_arm) < 0.002


def test_on_random_configurations_lines_are_cut_as_the_simulator_casts_them() -> None:
    """MuJoCo's mj_ray through the simulated arm, which was compiled from these shapes by another program."""
    mujoco = pytest.importorskip("mujoco", reason="the simulator is not installed: pip install 'handeye[sim]'")
    from handeye.robot.simulator.appearance import sample_appearance
    from handeye.robot.simulator.objects import Profile
    from handeye.robot.simulator.scene import build_scene, place_arm

    rng = np.random.default_rng(0)
    scene, shape = build_scene(CELL, (), sample_appearance(rng, Profile.TRAIN)), ArmShape(CELL)
    # Arm and hand collide as group 2 in contype; table, bin and floor do not belong to it.
    is_arm = scene.model.geom_contype == 2
    num_cut, different = 0, []
    for _ in range(400):
        qpos = rng.uniform(UR10E_LIMITS.qpos_low, UR10E_LIMITS.qpos_high)
        opening_m = rng.uniform(0.0, CELL.gripper.opening_max_m)
        place_arm(scene, qpos, opening_m)
        arm = shape.place(qpos, opening_m)
        eye, points = rng.uniform(-1.5, 1.5, 3), _points_near(arm, rng)
        ours = lines_cut(eye, points, arm)
        theirs = np.array([_first_arm_hit(mujoco, scene, eye, point, is_arm) for point in points])
        num_cut += int(theirs.sum())
        different.extend((ours != theirs).tolist())
    assert 0.2 * len(different) < num_cut < 0.8 * len(different)
    assert np.mean(different) < 0.002


def _points_near(arm: PlacedArm, rng: np.random.Generator) -> np.ndarray:
    """Ten points around parts of the arm, before, in and behind it."""
    middles = np.concatenate([0.5 * (arm.starts + arm.ends), arm.T_base_box[:, :3, 3]])
    return rng.choice(middles, 10) + rng.normal(0.0, 0.12, (10, 3))


def _first_arm_hit(mujoco: Any, scene: Any, eye: np.ndarray, point: np.ndarray, is_arm: np.ndarray) -> bool:
    """Whether a ray from eye meets a geom of the arm before it has gone as far as the point."""
    way = point - eye
    length = float(np.linalg.norm(way))
    geom, start, gone = np.zeros(1, np.int32), eye.copy(), 0.0
    while gone < length:
        distance = mujoco.mj_ray(scene.model, scene.data, start, way / length, None, 1, -1, geom)
        if distance < 0 or gone + distance > length:
            return False
        if is_arm[geom[0]]:
            return True
        gone += distance + 1e-6
        start = eye + gone * way / length
    return False
